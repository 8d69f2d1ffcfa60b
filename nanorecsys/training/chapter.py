"""Chapter 02: how good the served order is against honest baselines, on two data sets."""

from collections.abc import Callable
from typing import Any

from nanorecsys.data.registry import BOTH_DATASETS, DEFAULT_DATASET
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.spread import Values
from nanorecsys.training.result import LAST_TEN, LEAVE_ONE_OUT, WITH_HISTORY, TrainingResult

NEEDS = ("01_data",)
Result = TrainingResult
Reader = Callable[[TrainingResult], Values]


def _at_study_size(read: Reader) -> Reader:
    """Values only of a run of the findings' size: the study shape, on both bundled data sets."""

    def checked(result: TrainingResult) -> Values:
        both = result.quality.keys() == BOTH_DATASETS
        measured = both and result.dataset == DEFAULT_DATASET and result.is_study_shape
        return read(result) if measured else None

    return checked


def _margins(task: str) -> Reader:
    """NDCG@10 of the served order minus the best baseline's, by data set."""
    return lambda r: {name: m[task].ndcg for name, m in r.margin.items() if task in m}


def _events_read(result: TrainingResult) -> Values:
    """Relative change of NDCG@10 by reading fewer events; none if the whole window is read."""
    if result.events_read == result.reads[0].events:
        return {}
    return {name: change.relative for name, change in result.events_change.items()}


def _ranker(result: TrainingResult) -> Values:
    """NDCG@10 of the ranker's order minus that of the order that it got, by data set."""
    return {name: change.interval for name, change in result.ranker_change.items()}


READERS = {
    "leave_one_out": _margins(LEAVE_ONE_OUT),
    "last_ten": _margins(LAST_TEN),
    "temporal": _margins(WITH_HISTORY),
    "events_read": _events_read,
    "ranker": _ranker,
}
FINDINGS = {name: _at_study_size(read) for name, read in READERS.items()}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Weights, optimiser states and activations of one model, and its checkpoints."""
    return Estimate(memory_gib=2.5, disk_gib=0.5)
