"""Chapter 04: which index suits 27 thousand items, and how close it is to the machine's limits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.ann.analysis import outside_zero
from nanorecsys.ann.result import AnnResult
from nanorecsys.ann.specs import TABLE
from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target

NEEDS = ("01_data", "02_training", "03_export")
Result = AnnResult
STUDY_ITEMS, STUDY_D = 27_278, 256


def _headline(value: Callable[[AnnResult], float | None]) -> Callable[[AnnResult], float | None]:
    """Limit a claim to the study's size."""
    return lambda r: (
        value(r)
        if r.dataset == DEFAULT_DATASET and (r.n_items, r.d, r.k) == (STUDY_ITEMS, STUDY_D, 100)
        else None
    )


CLAIMS = (
    Claim(
        id="ann.recall_99",
        statement="An index reaches recall@100 of 0.99 at 1/15 of Flat's P50 (27,278 x 256, one "
        "thread).",
        value=_headline(lambda r: r.fastest["0.99"].times_flat),
        unit="x",
        target=Target(">=", 15.0, limit=10.0),
    ),
    Claim(
        id="ann.recall_999",
        statement="An index reaches recall@100 of 0.999 at 1/12 of Flat's P50 (one thread).",
        value=_headline(lambda r: r.fastest["0.999"].times_flat),
        unit="x",
        target=Target(">=", 12.0, limit=8.0),
    ),
    Claim(
        id="ann.end_task",
        statement="The recommended index does not change HitRate@10 or NDCG@10 (paired intervals).",
        value=lambda r: max(
            outside_zero(r.recommended.hitrate_change), outside_zero(r.recommended.ndcg_change)
        ),
        unit="outside the interval",
        target=Target("<=", 0.0),
        agrees="exact",
    ),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Estimate the memory of the largest build and the disk space of all indexes."""
    n = max(parameters["n_items"], 30_000)
    indexes = len(parameters["specs"]) or len(TABLE)
    return Estimate(memory_gib=1.5 + n * 6e3 / 2**30, disk_gib=0.2 + n * indexes * 1e3 / 2**30)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Return no files: the chapter reads nothing outside the run."""
    return []
