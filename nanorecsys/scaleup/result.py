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


class RemotePoint(msgspec.Struct, frozen=True, kw_only=True):
    """An index of n items in this process or in Milvus, searched by 1, 4 and 16 clients at once.

    The recall is of `SERVED_K` neighbours, P50 and P99 of one client. `p99_ms` is None where too
    few requests were timed, `insert_s` in this process. `memory_gib` is resident memory of the
    process that searches, or of Milvus's processes.
    """

    n: int
    place: str
    index: str
    search: str
    exact: bool
    recall: Interval
    p50_ms: Spread
    p99_ms: float | None
    per_s_1: float
    per_s_4: float
    per_s_16: float
    memory_gib: float
    insert_s: float | None
    build_s: float


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """Milvus's P50 less that in process, of exact search or of indexes that keep the floor."""

    n: int
    exact: bool
    hop_ms: float


class HostLimit(msgspec.Struct, frozen=True, kw_only=True):
    """Items whose index fits a host in every worker; None beyond what may be extrapolated."""

    host_gib: float
    items: int | None


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """The same search in this process and in Milvus, and how many items hosts can hold."""

    points: list[RemotePoint]
    hops: list[Hop]
    workers: int
    limits: list[HostLimit]


class ScaleupResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 05 found. `users` query the large catalogue; half of them choose settings.

    `served` is the best index again, at the setting for as many neighbours as a server asks for
    (`SERVED_K`). The large catalogue is made again by `scaleup.write_catalogue` with the record's
    generator, number of items and seed. `remote` is None where there was no Milvus.
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
    remote: Remote | None = None
