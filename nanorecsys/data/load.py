"""From a name, folder or file to a data set: fetch, read, number, sort."""

import difflib
import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Interactions
from nanorecsys.data.read import (
    EventTable,
    Source,
    duplicate_error,
    find_movielens,
    open_events,
    read_events,
    read_movies,
)
from nanorecsys.data.registry import DATASETS, fetch

DEFAULT_DATASET = "ml-latest-small-2016"
_TABLE_SUFFIXES = (".csv", ".dat", ".parquet")


def load_dataset(dataset: str | Path = DEFAULT_DATASET, columns: str | None = None) -> Dataset:
    """The interactions and items of a data set, numbered and sorted.

    Args:
        dataset: a registered name (`registry.DATASETS`); or a folder or .zip in MovieLens layout
            (ratings.csv or ratings.dat, optionally movies.csv or movies.dat, at the top or one
            folder deep); or one .csv, .dat or .parquet file of events. A registered name wins over
            a folder of that name: ./name is the folder.
        columns: for a .csv or .parquet file, which column is what: "user=uid,item=sku,timestamp=t",
            with rating=... where there is one (otherwise every rating is 1). Ids may be text.

    Raises:
        DataError: anything wrong with the name, the download, the file or a value in it; names file
            and line.

    >>> data = load_dataset()
    >>> len(data.interactions), data.interactions.n_users, data.interactions.n_items
    (100004, 671, 9066)
    """
    name, path = str(dataset), Path(dataset)
    if name in DATASETS:
        path = fetch(name)
    elif not path.exists():
        raise _not_found(name)
    else:
        name = path.resolve().name if path.is_dir() else path.stem
    try:
        return _load(name, path, columns)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}",
            "Check that it is there and that you may read it.",
        ) from error


def _load(name: str, path: Path, columns: str | None) -> Dataset:
    if path.is_file() and path.suffix.lower() in _TABLE_SUFFIXES:
        table = open_events(Source(str(path), path), columns)
        return build_dataset(name, table, read_events(table), movies=None)
    if not path.is_dir() and path.suffix.lower() != ".zip":
        raise DataError(
            f"{path}: expected a folder, or a file that ends in .zip{', '.join(('', *_TABLE_SUFFIXES))}",
            "Convert it, or give it the ending of what it is.",
        )
    if columns is not None:
        raise DataError(
            f"columns={columns!r} was given with {name}, whose columns are MovieLens' own",
            "Leave columns out, or give the .csv or .parquet file itself.",
        )
    ratings, movies = find_movielens(path)
    table = open_events(ratings)
    return build_dataset(name, table, read_events(table), movies)


def build_dataset(
    name: str, table: EventTable, events: pl.DataFrame, movies: Source | None
) -> Dataset:
    """The data set of a table's events, numbered and sorted, and, where there is one, of a movies file.

    Raises:
        DataError: an event that occurs twice, fewer than two users, or a bad movies file.
    """
    user_ids, user = _number(events["user"])
    item_ids, item = _number(events["item"])
    timestamp = events["timestamp"].to_numpy()
    rating = events["rating"].to_numpy()
    if len(user_ids) < 2:
        raise DataError(
            f"{table.source.label}: all {len(user)} events are of one user, {user_ids[0]}",
            "Recommending needs the events of two users or more: check which column is the user.",
        )
    order = _order(user, timestamp, item)
    user, item, rating, timestamp = user[order], item[order], rating[order], timestamp[order]
    twice = np.flatnonzero(
        (user[1:] == user[:-1]) & (item[1:] == item[:-1]) & (timestamp[1:] == timestamp[:-1])
    )
    if len(twice):
        i = twice[0]
        raise duplicate_error(
            table, user_ids[int(user[i])], item_ids[int(item[i])], int(timestamp[i])
        )
    return Dataset(
        name,
        Interactions(user, item, rating, timestamp, ids_sha256(user_ids, item_ids)),
        pl.DataFrame({"user": _numbers(user_ids), "user_id": user_ids}),
        _items(item_ids, movies),
    )


def ids_sha256(user_ids: pl.Series, item_ids: pl.Series) -> str:
    """sha256 over the raw ids of users and of items, each in the order of their numbers, as JSON lists."""
    return hashlib.sha256(json.dumps([user_ids.to_list(), item_ids.to_list()]).encode()).hexdigest()


def _number(raw: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The distinct raw ids in order (numbers by value, text by its UTF-8 bytes), and each row's place in it."""
    ids = raw.unique().sort()
    numbers = pl.DataFrame({"id": ids, "number": _numbers(ids)})
    rows = pl.DataFrame({"id": raw}).join(numbers, on="id", how="left", maintain_order="left")
    return ids, rows["number"].to_numpy()


def _numbers(ids: pl.Series) -> pl.Series:
    return pl.int_range(len(ids), dtype=pl.Int32, eager=True)


def _order(user: np.ndarray, timestamp: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The rows in the order of (user, timestamp, item)."""
    # 3 times as fast as np.lexsort at 20M rows
    rows = pl.select(user=user, timestamp=timestamp, item=item)
    return rows.select(pl.arg_sort_by("user", "timestamp", "item")).to_series().to_numpy()


def _items(item_ids: pl.Series, movies: Source | None) -> pl.DataFrame:
    items = pl.DataFrame({"item": _numbers(item_ids), "item_id": item_ids})
    if movies is None:
        known = pl.DataFrame(
            schema={
                "item_id": item_ids.dtype,
                "title": pl.String,
                "year": pl.Int16,
                "genres": pl.List(pl.String),
            }
        )
    else:
        known = read_movies(movies)
    return items.join(known, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("title").fill_null(pl.col("item_id").cast(pl.String)),
        pl.col("genres").fill_null(pl.lit([], dtype=pl.List(pl.String))),
    )


def _not_found(name: str) -> DataError:
    names = list(DATASETS)
    parent = Path(name).parent
    beside = [str(parent / entry.name) for entry in parent.iterdir()] if parent.is_dir() else []
    nearest = difflib.get_close_matches(name, names, 1, 0.5) or difflib.get_close_matches(
        name, beside, 1, 0.7
    )
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    return DataError(
        f"no data set, folder or file {name!r}",
        f"{hint}Registered: {', '.join(names)}; or give the path of a folder, .zip, .csv, .dat or .parquet.",
    )
