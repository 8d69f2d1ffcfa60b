"""The result record of the nearest-neighbour chapter. Latencies are of one query at a time on one thread."""

import msgspec

from nanorecsys.ann.limits import Limits
from nanorecsys.study.spread import Spread


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """What building an index took; `peak_rss_mib` is resident memory above that with the vectors loaded."""

    factory: str
    family: str
    build_s: float
    save_s: float
    load_ms: float
    bytes_a_vector: float
    peak_rss_mib: float


class Failure(msgspec.Struct, frozen=True):
    """A specification, or one of its search settings, that did not work: the error's class and message."""

    factory: str
    error: str
    message: str


class Operating(msgspec.Struct, frozen=True, kw_only=True):
    """An index with a search setting.

    `recall_10` and `recall_k` are against exact search, ties counted; `worst_decile` is the mean
    recall_k of the tenth of the users with the lowest. `read_mib` and `floor_ms` are what a query
    reads, and how long that takes at the least; None where nothing is scanned. Times in batches are
    of one thread, a query; `queries_per_s` is of all.
    """

    factory: str
    family: str
    search: str
    recall_10: float
    recall_k: float
    worst_decile: float
    p50_ms: Spread
    p99_ms: Spread
    batch_32_ms: float
    batch_1000_ms: float
    queries_per_s: float
    hitrate: float
    ndcg: float
    bytes_a_vector: float
    read_mib: float | None
    floor_ms: float | None
    on_front: bool


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of an index minus that of Flat, paired by user, with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Confirmed(msgspec.Struct, frozen=True, kw_only=True):
    """A point measured again beside Flat, taking turns; `times_flat` is Flat's P50 over its own.

    `parts_ms` are the milliseconds that each layer of its search adds, by its name (see
    `indexes.layers`): differences of medians, {} for an index without lists.
    """

    factory: str
    family: str
    search: str
    recall_k: float
    bytes_a_vector: float
    p50_ms: Spread
    p99_ms: Spread
    times_flat: float
    parts_ms: dict[str, float] = {}


class Recommended(msgspec.Struct, frozen=True, kw_only=True):
    """The index that the serving bundle takes. `search` is a string of `faiss.ParameterSpace`, "" for none."""

    factory: str
    family: str
    search: str
    recall_10: float
    recall_k: float
    worst_decile: float
    p50_ms: Spread
    p99_ms: Spread
    times_flat: float
    saved_ms: float
    bytes_a_vector: float
    build_s: float
    hitrate_change: Difference
    ndcg_change: Difference


class AnnResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 04 found.

    `best` has one point a specification: the fastest that reaches the floor of recall, or else the
    one with the highest recall. `fastest` is by the recall that is reached. `tenth_p50_ms` is
    Flat's on a tenth of the vectors. `whole_table` says that the specifications were the table's,
    not given ones.
    """

    dataset: str
    n_items: int
    d: int
    real: int
    generator: str
    k: int
    queries: int
    users: int
    recall_floor: float
    memory_bound: float
    families: list[str]
    families_missing: list[str]
    whole_table: bool
    points: int
    builds: list[Build]
    best: list[Operating]
    front: list[Operating]
    failures: list[Failure]
    limits: Limits
    flat_p50_ms: Spread
    flat_p99_ms: Spread
    tenth_p50_ms: float | None
    confirmed: list[Confirmed]
    fastest: dict[str, Confirmed]
    recommended: Recommended
    seconds: float
    seconds_limit: float
