"""Chapter 05: which index at three million items, and whether the synthetic catalogue can be believed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.scaleup.result import ScaleupResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target, keeps_time

NEEDS = ("02_training", "04_ann")
Result = ScaleupResult
STUDY_ITEMS, STUDY_D = 3_000_000, 256


def _headline(
    value: Callable[[ScaleupResult], float | None],
) -> Callable[[ScaleupResult], float | None]:
    """A figure that is claimed of three million items of the recommended generator alone."""
    return lambda r: (
        value(r)
        if (r.n_items, r.d) == (STUDY_ITEMS, STUDY_D) and r.generator == r.recommended_generator
        else None
    )


def _speed(r: ScaleupResult) -> float:
    return r.speedup if r.best.recall >= r.recall_floor else 0.0


def _worst(name: str | None = None) -> Callable[[ScaleupResult], float | None]:
    def value(r: ScaleupResult) -> float | None:
        wanted = name or r.recommended_generator
        return next((j.worst for j in r.judged if j.generator == wanted), None)

    return value


def _rate(name: str) -> Callable[[ScaleupResult], float | None]:
    return lambda r: next(
        (g.rate for g in r.generated if g.generator == name and r.d == STUDY_D), None
    )


CLAIMS = (
    Claim(
        id="scaleup.speed",
        statement="At 3,000,000 x 256 an index reaches recall@10 0.95 at 1/300 of exact search's P50 (one thread).",
        value=_headline(_speed),
        unit="x",
        target=Target(">=", 300.0, limit=100.0),
    ),
    Claim(
        id="scaleup.aim",
        statement="The aim: 1/600 of it.",
        value=_headline(_speed),
        unit="x",
        target=Target(">=", 600.0, limit=300.0),
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
        statement="The recommended generator's recall of unseen items is within 0.03 of the real one: IVF, HNSW, PQ.",
        value=_worst(),
        unit="recall",
        target=Target("<=", 0.03, limit=0.06),
    ),
    Claim(
        id="scaleup.independent",
        statement="Independent Gaussians, the earlier benchmark's generator, are further off than that.",
        value=lambda r: (
            w / b if (w := _worst("independent")(r)) is not None and (b := _worst()(r)) else None
        ),
        unit="times the recommended one's",
        target=Target(">", 1.0),
        original="the generator of the earlier benchmark",
        agrees="quality",
    ),
    Claim(
        id="scaleup.exact",
        statement="Exact search finds all exact neighbours: measured, not assumed.",
        value=lambda r: r.flat.recall,
        unit="recall",
        target=Target(">=", 1.0),
        agrees="exact",
    ),
    Claim(
        id="scaleup.peak_memory",
        statement="Three million items are built and searched within 4 GiB, exact search apart.",
        value=_headline(lambda r: r.peak_gib),
        unit="GiB",
        target=Target("<=", 4.0),
    ),
    Claim(
        id="scaleup.rate_independent",
        statement="The generator `independent` makes 150,000 vectors a second on two cores.",
        value=_rate("independent"),
        unit="vectors/s",
        target=Target(">=", 150_000.0, limit=100_000.0),
    ),
    Claim(
        id="scaleup.rate_local",
        statement="The generator `local` makes 50,000 vectors a second on two cores.",
        value=_rate("local"),
        unit="vectors/s",
        target=Target(">=", 50_000.0, limit=35_000.0),
    ),
    keeps_time("scaleup", "22 minutes in full, 3 in quick, 40 s in smoke"),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Exact search in memory where it may be, otherwise the largest index; catalogues, blocks and indexes on the disk.

    Two catalogues, and for each index its blocks and its file: half the bytes of the vectors
    together.
    """
    d = 256
    vectors = parameters["n_items"] * 4 * d / 2**30
    flat = vectors if vectors <= parameters["memory_gib"] else 0.0
    indexes = 3 + len(parameters["indexes_tried"]) + len(parameters["curve_indexes"])
    return Estimate(
        memory_gib=2.0 + max(flat, 0.5 * vectors), disk_gib=0.5 + (2 + 0.5 * indexes) * vectors
    )


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Nothing outside the run."""
    return []


def headline(result: ScaleupResult) -> list[tuple[str, str]]:
    """What the landing page says of this chapter."""
    b = result.best
    return [
        (
            f"Fastest index at {result.n_items:,} items, recall@10 {b.recall:.3f}",
            f"{b.factory} {b.search}",
        ),
        ("its P50 against exact search's", f"{b.p50_ms.middle:.3f} ms, {result.speedup:,.0f}x"),
        (
            f"largest recall error of the generator {result.recommended_generator}",
            f"{next(j.worst for j in result.judged if j.generator == result.recommended_generator):.3f}",
        ),
    ]
