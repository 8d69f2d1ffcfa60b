"""Chapter 05: which index suits three million items, and whether to believe the catalogue."""

from collections.abc import Callable
from typing import Any

from nanorecsys.data.registry import BOTH_DATASETS, DEFAULT_DATASET, SECOND_DATASET
from nanorecsys.scaleup.analysis import MEMORY_SHARE
from nanorecsys.scaleup.result import ScaleupResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.spread import Interval, Values

NEEDS = ("01_data", "02_training")
Result = ScaleupResult
BUILD_COPIES = 3.0  # copies of the vectors in memory while LoRANN builds
STUDY_SIZE = (3_000_000, 256, 10, 0.95)  # items, dimensions, neighbours, floor of recall


def _is_study_size(r: ScaleupResult) -> bool:
    """Whether the large catalogue is the study's, made by the recommended generator.

    The first data set has to be the bundled one.
    """
    size = (r.n_items, r.d, r.k, r.recall_floor)
    is_recommended = r.generator == r.recommended_generator
    return r.dataset == DEFAULT_DATASET and size == STUDY_SIZE and is_recommended


def _speed(r: ScaleupResult) -> dict[str, Interval] | None:
    """Flat's P50 over the best index's; 0 if it is above the memory bound or may miss the floor."""
    if not _is_study_size(r):
        return None
    best, flat = r.best.p50_ms, r.flat.p50_ms
    times = Interval(r.speedup, flat.low / best.high, flat.high / best.low)
    is_good = r.best.recall_low >= r.recall_floor and r.memory_share <= r.memory_bound
    return {r.dataset: times if is_good else Interval(0.0, 0.0, 0.0)}


def _fidelity(r: ScaleupResult) -> dict[str, Interval] | None:
    """The worst case of the recommended generator, if the family that wins was judged too."""
    if not _is_study_size(r) or r.best.family not in r.families:
        return None
    judged = next(j for j in r.judged if j.generator == r.recommended_generator)
    if judged.by_set.keys() != BOTH_DATASETS:
        return None
    return {name: judged.by_set[name].worst for name in (DEFAULT_DATASET, SECOND_DATASET)}


FINDINGS: dict[str, Callable[[ScaleupResult], Values]] = {
    "speed": _speed,
    "fidelity": _fidelity,
}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Estimate the memory of the largest build, and the disk space.

    LoRANN holds all vectors twice while it builds. The disk holds two catalogues and all indexes,
    each at most as large as `MEMORY_SHARE` of the vectors.
    """
    d = 256
    vectors = parameters["n_items"] * 4 * d / 2**30
    indexes = 3 + len(parameters["indexes"])
    return Estimate(
        memory_gib=2.0 + BUILD_COPIES * vectors,
        disk_gib=0.5 + (2 + MEMORY_SHARE * indexes) * vectors,
    )
