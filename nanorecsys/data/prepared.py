"""A data set and its splits on disk: what this chapter leaves for the next ones.

interactions.parquet  user, item, rating, timestamp and one int8 column a split; its metadata hold
the hashes users.parquet         user, user_id
items.parquet         item, item_id, title, year, genres
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Interactions
from nanorecsys.data.load import ids_sha256
from nanorecsys.data.split import Split, split_sha256
from nanorecsys.system.files import atomic_path

_METADATA = "nanorecsys"
_INTERACTIONS = {"user": pl.Int32, "item": pl.Int32, "rating": pl.Float32, "timestamp": pl.Int64}
_TITLES = {"title": pl.String, "year": pl.Int16, "genres": pl.List(pl.String)}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set with its splits, by their names."""

    dataset: Dataset
    splits: dict[str, Split]


def save_prepared(directory: Path | str, dataset: Dataset, splits: Iterable[Split]) -> None:
    """Write a data set and its splits into a folder, other files of which stay.

    Each file is whole or not there. A save that is killed between two files leaves a folder that
    `load_prepared` refuses, because the hashes in one do not fit the others.

    Raises:
        DataError: the folder cannot be written.
    """
    directory = Path(directory)
    interactions = dataset.interactions
    splits = {split.name: split for split in splits}
    events = pl.DataFrame(
        {name: getattr(interactions, name) for name in _INTERACTIONS}
        | {name: split.part for name, split in splits.items()}
    )
    metadata = {
        "dataset": dataset.name,
        "ids_sha256": interactions.ids_sha256,
        "splits": {name: split.sha256 for name, split in splits.items()},
    }
    try:
        with atomic_path(directory / "users.parquet") as part:
            dataset.users.write_parquet(part)
        with atomic_path(directory / "items.parquet") as part:
            dataset.items.write_parquet(part)
        with atomic_path(directory / "interactions.parquet") as part:
            events.write_parquet(part, metadata={_METADATA: json.dumps(metadata)})
    except OSError as error:
        raise DataError(
            f"{directory}: cannot save the prepared data: {error.strerror or error}",
            "Free space there, or name another folder.",
        ) from error


def load_prepared(directory: Path | str) -> Prepared:
    """The data set and splits of a folder that `save_prepared` wrote, checked against their hashes.

    Raises:
        DataError: a file is missing, damaged, or not of the same save as the others; names the
            file.
    """
    directory = Path(directory)
    events, metadata = _read(directory / "interactions.parquet")
    users, _ = _read(directory / "users.parquet")
    items, _ = _read(directory / "items.parquet")
    path = directory / "interactions.parquet"
    if _METADATA not in metadata:
        raise _damaged(path, "its metadata are not those of prepared data")
    recorded = json.loads(metadata[_METADATA])
    names = list(recorded["splits"])
    _check_schema(path, events, _INTERACTIONS | dict.fromkeys(names, pl.Int8))
    _check_schema(directory / "users.parquet", users, {"user": pl.Int32, "user_id": None})
    _check_schema(directory / "items.parquet", items, {"item": pl.Int32, "item_id": None} | _TITLES)
    # writable: torch warns of arrays that are not
    columns = {name: events[name].to_numpy(writable=True) for name in _INTERACTIONS}
    interactions = Interactions(**columns, ids_sha256=recorded["ids_sha256"])
    if ids_sha256(users["user_id"], items["item_id"]) != recorded["ids_sha256"]:
        raise _damaged(
            path, "its ids are not those of users.parquet and items.parquet: a save did not end"
        )
    splits = {
        name: Split(name, events[name].to_numpy(writable=True), recorded["splits"][name])
        for name in names
    }
    for split in splits.values():
        if split_sha256(interactions, split.part) != split.sha256:
            raise _damaged(
                path, f"the events of the split {split.name} do not have its hash {split.sha256}"
            )
    return Prepared(Dataset(recorded["dataset"], interactions, users, items), splits)


def _read(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file", "Prepare the data first: run the data chapter, 01_data."
        )
    try:
        return pl.read_parquet(path), pl.read_parquet_metadata(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error


def _check_schema(path: Path, frame: pl.DataFrame, expected: dict[str, pl.DataType | None]) -> None:
    """The columns by name and order, with their types (None: any)."""
    found = dict(frame.schema)
    fits = list(found) == list(expected) and all(
        kind in (None, found[name]) for name, kind in expected.items()
    )
    if not fits:
        came = ", ".join(f"{name} {kind}" for name, kind in found.items())
        raise _damaged(path, f"its columns are {came}, expected {', '.join(expected)}")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}", "Delete it and prepare the data again: run the data chapter, 01_data."
    )
