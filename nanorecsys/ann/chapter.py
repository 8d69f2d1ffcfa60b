"""Chapter 04: which index suits 27 thousand items, and how close it is to the machine's limits."""

from collections.abc import Callable
from typing import Any

from nanorecsys.ann.result import AnnResult, Served
from nanorecsys.ann.specs import TABLE
from nanorecsys.data.registry import BOTH_DATASETS, DEFAULT_DATASET
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.spread import Interval, Values

NEEDS = ("01_data", "02_training", "03_export")
Result = AnnResult
STUDY_ITEMS, STUDY_D, STUDY_K = 27_278, 256, 100


def _at_study_size(result: AnnResult) -> bool:
    """Whether a run searched the study's number of vectors of the study's size."""
    size = (result.n_items, result.d, result.k)
    return result.dataset == DEFAULT_DATASET and size == (STUDY_ITEMS, STUDY_D, STUDY_K)


def _recall_99(result: AnnResult) -> Values:
    """P50 of Flat over that of the fastest index at the floor, range over the rounds."""
    is_measured = _at_study_size(result) and result.recall_floor == 0.99
    return {result.dataset: result.fastest.times_flat.interval} if is_measured else None


def _recall_999(result: AnnResult) -> Values:
    """The same for the fastest index with a recall of 0.999."""
    times = {result.dataset: result.fastest_999.times_flat.interval}
    return times if _at_study_size(result) else None


def _on_both(value: Callable[[Served], Interval]) -> Callable[[AnnResult], Values]:
    """A figure of the recommended index on each served catalogue, measured on both data sets."""

    def read(result: AnnResult) -> Values:
        if not _at_study_size(result) or result.served.keys() != BOTH_DATASETS:
            return None
        return {name: value(served) for name, served in result.served.items()}

    return read


FINDINGS: dict[str, Callable[[AnnResult], Values]] = {
    "recall_99": _recall_99,
    "recall_999": _recall_999,
    "recall_second": _on_both(lambda served: served.recall),
    "end_task": _on_both(lambda served: served.ndcg.relative),
}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Estimate the memory of the largest build and the disk space of all indexes."""
    n = max(parameters["n_items"], 30_000)
    indexes = len(parameters["specs"]) or len(TABLE)
    return Estimate(memory_gib=1.5 + n * 6e3 / 2**30, disk_gib=0.2 + n * indexes * 1e3 / 2**30)
