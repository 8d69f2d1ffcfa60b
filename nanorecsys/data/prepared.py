"""A data set and its splits on disk, the output of the data chapter.

interactions.parquet has user, item, rating, timestamp and one int8 column per split, with the
hashes in its metadata; users.parquet and items.parquet are the tables of `Dataset`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Interactions
from nanorecsys.data.load import ids_sha256
from nanorecsys.data.split import Split, split_sha256
from nanorecsys.system.files import atomic_path

_METADATA = b"nanorecsys"
_COLUMNS = ["user", "item", "rating", "timestamp"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set with its splits, by their names."""

    dataset: Dataset
    splits: dict[str, Split]


def save_prepared(directory: Path | str, dataset: Dataset, splits: Iterable[Split]) -> None:
    """Write a data set and its splits into a folder; other files there stay.

    Each file is whole or not there. A save that is killed between two files leaves a folder that
    `load_prepared` refuses, because the hashes in one do not fit the others.

    Raises:
        DataError: the folder cannot be written.
    """
    directory = Path(directory)
    columns = {name: getattr(dataset.interactions, name) for name in _COLUMNS}
    hashes = {}
    for split in splits:
        columns[split.name] = split.part
        hashes[split.name] = split.sha256
    metadata = {
        "dataset": dataset.name,
        "ids_sha256": dataset.interactions.ids_sha256,
        "splits": hashes,
    }
    events = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(metadata)})
    try:
        with atomic_path(directory / "users.parquet") as part:
            dataset.users.to_parquet(part, index=False)
        with atomic_path(directory / "items.parquet") as part:
            dataset.items.to_parquet(part, index=False)
        with atomic_path(directory / "interactions.parquet") as part:
            # a quarter faster than dictionaries with compression, and no larger
            encoding = dict.fromkeys(("user", "item", "timestamp"), "DELTA_BINARY_PACKED")
            coded = [name for name in columns if name not in encoding]
            parquet.write_table(
                events, part, use_dictionary=coded, column_encoding=encoding, compression="none"
            )
    except OSError as error:
        raise DataError(
            f"{directory}: cannot save the prepared data: {error.strerror or error}",
            "Free space there, or name another folder.",
        ) from error


def load_prepared(directory: Path | str) -> Prepared:
    """Load the folder that `save_prepared` wrote, and check it against its hashes.

    Raises:
        DataError: a file is missing, damaged, or not of the same save as the others; names the
            file.
    """
    directory = Path(directory)
    path = directory / "interactions.parquet"
    events, users, item_table = (
        _read(directory / f"{name}.parquet") for name in ("interactions", "users", "items")
    )
    items = item_table.to_pandas()
    try:
        recorded = json.loads(events.schema.metadata[_METADATA])
        items["genres"] = item_table["genres"].to_pylist()  # lists, where pandas gives arrays
        # Copies: torch warns of arrays that are not writable.
        arrays = {name: events[name].to_numpy().copy() for name in (*_COLUMNS, *recorded["splits"])}
        ids = ids_sha256(users["user_id"].to_pandas(), items["item_id"])
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"not as the data chapter writes it ({error})") from error
    if ids != recorded["ids_sha256"]:
        raise _damaged(
            path, "its ids are not those of users.parquet and items.parquet: a save did not end"
        )
    interactions = Interactions(**{name: arrays[name] for name in _COLUMNS}, ids_sha256=ids)
    splits = {
        name: Split(name, arrays[name], sha256) for name, sha256 in recorded["splits"].items()
    }
    for split in splits.values():
        if split_sha256(interactions, split.part) != split.sha256:
            raise _damaged(
                path, f"the events of the split {split.name} do not have its hash {split.sha256}"
            )
    return Prepared(Dataset(recorded["dataset"], interactions, users.to_pandas(), items), splits)


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise _damaged(path, "no such file")
    try:
        return parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: {what}", "Delete it and prepare the data again: run the data chapter, 01_data."
    )
