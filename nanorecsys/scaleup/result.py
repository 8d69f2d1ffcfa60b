"""The result record of chapter 05. Latencies are of single queries on one thread."""

from typing import Literal

import msgspec

from nanorecsys.ann.errors import Failure
from nanorecsys.study.spread import Interval, Spread

SERVED_K = 100  # neighbours that a server asks for
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
    """A generator in the held-out test. `worst` is that of the first data set."""

    generator: str
    worst: float
    verdict: Belief
    by_set: dict[str, Fidelity]


class ScalePoint(msgspec.Struct, frozen=True, kw_only=True):
    """An index over n items at the fastest setting that reaches the floor of recall.

    The recall is a mean over users who did not choose the setting, with its 95 % interval.
    `build_s` includes the centroids and lists that other indexes use as well. `build_peak_gib` and
    `served_gib` are resident memory of the whole process, at most while it builds, and with the
    index loaded and searched.
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
    bytes_a_vector: float
    build_s: float
    build_peak_gib: float
    served_gib: float


class ScaleupResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 05 found. `users` query the large catalogue; half of them choose settings.

    `served` is the best index again, at the setting for as many neighbours as a server asks for
    (`SERVED_K`). The large catalogue is made again by `scaleup.write_catalogue` with the record's
    generator, number of items and seed.
    """

    dataset: str
    n_items: int
    d: int
    real: int
    k: int
    users: int
    recall_floor: float
    memory_bound: float
    bound: float
    families: list[str]
    judged: list[Judged]
    recommended_generator: str
    generator: str
    seed: int
    rows: list[ScalePoint]
    best: ScalePoint
    flat: ScalePoint
    served: ScalePoint
    speedup: float
    memory_share: float
    failures: list[Failure]
    seconds: float
