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
from nanorecsys.data.split import Split
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

    Each file is whole or not there.
    """
    directory = Path(directory)
    columns = {name: getattr(dataset.interactions, name) for name in _COLUMNS}
    columns |= {split.name: split.part for split in splits}
    metadata = {
        "dataset": dataset.name,
        "ids_sha256": dataset.interactions.ids_sha256,
        "splits": {split.name: split.sha256 for split in splits},
    }
    events = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(metadata)})
    with atomic_path(directory / "users.parquet") as part:
        dataset.users.to_parquet(part, index=False)
    with atomic_path(directory / "items.parquet") as part:
        dataset.items.to_parquet(part, index=False)
    with atomic_path(directory / "interactions.parquet") as part:
        parquet.write_table(events, part)


def load_prepared(directory: Path | str) -> Prepared:
    """Load the folder that `save_prepared` wrote.

    Raises:
        DataError: a file is missing or damaged; names the file.
    """
    directory = Path(directory)
    events, users, item_table = (
        _read(directory / f"{name}.parquet") for name in ("interactions", "users", "items")
    )
    items = item_table.to_pandas()
    items["genres"] = item_table["genres"].to_pylist()  # lists, where pandas gives arrays
    recorded = json.loads(events.schema.metadata[_METADATA])
    # Copies: torch warns of arrays that are not writable.
    arrays = {name: events[name].to_numpy().copy() for name in (*_COLUMNS, *recorded["splits"])}
    user, item, rating, timestamp = (arrays[name] for name in _COLUMNS)
    interactions = Interactions(user, item, rating, timestamp, recorded["ids_sha256"])
    splits = {
        name: Split(name, arrays[name], sha256) for name, sha256 in recorded["splits"].items()
    }
    return Prepared(Dataset(recorded["dataset"], interactions, users.to_pandas(), items), splits)


def _read(path: Path) -> pa.Table:
    try:
        return parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not a whole parquet file ({str(error).partition(chr(10))[0]})",
            "Delete it and prepare the data again: run the data chapter, 01_data.",
        ) from error
