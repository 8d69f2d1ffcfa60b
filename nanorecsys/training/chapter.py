"""Chapter 02: how good the retriever and the ranker are against honest baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target, keeps_time
from nanorecsys.training.result import RETRIEVER, TrainingResult

NEEDS = ("01_data",)
Result = TrainingResult
ML_20M_RATINGS = 20_000_263
LOO, LAST, TEMPORAL = "leave_one_out", "last_10", "global_temporal"
TOLERANCE = 0.02  # of HitRate@10 with one target a user: two standard errors of 671 users


def _headline(
    value: Callable[[TrainingResult], float | None],
) -> Callable[[TrainingResult], float | None]:
    """A figure that is claimed of the study shape on the bundled data alone."""
    return lambda r: value(r) if r.dataset == DEFAULT_DATASET and r.is_study_shape else None


def _baseline(name: str, title: str, figure: float) -> Claim:
    """A baseline has to reach what was measured of it elsewhere, or it is too easily beaten."""
    return Claim(
        id=f"training.{title}",
        statement=f"The baseline {name} is at or above HitRate@10 {figure:.3f}, within {TOLERANCE}.",
        value=lambda r: r.quality[LOO][name].hitrate if r.dataset == DEFAULT_DATASET else None,
        unit="",
        target=Target(">=", round(figure - TOLERANCE, 3)),
        original=figure,
    )


CLAIMS = (
    Claim(
        id="training.hitrate",
        statement="The retriever of the study shape reaches HitRate@10 0.155, leave-one-out, bundled data.",
        value=_headline(lambda r: r.quality[LOO][RETRIEVER].hitrate),
        unit="",
        target=Target(">=", 0.155, limit=0.135),
        original="0.287 on ML-20M",
    ),
    Claim(
        id="training.ndcg",
        statement="It reaches NDCG@10 0.085.",
        value=_headline(lambda r: r.quality[LOO][RETRIEVER].ndcg),
        unit="",
        target=Target(">=", 0.085, limit=0.075),
        original="0.162 on ML-20M",
    ),
    Claim(
        id="training.last_ten",
        statement="On the last ten events its NDCG@10 is above the best baseline's: the paired interval excludes zero.",
        value=_headline(lambda r: r.margin[LAST].low if LAST in r.margin else None),
        unit="",
        target=Target(">", 0.0),
    ),
    Claim(
        id="training.events",
        statement="Reading only the events that are served keeps NDCG@10 within 5 %: lower end of the paired interval.",
        value=_headline(
            lambda r: c.low / c.base if (c := r.events_change.get(RETRIEVER)) else None
        ),
        unit="of the whole window's",
        target=Target(">=", -0.05, limit=-0.1),
        agrees="quality",
    ),
    _baseline("popularity", "popularity", 0.043),
    _baseline("iALS", "ials", 0.077),
    _baseline("EASE", "ease", 0.082),
    _baseline("EASE, recent", "ease_recent", 0.098),
    _baseline("item-kNN", "item_knn", 0.097),
    _baseline("Markov", "markov", 0.109),
    Claim(
        id="training.cold_start",
        statement="With all item ids masked the ranker has at least twice popularity's HitRate@10.",
        value=_headline(lambda r: r.ranker.cold_over_popularity),
        unit="x",
        target=Target(">=", 2.0),
        original="HitRate@10 0.155 on ML-20M",
    ),
    Claim(
        id="training.throughput",
        statement="Training at the study shape runs at three times the tokens a second of the plain padded loop.",
        value=_headline(lambda r: max(rate.times_padded for rate in r.throughput.values())),
        unit="x",
        target=Target(">=", 3.0, limit=2.5),
    ),
    Claim(
        id="training.scale_gib",
        statement="At ML-20M's size, reading, splitting and training take at most ten GiB.",
        value=lambda r: (
            r.scale.peak_rss_gib if r.scale and r.scale.ratings == ML_20M_RATINGS else None
        ),
        unit="GiB",
        target=Target("<=", 10.0),
    ),
    keeps_time("training", "40 minutes in full, 5 in quick, 45 s in smoke"),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Weights, optimiser and activations of one model; the generated file where a size is measured."""
    ratings = parameters["scale_ratings"]
    return Estimate(memory_gib=2.5 + ratings * 350 / 2**30, disk_gib=0.5 + ratings * 30 / 2**30)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Nothing outside the run."""
    return []


def headline(result: TrainingResult) -> list[tuple[str, str]]:
    """What the landing page says of this chapter."""
    own = result.quality[LOO][RETRIEVER]
    best = result.margin[LOO].against
    other = result.quality[LOO][best]
    return [
        ("NDCG@10 of the retriever, leave-one-out, whole catalogue", f"{own.ndcg:.3f}"),
        (f"NDCG@10 of the best baseline ({best})", f"{other.ndcg:.3f}"),
    ]
