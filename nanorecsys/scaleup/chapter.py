"""Chapter 05: which index suits three million items, and whether to believe the catalogue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.scaleup.result import ScaleupResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target

NEEDS = ("02_training", "04_ann")
Result = ScaleupResult
STUDY_ITEMS, STUDY_D = 3_000_000, 256


def _headline(
    value: Callable[[ScaleupResult], float | None],
) -> Callable[[ScaleupResult], float | None]:
    """Limit a claim to three million items of the recommended generator."""
    return lambda r: (
        value(r)
        if (r.n_items, r.d) == (STUDY_ITEMS, STUDY_D) and r.generator == r.recommended_generator
        else None
    )


def _speed(r: ScaleupResult) -> float:
    return r.speedup if r.best.recall >= r.recall_floor else 0.0


def _worst(r: ScaleupResult) -> float | None:
    return next((j.worst for j in r.judged if j.generator == r.recommended_generator), None)


CLAIMS = (
    Claim(
        id="scaleup.speed",
        statement="At 3,000,000 x 256 an index reaches recall@10 of 0.95 at 1/300 of Flat's P50 "
        "(one thread).",
        value=_headline(_speed),
        unit="x",
        target=Target(">=", 300.0, limit=100.0),
    ),
    Claim(
        id="scaleup.memory",
        statement="That index takes at most three tenths of the memory of exact search.",
        value=_headline(lambda r: r.memory_share),
        unit="of Flat",
        target=Target("<=", 0.3, limit=0.4),
        agrees="ratio",
    ),
    Claim(
        id="scaleup.fidelity",
        statement="The recommended generator's recall of unseen items is within 0.03 of the real "
        "catalogue's, in IVF, HNSW and PQ.",
        value=_worst,
        unit="recall",
        target=Target("<=", 0.03, limit=0.06),
    ),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Estimate the memory of exact search or the largest index, and the disk space.

    The disk holds two catalogues and all indexes, each at most half as large as the vectors.
    """
    d = 256
    vectors = parameters["n_items"] * 4 * d / 2**30
    flat = vectors if vectors <= parameters["memory_gib"] else 0.0
    indexes = 3 + len(parameters["indexes_tried"]) + len(parameters["curve_indexes"])
    return Estimate(
        memory_gib=2.0 + max(flat, 0.5 * vectors), disk_gib=0.5 + (2 + 0.5 * indexes) * vectors
    )


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Return no files: the chapter reads nothing outside the run."""
    return []
