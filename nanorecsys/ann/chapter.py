"""Chapter 04: which index at 27 thousand items, and how close it comes to the machine's limits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.ann.analysis import outside_zero
from nanorecsys.ann.result import AnnResult
from nanorecsys.ann.specs import TABLE
from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target, keeps_time

NEEDS = ("01_data", "02_training", "03_export")
Result = AnnResult
STUDY_ITEMS, STUDY_D = 27_278, 256


def _headline(value: Callable[[AnnResult], float | None]) -> Callable[[AnnResult], float | None]:
    """A figure that is claimed of the study's size alone."""
    return lambda r: (
        value(r)
        if r.dataset == DEFAULT_DATASET and (r.n_items, r.d, r.k) == (STUDY_ITEMS, STUDY_D, 100)
        else None
    )


CLAIMS = (
    Claim(
        id="ann.recall_99",
        statement="An index reaches recall@100 0.99 at a P50 of at most 1/15 of Flat's (27,278 x 256, one thread).",
        value=_headline(lambda r: r.fastest["0.99"].times_flat),
        unit="x",
        target=Target(">=", 15.0, limit=10.0),
    ),
    Claim(
        id="ann.recall_999",
        statement="One reaches recall@100 0.999 at a P50 of at most 1/12 of Flat's.",
        value=_headline(lambda r: r.fastest["0.999"].times_flat),
        unit="x",
        target=Target(">=", 12.0, limit=8.0),
    ),
    Claim(
        id="ann.aim",
        statement="The aim: recall@100 0.99 at 1/20 of Flat's P50.",
        value=_headline(lambda r: r.fastest["0.99"].times_flat),
        unit="x",
        target=Target(">=", 20.0, limit=15.0),
    ),
    Claim(
        id="ann.end_task",
        statement="The recommended index changes neither HitRate@10 nor NDCG@10: both paired intervals include zero.",
        value=lambda r: max(
            outside_zero(r.recommended.hitrate_change), outside_zero(r.recommended.ndcg_change)
        ),
        unit="outside the interval",
        target=Target("<=", 0.0),
        agrees="exact",
    ),
    Claim(
        id="ann.flat_default",
        statement="Flat is the default to take at 27 thousand items: an index saves less than a millisecond a query.",
        value=_headline(lambda r: r.recommended.saved_ms),
        unit="ms",
        target=Target("<=", 1.0),
        original="Flat recommended, an index saves less than 1 ms",
    ),
    Claim(
        id="ann.families",
        statement="Every family of the table was built and measured.",
        value=lambda r: float(len(r.families_missing)) if r.whole_table else None,
        unit="missing",
        target=Target("==", 0.0),
    ),
    keeps_time("ann", "10 minutes in full, 2 in quick, 30 s in smoke"),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """The largest index with its vectors, what building it takes, and all indexes on the disk while it runs."""
    n = max(parameters["n_items"], 30_000)
    indexes = len(parameters["specs"]) or len(TABLE)
    return Estimate(memory_gib=1.5 + n * 6e3 / 2**30, disk_gib=0.2 + n * indexes * 1e3 / 2**30)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Nothing outside the run."""
    return []


def headline(result: AnnResult) -> list[tuple[str, str]]:
    """What the landing page says of this chapter."""
    r = result.recommended
    return [
        (f"Recommended index at {result.n_items:,} items", f"{r.factory} {r.search}".strip()),
        (
            "its P50 and P99, one query, one thread",
            f"{r.p50_ms.middle:.3f} and {r.p99_ms.middle:.3f} ms",
        ),
        ("its speed against exact search", f"{r.times_flat:.1f}x at recall {r.recall_k:.4f}"),
    ]
