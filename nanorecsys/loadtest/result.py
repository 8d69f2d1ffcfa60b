"""The result record of the load test. Latencies are from the intended time of sending, CPU times those of processes."""

import msgspec

from nanorecsys.study.spread import Spread

NO_CORE = "waiting for a core"  # the part of a latency


class LoadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a load against one server.

    `offered_per_s` is null in a closed loop. `goodput_per_s` are answers from the model or the
    cache over the seconds. `refused` are deliberate 503, `failed` every other server error, a lost
    connection or a timeout, `skipped` requests that the generator's bound on requests in flight
    left out. CPU times are milliseconds a request, of the server with all its processes and of the
    generator. `verdict` is VALID, INVALID (a bound is not kept) or VOID (the generator could not
    keep its schedule). Percentiles are null where nothing was answered, or all was due at once.
    """

    scenario: str
    server: str
    offered_per_s: float | None
    seconds: float
    requests: int
    answered: int
    refused: int
    failed: int
    skipped: int
    goodput_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    hit_share: float
    server_cpu_ms: float
    generator_cpu_ms: float
    lag_p99_ms: float
    verdict: str


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """CPU ms a request of baseline and optimized server, which took turns on the same schedule and users.

    `times` is baseline over optimized of each pair. In `void` of the runs the generator was late,
    which voids their latencies, not their CPU times. Where `offered_per_s` is null, clients in a
    closed loop kept each as busy as it can be. `baseline_per_s` and `optimized_per_s` are what they
    answered; older records have neither.
    """

    offered_per_s: float | None
    cold_share: float
    repeats: int
    baseline_cpu_ms: Spread
    optimized_cpu_ms: Spread
    baseline_p99_ms: Spread
    optimized_p99_ms: Spread
    times: Spread
    void: int
    baseline_per_s: Spread | None = None
    optimized_per_s: Spread | None = None


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder: what is new in it, CPU ms a request at the common load with its P99 (null where the run
    was VOID), and the highest offered rate that was VALID, null where none was or none was
    searched."""

    name: str
    change: str
    cpu_ms: float
    p99_ms: float | None
    highest_per_s: float | None
    cpu_at_highest_ms: float | None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of one stage, in ms."""

    p50: float
    p95: float
    p99: float


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Requests between two quantiles of latency: mean ms that they spent in each part, and how many were computed."""

    low: float
    high: float
    requests: int
    mean_ms: float
    computed_share: float
    parts_ms: dict[str, float]

    @property
    def waiting_share(self) -> float:
        """Of its time, in the queue or for a core; older records count the latter with what computes."""
        return (self.parts_ms["queue"] + self.parts_ms.get(NO_CORE, 0.0)) / self.mean_ms


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles at one offered rate, simulated and measured: medians over rounds, with the range of the P99 measured
    in them (null in older records)."""

    offered_per_s: float
    load: float
    predicted_p50_ms: float
    predicted_p95_ms: float
    predicted_p99_ms: float
    measured_p50_ms: float
    measured_p95_ms: float
    measured_p99_ms: float
    measured_p99_low_ms: float | None = None
    measured_p99_high_ms: float | None = None


class CpuTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Of a request, in ms: median and 95th percentile of computing, the event loop for a hit and for others, and the
    generator."""

    compute_p50: float
    compute_p95: float
    loop_hot: float
    loop_cold: float
    generator: float


class ServiceTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What the simulation is told: CPU times where cores are at work, and where work wakes them, there of computing the
    time (CPU time in older records, all null in the oldest); and ms on the wire."""

    busy: CpuTimes | None = None
    idle: CpuTimes | None = None
    wire: float
    batch_cost: list[float]


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """The original's service times in the simulation, at an offered rate that is `load` of its two cores; `hits_wait`
    says whether answers from the cache wait behind what is computed."""

    offered_per_s: float
    load: float
    hits_wait: bool
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """At a multiple of the highest rate: goodput over that at the highest rate, P99 of the answered, and how long
    after the rate fell back the latency bound was kept again. Where the generator was late the run
    is VOID. Of several rounds it is the one with the median P99; `rounds_p99_ms` has that of each,
    and `not_deliberate` counts in all."""

    times_highest: float
    offered_per_s: float
    goodput_per_s: float
    goodput_share: float
    p99_ms: float
    refused_share: float
    not_deliberate: int
    recovery_s: float
    lag_p99_ms: float
    verdict: str
    rounds_p99_ms: list[float] = []  # older records have one round


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """The run with faults. `lost` are requests of clients that stayed, without an answer after their retries; `reasons`
    counts the wrong answers by what was wrong; `events_missing` acknowledged events that are not in
    the log; `tracebacks` are in what the server printed; `rss_mib` is the memory of all its
    processes after each round of faults, always at the same distance from it, `rss_before_mib` that
    before any, and growth is that from the first round to the last, None where there was one."""

    requests: int
    answered: int
    refused: int
    retried: int
    lost: int
    server_errors: int
    compared: int
    wrong: int
    reasons: dict[str, int]
    events_acknowledged: int
    events_missing: int
    cache: str
    workers_killed: int
    reloads: int
    cache_stops: int
    clients_cut: int
    rss_before_mib: float | None = None  # older records have neither this nor the rounds
    rss_mib: list[float] = []
    rss_growth: float | None
    tracebacks: int
    seconds: float


class LoadtestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 06 found.

    `is_study_shape`: the model and catalogue have the study's shape; `is_full`: the loads have
    their full length. `mixed` and `cold` compare the servers at a light load that both carry,
    `busy` and `busy_cold` where both are kept busy; older records have neither of the latter.
    `stages_alone` are of requests sent one at a time, `baseline_stages` the same of the baseline,
    `stages_loaded` of the confirmed highest rate, as are `bands`.
    """

    dataset: str
    is_study_shape: bool
    is_full: bool
    n_users: int
    bootstrapped: bool
    mean_length: float
    window: int
    events_read: int = 0
    cold_share: float
    p99_bound_ms: float
    mixed: Compared
    cold: Compared
    busy: Compared | None = None
    busy_cold: Compared | None = None
    ladder: list[Rung]
    highest: LoadRow | None
    limited_by: str
    loads: list[LoadRow]
    stages_alone: dict[str, Percentiles]
    stages_loaded: dict[str, Percentiles]
    bands: list[Band]
    service: ServiceTimes
    predicted: list[Predicted]
    prediction_error: float | None
    original: list[Original]
    overload: Overload | None
    faults: Faults
    void_runs: int
    baseline_stages: dict[str, Percentiles]
    seconds: float
    seconds_limit: float

    def load(self, scenario: str) -> LoadRow | None:
        """The first run of a scenario."""
        return next((row for row in self.loads if row.scenario == scenario), None)
