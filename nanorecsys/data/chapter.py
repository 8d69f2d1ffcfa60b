"""Chapter 01: what the data is, how it is split, what leaks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.data.registry import DATASETS
from nanorecsys.data.result import DataResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target

NEEDS: tuple[str, ...] = ()
Result = DataResult
ML_20M_RATINGS = 20_000_263


def _default(value: Callable[[DataResult], float]) -> Callable[[DataResult], float | None]:
    """A figure that is claimed of the bundled data set alone."""
    return lambda result: value(result) if result.dataset == DEFAULT_DATASET else None


def _at_ml_20m(value: Callable[[DataResult], float]) -> Callable[[DataResult], float | None]:
    """A figure that is claimed of a generated file of ML-20M's size alone."""
    return lambda result: value(result) if result.ingest.ratings == ML_20M_RATINGS else None


CLAIMS = (
    Claim(
        id="data.ratings",
        statement="The bundled data set has as many ratings as GroupLens published.",
        value=_default(lambda r: r.ratings),
        unit="",
        target=Target("==", DATASETS[DEFAULT_DATASET].published.ratings),
        original=DATASETS[DEFAULT_DATASET].published.ratings,
    ),
    Claim(
        id="data.users",
        statement="It has as many users.",
        value=_default(lambda r: r.users),
        unit="",
        target=Target("==", DATASETS[DEFAULT_DATASET].published.users),
        original=DATASETS[DEFAULT_DATASET].published.users,
    ),
    Claim(
        id="data.movies",
        statement="It has all movies that were rated; GroupLens counts those without a rating too.",
        value=_default(lambda r: r.items),
        unit="",
        target=Target("==", 9_066),
        original=DATASETS[DEFAULT_DATASET].published.movies,
    ),
    Claim(
        id="data.ingest_s",
        statement="A file of ML-20M's size is read, numbered, sorted, split and saved within a minute on two cores.",
        value=_at_ml_20m(lambda r: r.ingest.total_s),
        unit="s",
        target=Target("<=", 60.0, limit=90.0),
    ),
    Claim(
        id="data.ingest_gib",
        statement="That takes at most four GiB of memory.",
        value=_at_ml_20m(lambda r: r.ingest.peak_rss_gib),
        unit="GiB",
        target=Target("<=", 4.0),
    ),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Memory and disk, mostly those of the generated file: 27 bytes a rating on disk, 200 in memory at the peak."""
    dataset = DATASETS.get(parameters["dataset"])
    ratings = max(parameters["n_ratings"], dataset.published.ratings if dataset else 0)
    return Estimate(memory_gib=1.0 + ratings * 200 / 2**30, disk_gib=0.1 + ratings * 60 / 2**30)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The reader's own files; a registered data set has its checksum in the code."""
    path = Path(parameters["dataset"])
    if parameters["dataset"] in DATASETS:
        return []
    return (
        [path]
        if path.is_file()
        else sorted(p for p in path.rglob("*") if p.suffix in (".csv", ".dat"))
    )


def headline(result: DataResult) -> list[tuple[str, str]]:
    """What the landing page says of this chapter."""
    leaking = result.splits["leave_one_out"].mostly_future_share
    return [
        (
            f"ratings, films and people of {result.dataset}",
            f"{result.ratings:,} / {result.items:,} / {result.users:,}",
        ),
        (
            "leave-one-out test events with most of the training data in their future",
            f"{leaking:.0%}",
        ),
    ]
