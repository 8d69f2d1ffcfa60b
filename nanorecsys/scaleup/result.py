"""The result record of chapter 05. Latencies are of single queries on one thread."""

import msgspec

from nanorecsys.ann.errors import Failure
from nanorecsys.ann.limits import Limits
from nanorecsys.scaleup.descriptors import Description
from nanorecsys.study.spread import Spread


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """The difference of one family's curve on synthetic catalogues from that on the real one.

    `largest` is the difference of the mean curves that is largest in size, with its sign (positive:
    too easy), at `setting`. `low` and `high` are its 95 % interval over hidden subsets.
    """

    family: str
    largest: float
    setting: int
    low: float
    high: float
    by_subset: list[float]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A generator in the held-out test.

    `worst` is the size of the largest difference of any family; `worst_all` counts neighbours that
    the user has seen as well. `believable` follows `fidelity.RULE`.
    """

    generator: str
    gaps: list[Gap]
    worst: float
    worst_all: float
    description: Description | None
    copies: float
    believable: bool
    reason: str


class ScalePoint(msgspec.Struct, frozen=True, kw_only=True):
    """An index over n items at the fastest setting that reaches the floor of recall.

    `build_s` includes `shared_s`, the time of centroids and lists, which other indexes use as well.
    Peaks are resident memory of the whole process. `read_mib` is what a query reads and `floor_ms`
    the least time that takes; both are None for a graph.
    """

    generator: str
    n: int
    factory: str
    family: str
    search: str
    recall: float
    p50_ms: Spread
    p99_ms: Spread
    queries_per_s: float
    bytes_a_vector: float
    build_s: float
    shared_s: float
    build_peak_gib: float
    search_peak_gib: float
    read_mib: float | None
    floor_ms: float | None


class ScaleupResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 05 found."""

    dataset: str
    n_items: int
    d: int
    real: int
    k: int
    queries: int
    recall_floor: float
    subsets: int
    trainings: int
    kept: int
    bound: float
    real_noise: dict[str, float]
    real_description: Description | None
    judged: list[Judged]
    recommended_generator: str
    generator: str
    rows: list[ScalePoint]
    best: ScalePoint
    flat: ScalePoint
    speedup: float
    memory_share: float
    failures: list[Failure]
    limits: Limits
    seconds: float
