"""A data set and its splits on disk: what this chapter leaves for the next ones.

interactions.parquet  user, item, rating, timestamp and one int8 column a split; its metadata hold
the hashes users.parquet         user, user_id
items.parquet         item, item_id, title, year, genres
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Interactions
from nanorecsys.data.load import ids_sha256
from nanorecsys.data.split import Split, split_sha256
from nanorecsys.system.files import atomic_path

_METADATA = b"nanorecsys"
_INTERACTIONS = {
    "user": pa.int32(),
    "item": pa.int32(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
}
_USERS = {"user": pa.int32(), "user_id": None}
_ITEMS = {
    "item": pa.int32(),
    "item_id": None,
    "title": pa.string(),
    "year": pa.int16(),
    "genres": pa.list_(pa.string()),
}


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
    splits = list(splits)
    columns = {name: getattr(interactions, name) for name in _INTERACTIONS}
    columns |= {split.name: split.part for split in splits}
    metadata = {
        "dataset": dataset.name,
        "ids_sha256": interactions.ids_sha256,
        "splits": {split.name: split.sha256 for split in splits},
    }
    events = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(metadata)})
    try:
        with atomic_path(directory / "users.parquet") as part:
            _write_frame(part, dataset.users, _USERS)
        with atomic_path(directory / "items.parquet") as part:
            _write_frame(part, dataset.items, _ITEMS)
        with atomic_path(directory / "interactions.parquet") as part:
            parquet.write_table(events, part)
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
    path = directory / "interactions.parquet"
    events = _read(path)
    users = _read_frame(directory / "users.parquet", _USERS)
    items = _read_frame(directory / "items.parquet", _ITEMS)
    metadata = events.schema.metadata or {}
    if _METADATA not in metadata:
        raise _damaged(path, "its metadata are not those of prepared data")
    recorded = json.loads(metadata[_METADATA])
    names = list(recorded["splits"])
    _check_schema(path, events, _INTERACTIONS | dict.fromkeys(names, pa.int8()))
    # Copies: torch warns of arrays that are not writable.
    columns = {name: events[name].to_numpy().copy() for name in _INTERACTIONS}
    interactions = Interactions(**columns, ids_sha256=recorded["ids_sha256"])
    if ids_sha256(users["user_id"], items["item_id"]) != recorded["ids_sha256"]:
        raise _damaged(
            path, "its ids are not those of users.parquet and items.parquet: a save did not end"
        )
    splits = {
        name: Split(name, events[name].to_numpy().copy(), recorded["splits"][name])
        for name in names
    }
    for split in splits.values():
        if split_sha256(interactions, split.part) != split.sha256:
            raise _damaged(
                path, f"the events of the split {split.name} do not have its hash {split.sha256}"
            )
    return Prepared(Dataset(recorded["dataset"], interactions, users, items), splits)


def _write_frame(path: Path, frame: pd.DataFrame, types: dict[str, pa.DataType | None]) -> None:
    """Write a table of users or items; its ids are int64 or text."""
    id_type = pa.int64() if pd.api.types.is_integer_dtype(frame.iloc[:, 1]) else pa.string()
    schema = pa.schema({name: kind or id_type for name, kind in types.items()})
    frame.to_parquet(path, index=False, schema=schema)


def _read_frame(path: Path, types: dict[str, pa.DataType | None]) -> pd.DataFrame:
    table = _read(path)
    _check_schema(path, table, types)
    frame = table.to_pandas()
    if "genres" in types:
        frame["genres"] = table["genres"].to_pylist()  # lists, where pandas gives arrays
    return frame


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file", "Prepare the data first: run the data chapter, 01_data."
        )
    try:
        return parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error


def _check_schema(path: Path, table: pa.Table, types: dict[str, pa.DataType | None]) -> None:
    """Check the columns' names, their order and their types (None: any)."""
    found = {field.name: field.type for field in table.schema}
    fits = list(found) == list(types) and all(
        kind in (None, found[name]) for name, kind in types.items()
    )
    if not fits:
        came = ", ".join(f"{name} {kind}" for name, kind in found.items())
        raise _damaged(path, f"its columns are {came}, expected {', '.join(types)}")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}", "Delete it and prepare the data again: run the data chapter, 01_data."
    )
