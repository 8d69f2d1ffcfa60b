"""The result record of chapter 05. Latencies are of single queries on one thread."""

from typing import Literal

import msgspec

from nanorecsys.ann.errors import Failure
from nanorecsys.ann.limits import Limits
from nanorecsys.study.spread import Interval, Spread

Belief = Literal["believable", "undecided", "not believable"]
BELIEFS: tuple[Belief, ...] = ("believable", "undecided", "not believable")  # best first


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The largest difference of one family and metric from the real catalogue's mean recall.

    `metric` is "unseen" or "all", the items among which neighbours are counted. A positive
    difference means that search looks too easy. The 95 % interval is over users, hidden subsets
    and trainings.
    """

    family: str
    setting: str
    metric: str
    interval: Interval


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """A generator in the held-out test on one data set.

    `worst` is the size of the largest difference of any family, setting and metric; `copies` the
    share of synthetic items that are almost copies. `verdict` follows `fidelity.RULE`.
    """

    worst: Interval
    largest: list[Difference]
    copies: float
    verdict: Belief


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A generator in the held-out test. `worst` and `interval` are those of the first data set."""

    generator: str
    worst: float
    interval: Interval
    verdict: Belief
    by_set: dict[str, Fidelity]


class ScalePoint(msgspec.Struct, frozen=True, kw_only=True):
    """An index over n items at the fastest setting that reaches the floor of recall.

    The recall is a mean over users who did not choose the setting, with its 95 % interval.
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
    recall_low: float
    recall_high: float
    p50_ms: Spread
    queries_per_s: float
    bytes_a_vector: float
    build_s: float
    shared_s: float
    build_peak_gib: float
    search_peak_gib: float
    read_mib: float | None
    floor_ms: float | None


class ScaleupResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 05 found. `users` query the large catalogue; half of them choose settings."""

    dataset: str
    n_items: int
    d: int
    real: int
    k: int
    users: int
    recall_floor: float
    subsets: int
    trainings: int
    kept: float
    bound: float
    families: list[str]
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
