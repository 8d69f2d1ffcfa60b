"""From a name, folder or file to a data set: fetch, read, number, sort, sample users."""

import difflib
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from nanorecsys.data import read
from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Interactions
from nanorecsys.data.registry import DATASETS, DEFAULT_DATASET, fetch

FEWEST_USERS = FEWEST_ITEMS = 50  # what samples, splits and indexes of the later chapters need


def load_dataset(
    dataset: str | Path = DEFAULT_DATASET, columns: str | None = None, duplicates: str = "error"
) -> Dataset:
    """Load a data set, numbered and sorted.

    Args:
        dataset: A registered name (`registry.DATASETS`); or a folder or .zip in MovieLens layout
            (a ratings file, optionally its movies file, at the top or one folder deep) or with the
            parts of one table, as Spark writes them; or one file of events: parquet, or text with
            any of the separators , ; | tab and ::, compressed or not. A registered name wins over a
            folder of that name: ./name is the folder.
        columns: Column names of a table, such as "user=uid,item=sku,timestamp=t", with rating=...
            where there is one (otherwise every rating is 1). Ids may be text.
        duplicates: "error" refuses a table in which an event occurs twice, and "keep_first" keeps
            the first row of each event.

    Raises:
        DataError: anything wrong with the name, the download, the file or a value in it; names file
            and line.

    >>> data = load_dataset()
    >>> len(data.interactions), data.interactions.n_users, data.interactions.n_items
    (100004, 671, 9066)
    """
    if duplicates not in ("error", "keep_first"):
        raise DataError(f"duplicates is {duplicates!r}", "Use 'error' or 'keep_first'.")
    name, path = str(dataset), Path(dataset)
    if name in DATASETS:
        path = fetch(name)
    elif not path.exists():
        raise _not_found(name)
    else:
        name = path.resolve().name if path.is_dir() else path.stem
    try:
        sources, movies = read.find_events(path)
        table = read.open_events(sources[0], columns, sources[1:])
        return build_dataset(name, table, read.read_events(table), movies, duplicates)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DataError(
            f"{path}: cannot be read: {reason}",
            "Check that it is whole, and that you may read it.",
        ) from error


def build_dataset(
    name: str,
    table: read.EventTable,
    events: pa.Table,
    movies: read.DataFile | None,
    duplicates: str = "error",
) -> Dataset:
    """Number and sort a table's events, and add the titles of a movies file where there is one.

    Args:
        name: Name of the data set.
        table: The table that the events were read from, for errors.
        events: Columns user, item, rating and timestamp, see `read_events`.
        movies: The movies file.
        duplicates: "error" or "keep_first", see `load_dataset`.

    Raises:
        DataError: an event that occurs twice, fewer than two users, or a bad movies file.
    """
    user, user_ids = pd.factorize(events["user"].to_pandas(), sort=True)
    item, item_ids = pd.factorize(events["item"].to_pandas(), sort=True)
    if len(user_ids) < 2:
        raise DataError(
            f"{table.source.label}: all {len(user)} events are of one user, {user_ids[0]}",
            "Recommending needs the events of two users or more: check which column is the user.",
        )
    timestamp = events["timestamp"].to_numpy()
    order = np.lexsort((item, timestamp, user))
    user, item = (numbers[order].astype(np.int32) for numbers in (user, item))
    timestamp, rating = timestamp[order], events["rating"].to_numpy()[order]
    same = (user[1:] == user[:-1]) & (item[1:] == item[:-1]) & (timestamp[1:] == timestamp[:-1])
    if same.any() and duplicates == "error":
        first = int(same.argmax())
        copies = int(same[first:].argmin()) or len(same) - first
        event = f"user {user_ids[user[first]]}, item {item_ids[item[first]]}"
        raise DataError(
            f"{read.name_rows(table, order[first : first + copies + 1])}: the same event "
            f"({event}, timestamp {timestamp[first]}); "
            f"{same.sum():,} of {len(order):,} events repeat an earlier one",
            'Delete them, or keep the first of each by the option duplicates="keep_first".',
        )
    if same.any():
        kept = np.append(True, ~same)
        user, item, rating, timestamp = (c[kept] for c in (user, item, rating, timestamp))
    if timestamp.dtype.kind == "M":  # fractions of a second have served to sort and to compare
        timestamp = timestamp.astype("datetime64[s]").astype(np.int64)
    users = pd.DataFrame({"user": np.arange(len(user_ids), dtype=np.int32), "user_id": user_ids})
    items = _items(item_ids, read.read_movies(movies) if movies else {})
    ids_hash = ids_sha256(users["user_id"], items["item_id"])
    return Dataset(name, Interactions(user, item, rating, timestamp, ids_hash), users, items)


def sample_users(dataset: Dataset, users: int, seed: int = 0) -> Dataset:
    """Draw users at random, each with the whole history, and renumber them and their items.

    Args:
        dataset: The data set to draw from.
        users: Number of users, at least 2.
        seed: Random seed of the draw.

    Returns:
        A data set whose name says that it is a sample, since nothing published of the whole is true
        of it. The whole data set if it has no more users than that.

    Raises:
        DataError: fewer than two users are asked for.

    >>> small = sample_users(load_dataset(), 100)
    >>> small.name, small.interactions.n_users, len(small.items) == small.interactions.n_items
    ('ml-latest-small-2016, 100 users', 100, True)
    """
    events = dataset.interactions
    if users < 2:
        raise DataError(f"sample_users is {users}", "Give 2 or more, or 0 for all users.")
    if users >= events.n_users:
        return dataset
    drawn = np.random.default_rng(seed).choice(events.n_users, users, replace=False)
    kept = events.take(np.isin(events.user, drawn))
    kept_users, user = np.unique(kept.user, return_inverse=True)
    kept_items, item = np.unique(kept.item, return_inverse=True)
    user_rows = _renumbered(dataset.users, "user", kept_users)
    item_rows = _renumbered(dataset.items, "item", kept_items)
    ids_hash = ids_sha256(user_rows["user_id"], item_rows["item_id"])
    interactions = Interactions(
        user.astype(np.int32), item.astype(np.int32), kept.rating, kept.timestamp, ids_hash
    )
    return Dataset(f"{dataset.name}, {users} users", interactions, user_rows, item_rows)


def check_size(dataset: Dataset, min_history: int) -> None:
    """Refuse a data set that is too small for the chapters that follow, before they begin.

    Args:
        dataset: The data set.
        min_history: Number of events that a user needs to be tested.

    Raises:
        DataError: there are fewer than `FEWEST_USERS` such users or `FEWEST_ITEMS` items.
    """
    users = int((np.bincount(dataset.interactions.user) >= min_history).sum())
    items = dataset.interactions.n_items
    if users < FEWEST_USERS or items < FEWEST_ITEMS:
        raise DataError(
            f"{dataset.name} has {items:,} items and {users:,} users with {min_history} events or "
            f"more; the study needs {FEWEST_ITEMS} items and {FEWEST_USERS} such users",
            "Give a larger data set or a larger sample; min_history is 3 at least.",
        )


def load_second(second: str, first: Dataset, sample: int = 0, seed: int = 0) -> Dataset | None:
    """Load the data set that is read beside the first one.

    Args:
        second: A name or path, as for `load_dataset`; empty for none.
        first: The first data set.
        sample: Number of users to draw; a data set without so many stays whole. 0 for all.
        seed: Random seed of the draw.

    Raises:
        DataError: It has the name of the first data set, or cannot be loaded.
    """
    if not second:
        return None
    dataset = load_dataset(second)
    if sample:
        dataset = sample_users(dataset, sample, seed)
    if dataset.name == first.name:
        raise DataError(
            f"second_dataset is {second!r}, but the first data set is {first.name} already",
            "Name another data set as the second, or none: second_dataset=''.",
        )
    return dataset


def ids_sha256(user_ids: pd.Series, item_ids: pd.Series) -> str:
    """sha256 over the raw user ids and item ids in the order of their numbers, as JSON lists."""
    return hashlib.sha256(json.dumps([user_ids.tolist(), item_ids.tolist()]).encode()).hexdigest()


def _items(item_ids: pd.Index, movies: dict[int, read.Movie]) -> pd.DataFrame:
    """The table of items, see `Dataset`."""
    unknown = read.Movie("", None, [])
    found = [movies.get(item_id, unknown) for item_id in item_ids.tolist()]
    items = pd.DataFrame({"item": np.arange(len(item_ids), dtype=np.int32), "item_id": item_ids})
    titles = pd.Series([movie.title for movie in found], dtype="str")
    items["title"] = titles.where(titles != "", items["item_id"].astype("str"))
    items["year"] = pd.array([movie.year for movie in found], dtype="Int16")
    items["genres"] = pd.Series([movie.genres for movie in found], dtype="object")
    return items


def _renumbered(table: pd.DataFrame, number: str, kept: np.ndarray) -> pd.DataFrame:
    """Some rows of a table of users or items, numbered from 0."""
    rows = table.iloc[kept].reset_index(drop=True)
    rows[number] = np.arange(len(kept), dtype=np.int32)
    return rows


def _not_found(name: str) -> DataError:
    parent = Path(name).parent
    beside = [str(parent / entry.name) for entry in parent.iterdir()] if parent.is_dir() else []
    above = Path("..", name)  # a notebook by hand runs in notebooks/, the commands run above it
    nearest = difflib.get_close_matches(name, [*DATASETS, *beside], 1)
    nearest = [str(above)] if above.exists() else nearest
    hint = f"Did you mean {nearest[0]}? " if nearest else ""
    return DataError(
        f"no data set, folder or file {name!r} in {Path.cwd()}",
        f"{hint}Registered: {', '.join(DATASETS)}; "
        "or give the path of a folder, .zip, .csv, .dat or .parquet.",
    )
