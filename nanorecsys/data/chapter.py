"""Chapter 01: the data, its splits and their leakage."""

from pathlib import Path
from typing import Any

from nanorecsys.data.errors import DataError
from nanorecsys.data.registry import DATASETS, DEFAULT_DATASET, fetch
from nanorecsys.data.result import DataResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target
from nanorecsys.study.doctor import Check

NEEDS: tuple[str, ...] = ()
Result = DataResult


def _leakage(result: DataResult) -> float | None:
    """The share that is claimed, of the bundled data set alone."""
    if result.dataset != DEFAULT_DATASET:
        return None
    return result.splits["leave_one_out"].mostly_future_share


CLAIMS = (
    Claim(
        id="data.leakage",
        statement="Under leave-one-out, at least half of the test events have more than half of "
        "the other users' training data in their future.",
        value=_leakage,
        unit="",
        target=Target(">=", 0.5),
    ),
)


def checks() -> list[Check]:
    """Whether the bundled data set is there and has the right checksum."""
    try:
        size = fetch(DEFAULT_DATASET).stat().st_size
    except DataError as error:
        return [
            Check(name="bundled data set", value=error.message, status="fails", remedy=error.remedy)
        ]
    return [Check(name="bundled data set", value=f"{size:,} bytes, checksum right")]


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Memory and disk: 200 bytes of memory and 20 bytes of disk per rating."""
    dataset = DATASETS.get(parameters["dataset"])
    ratings = dataset.ratings if dataset else 0
    return Estimate(memory_gib=1.0 + ratings * 200 / 2**30, disk_gib=0.1 + ratings * 20 / 2**30)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The reader's own files; a registered data set has its checksum in the code."""
    path = Path(parameters["dataset"])
    if parameters["dataset"] in DATASETS:
        return []
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".csv", ".dat"))
