"""The result record of the scale-up chapter. Latencies are of one query at a time on one thread."""

import msgspec

from nanorecsys.ann.limits import Limits
from nanorecsys.ann.result import Failure, Spread
from nanorecsys.scaleup.curves import Curve
from nanorecsys.scaleup.descriptors import Described


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """One family's curve on made-up catalogues beside that on the real one.

    `largest` is the difference of the mean curves that is largest in size, with its sign (positive:
    too easy), at `setting`; `low` and `high` are its 95 % interval over hidden subsets.
    `work_ratio` is work at a recall of 0.95, made up over real; None where one of the two does not
    get there.
    """

    family: str
    largest: float
    setting: int
    low: float
    high: float
    by_subset: list[float]
    work_ratio: float | None
    curve: Curve


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A generator in the held-out test. `worst` is the largest difference of any family, in size.

    `worst_all` is the same where neighbours that the user has seen count as well. `believable` is
    what the rule says: no family further off than the bound, and no copies.
    """

    generator: str
    gaps: list[Gap]
    worst: float
    worst_all: float | None = None
    described: Described
    copies: float
    believable: bool
    reason: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """An index over the first n items of a catalogue, at the fastest setting that reaches the floor of recall.

    `build_s` includes `shared_s`, the time of centroids and lists, which other indexes of the run
    use as well. Peaks are resident memory of the whole process. `read_mib` is what a query reads,
    None for a graph; `floor_ms` how long that takes at the least.
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


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """An index over n items whose setting was chosen on a generator's catalogue: its recall there and on another."""

    factory: str
    search: str
    promised: float
    found: float
    generator: str = "independent"
    n: int = 0


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """value = factor * n ** power, fitted on the sizes that reach the floor of recall."""

    family: str
    what: str
    factor: float
    power: float
    points: int


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the planning table: what n items at a rate take, and whether one machine still has that.

    `measured` says that n is within the sizes that were measured; all else is extrapolation.
    """

    n: int
    rate: float
    p99_ms: float
    vcpu: float
    memory_gib: float
    measured: bool
    one_machine: bool


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a generator wrote a catalogue: synthetic rows a second, the fit included."""

    generator: str
    n: int
    seconds: float
    rate: float


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
    copies_bound: float
    real_curves: dict[str, Curve]
    real_noise: dict[str, float]
    real_described: Described
    judged: list[Judged]
    recommended_generator: str
    generator: str
    generated: list[Generated]
    rows: list[Row]
    growth: list[Growth]
    planned: list[Planned]
    moved: list[Moved]
    moved_at: int = 0
    graph_stop: str
    best: Row
    flat: Row
    speedup: float
    memory_share: float
    peak_gib: float
    failures: list[Failure]
    limits: Limits
    seconds: float
    seconds_limit: float
