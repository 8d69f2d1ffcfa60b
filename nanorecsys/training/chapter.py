"""Chapter 02: how good the retriever and the ranker are against honest baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target
from nanorecsys.training.result import RETRIEVER, TrainingResult

NEEDS = ("01_data",)
Result = TrainingResult
Value = Callable[[TrainingResult], float | None]
LEAVE_ONE_OUT, LAST_TEN = "leave_one_out", "last_10"


def _study_shape(value: Value) -> Value:
    """A figure that is claimed only for the study shape on the bundled data."""
    return lambda r: value(r) if r.dataset == DEFAULT_DATASET and r.is_study_shape else None


CLAIMS = (
    Claim(
        id="training.hitrate",
        statement="The retriever of the study shape reaches HitRate@10 0.155 on the bundled data, "
        "leave-one-out.",
        value=_study_shape(lambda r: r.quality[LEAVE_ONE_OUT][RETRIEVER].hitrate),
        unit="",
        target=Target(">=", 0.155, limit=0.135),
        original="0.287 on ML-20M",
    ),
    Claim(
        id="training.last_ten",
        statement="On the last ten events its NDCG@10 is above the best baseline's: the paired "
        "interval excludes zero.",
        value=_study_shape(lambda r: r.margin[LAST_TEN].low if LAST_TEN in r.margin else None),
        unit="",
        target=Target(">", 0.0),
    ),
    Claim(
        id="training.cold_start",
        statement="With all item ids masked the ranker has at least twice popularity's HitRate@10.",
        value=_study_shape(lambda r: r.ranker.cold_over_popularity),
        unit="x",
        target=Target(">=", 2.0),
        original="HitRate@10 0.155 on ML-20M",
    ),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Weights, optimiser states and activations of one model, and its checkpoints."""
    return Estimate(memory_gib=2.5, disk_gib=0.5)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """No files outside the run."""
    return []
