"""Chapter 01: the data, its splits and their leakage."""

from pathlib import Path
from typing import Any

from nanorecsys.data.read import estimate_rows
from nanorecsys.data.registry import DATASETS, DEFAULT_DATASET, SECOND_DATASET
from nanorecsys.data.result import DataResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.spread import Interval

NEEDS: tuple[str, ...] = ()
Result = DataResult


def _leakage(result: DataResult) -> dict[str, Interval] | None:
    """The interval of each data set, where this run read both bundled ones whole."""
    found = [result] if result.second is None else [result, result.second]
    if [each.dataset for each in found] != [DEFAULT_DATASET, SECOND_DATASET]:
        return None
    return {each.dataset: each.mostly_future for each in found}


FINDINGS = {"leakage": _leakage}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Memory and disk: 200 bytes of memory and 20 bytes of disk per rating."""
    ratings = sum(
        DATASETS[name].ratings if name in DATASETS else estimate_rows(Path(name))
        for name in _names(parameters)
    )
    return Estimate(memory_gib=1.0 + ratings * 200 / 2**30, disk_gib=0.1 + ratings * 20 / 2**30)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The reader's own files; a registered data set has its checksum in the code."""
    found: list[Path] = []
    for path in (Path(name) for name in _names(parameters) if name not in DATASETS):
        found += sorted(file for file in (path, *path.rglob("[!._]*")) if file.is_file())
    return found


def _names(parameters: dict[str, Any]) -> list[str]:
    """Both data sets, as the parameters name them."""
    return [name for name in (parameters["dataset"], parameters["second_dataset"]) if name]
