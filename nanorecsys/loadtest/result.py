"""The result record of the load test.

Latencies count from the intended time of sending. CPU times are of all processes of the server.
A percentile is None where too few requests lie beyond it, see `summary.percentile`.
"""

import msgspec
import numpy as np

from nanorecsys.scaleup.result import ScalePoint
from nanorecsys.study.spread import Spread, spread

# Names of servers whose figures are compared with one another.
PYTORCH, ONNX = "original, PyTorch", "original, ONNX"
BASELINE, LAST = "best PyTorch", "second worker"
FULL_ROUNDS = 3  # rounds of full searches from which a highest rate is judged


class LoadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a load against one server.

    Args:
        scenario, server: Names of the scenario and of the server.
        offered_per_s: Offered rate; None in a closed loop.
        seconds: Length of the measured part.
        requests: Requests intended in it.
        answered: Requests answered with 200 from the model or the cache.
        slow: Those of them that took longer than the bound.
        refused: Requests answered with 503.
        failed: Requests with another status or a fallback, a broken connection or a timeout.
        skipped: Requests that the generator left out because too many were in flight.
        goodput_per_s: Good answers a second.
        p50_ms, p95_ms, p99_ms: Latency of the good answers.
        hit_share: Share of the good answers that came from the cache.
        server_cpu_ms, generator_cpu_ms: CPU milliseconds for each good answer.
        busy_share: CPU time of server and generator over that of all cores.
        late_share: Share of the requests that the generator sent late.
        verdict: VALID, INVALID (the server broke a bound) or VOID (the generator was late).
        limit: What broke the bound: P99, refusals, cores or generator; empty in a VALID run.
        reason: Why a run is not VALID.
    """

    scenario: str
    server: str
    offered_per_s: float | None
    seconds: float
    requests: int
    answered: int
    slow: int
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
    busy_share: float
    late_share: float
    verdict: str
    limit: str = ""
    reason: str = ""

    @property
    def rate(self) -> float:
        """Offered rate; 0 in a closed loop."""
        return self.offered_per_s or 0.0

    @property
    def generator_share(self) -> float:
        """CPU time of the generator as a share of one core."""
        return self.generator_cpu_ms * self.goodput_per_s / 1e3


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """How the highest rate of a server is searched, the same for every server.

    Args:
        try_s: Length of a try, in seconds; longer where fewer than `min_requests` would come.
        min_requests: Requests of a try.
        confirm_s: Length of the run that confirms the rate, and of the longest try.
        precision: Relative distance between the rate that holds and the next that does not.
    """

    try_s: float = 5.0
    min_requests: int = 2000
    confirm_s: float = 15.0
    precision: float = 0.05

    def seconds(self, rate: float) -> float:
        """Length of a try at a rate.

        >>> [Search().seconds(rate) for rate in (4000, 200, 50)]
        [5.0, 10.0, 15.0]
        """
        return min(max(self.try_s, self.min_requests / rate), self.confirm_s)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of a server: kept busy, then searched for its highest rate.

    Args:
        cpu_ms: CPU milliseconds for each good answer when kept busy.
        busy_per_s: Good answers a second when kept busy.
        highest_per_s: Highest offered rate that a long run confirmed; 0 where no try held, None
            where it is not known: the generator was late, or no long run held.
        limit: How the next higher rate failed.
        is_eager: Whether the server said that its PyTorch encoder is not compiled.
    """

    cpu_ms: float
    busy_per_s: float
    highest_per_s: float | None
    limit: str
    is_eager: bool = False


class MeasuredServer(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder, or one setting of workers and threads.

    Args:
        name: Name of the server.
        before: Name of the rung that it is compared with; empty for the first.
        change: What is new against that rung.
        findings: Ids of the findings that say what the change does to quality; none if it changes
            the speed alone.
        without: Ids of the findings about parts that this server leaves out.
        workers, threads: Number of workers, and of compute threads of each.
        rounds: The rounds, in which all servers take turns.
    """

    name: str
    before: str
    change: str
    findings: tuple[str, ...]
    without: tuple[str, ...] = ()
    workers: int
    threads: int
    rounds: list[Round]

    @property
    def cpu_ms(self) -> Spread:
        """CPU milliseconds for each good answer when kept busy."""
        return spread(np.array([found.cpu_ms for found in self.rounds]))

    @property
    def busy_per_s(self) -> Spread:
        """Good answers a second when kept busy."""
        return spread(np.array([found.busy_per_s for found in self.rounds]))

    @property
    def rates(self) -> list[float]:
        """The highest rate of each round in which it is known."""
        return [r.highest_per_s for r in self.rounds if r.highest_per_s is not None]

    @property
    def highest_per_s(self) -> Spread | None:
        """The highest rate; None where the generator was late in every round."""
        return spread(np.array(self.rates)) if self.rates else None

    def times_rate(self, other: "MeasuredServer") -> list[float]:
        """The highest rate over that of another server, by round.

        Rounds in which one of the two rates is not known are left out.
        """
        pairs = zip(self.rounds, other.rounds, strict=True)
        rates = [(one.highest_per_s, base.highest_per_s) for one, base in pairs]
        return [one / base for one, base in rates if one is not None and base]

    @property
    def relative_spread(self) -> float | None:
        """Highest less lowest of the highest rates over their median; None where there is none."""
        found = self.highest_per_s
        return (found.high - found.low) / found.middle if found and found.middle else None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one stage in ms."""

    p50: float | None
    p95: float | None
    p99: float | None


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Requests between two quantiles of latency.

    Args:
        low, high: The quantiles.
        mean_ms: Mean latency.
        parts_ms: Mean time in each part, see `summary.PARTS`.
    """

    low: float
    high: float
    mean_ms: float
    parts_ms: dict[str, float]

    @property
    def waiting_share(self) -> float:
        """Share of the time that was spent in the queue or waiting for a core."""
        waited = self.parts_ms["queue"] + self.parts_ms.get("waiting for a core", 0.0)
        return waited / self.mean_ms


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """The original's latency, predicted from its published service times.

    Args:
        offered_per_s: Offered rate.
        load: Share of its two cores that the rate needs.
        hits_wait: Whether hits wait behind what is computed.
        p99_ms: Predicted 99th percentile of latency.
    """

    offered_per_s: float
    load: float
    hits_wait: bool
    p99_ms: float


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """One round of a load beyond the capacity.

    Args:
        computed_share, cached_share: Good answers a second in the overload by where they came from,
            over their peaks, those at the highest rate that a round confirmed.
        p99_ms: 99th percentile of latency of the good answers.
        refused_cold, refused_hot: Shares of the cold and hot users' requests answered with 503.
        lost_share: Share of the requests that failed otherwise or were skipped.
        verdict: VOID where the generator was late, otherwise VALID.
    """

    computed_share: float
    cached_share: float
    p99_ms: float | None
    refused_cold: float
    refused_hot: float
    lost_share: float
    verdict: str


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """CPU milliseconds of a new user's request, at best and measured.

    Args:
        length: Mean number of events that the tower reads.
        macs: Multiply-accumulates of the tower at this length, and of the ranker where it serves.
        gmacs: Billions of multiply-accumulates a second of one thread, in the tower's precision.
        read_mib: MiB of the vectors that a search finds, which it reads at least.
        floor_ms, measured_ms: encode, retrieve, rank where a ranker serves, http and rest. The rest
            is the queue, the batches, the threads and the cache.
    """

    length: float
    macs: int
    gmacs: float
    read_mib: float
    floor_ms: dict[str, float]
    measured_ms: dict[str, float]


class Operated(msgspec.Struct, frozen=True, kw_only=True):
    """What a server costs to start, to keep and to reload, without load.

    Memory is resident, and a shared page counts once. A worker that opens its bundle again still
    has the old one.

    Args:
        start_s: Seconds from the start to the first `ready`.
        reload_s: Seconds until every worker serves the bundle that it opened again.
        memory_mib, reload_mib: Memory when ready, and the highest while reloading.
    """

    start_s: float
    reload_s: float
    memory_mib: float
    reload_mib: float


class ServedScale(msgspec.Struct, frozen=True, kw_only=True):
    """The final server with the real catalogue and with the large one, which took turns.

    Args:
        generator: Generator of the large catalogue.
        index: Index of the large catalogue at the setting that serves, with its recall@100.
        real, large: Rates and CPU time of the two by round.
        real_p99_ms, large_p99_ms: 99th percentile at the highest rate, by round.
        real_cost, large_cost: What they cost to operate.
    """

    generator: str
    index: ScalePoint
    real: MeasuredServer
    large: MeasuredServer
    real_p99_ms: list[float]
    large_p99_ms: list[float]
    real_cost: Operated
    large_cost: Operated

    @property
    def ratios(self) -> list[float]:
        """Highest rate with the large catalogue over that with the real one, by round."""
        return self.large.times_rate(self.real)

    @property
    def ratio(self) -> Spread | None:
        """The spread of `ratios`; None where there is none."""
        return spread(np.array(self.ratios)) if self.ratios else None


class LoadtestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 06 found.

    Args:
        dataset: Name of the data set.
        is_study_shape: Whether model and catalogue have the study's shape.
        n_users, n_items: Number of users and of items in the bundle.
        bootstrapped: Whether the users are drawn from fewer real users.
        mean_length: Mean number of events of a user.
        window, events_read: Last events that the model can read, and that the final server reads.
        cold_share: Share of requests from cold users.
        p99_bound_ms: Bound of the 99th percentile of latency.
        refused_share: Share of the requests that may be refused, fail or be skipped.
        deadline_ms: Longest wait of a request in the server's queue.
        search: Lengths and precision of the search for the highest rates.
        ladder: The rungs.
        grid: The final server with each number of workers and threads.
        final, whole_window: The final server, and the same as it reads the whole window.
        in_kind_stages: Time in each stage of the original's servers in kind, one cold request at a
            time.
        highest: The run that confirmed the lowest of the final server's highest rates; None where
            none was confirmed.
        all_cold: The run that confirmed the highest rate of cold users alone.
        busy_cold: The final server kept busy by cold users alone.
        floor: What a cold user's request costs at best, and in that run.
        stages_alone: Time in each stage, one request at a time.
        stages_loaded: Time in each stage at the highest rate.
        bands: Where the time goes at the highest rate; empty where it has too few requests.
        original: What queueing alone predicts of the original's service times.
        served_scale: The final server with the large catalogue.
        overload_times: Offered rate in the overload as a multiple of the capacity.
        overload: The rounds of the overload; none where no highest rate is known.
        void_runs: Number of runs that are VOID.
    """

    dataset: str
    is_study_shape: bool
    n_users: int
    n_items: int
    bootstrapped: bool
    mean_length: float
    window: int
    events_read: int
    cold_share: float
    p99_bound_ms: float
    refused_share: float
    deadline_ms: float
    search: Search
    ladder: list[MeasuredServer]
    grid: list[MeasuredServer]
    final: MeasuredServer
    whole_window: MeasuredServer
    in_kind_stages: dict[str, dict[str, Percentiles]]
    highest: LoadRow | None
    all_cold: LoadRow | None
    busy_cold: LoadRow
    floor: Floor
    stages_alone: dict[str, Percentiles]
    stages_loaded: dict[str, Percentiles]
    bands: list[Band]
    original: list[Original]
    served_scale: ServedScale
    overload_times: float
    overload: list[Overload]
    void_runs: int

    def server(self, name: str) -> MeasuredServer | None:
        """Find a rung by its name; None where it was not measured."""
        return next((found for found in (*self.ladder, self.final) if found.name == name), None)

    def times_cpu(self, before: str, after: str) -> Spread | None:
        """CPU time a request of one rung over that of another, by round."""
        one, other = self.server(before), self.server(after)
        if not one or not other:
            return None
        pairs = zip(one.rounds, other.rounds, strict=True)
        return spread(np.array([a.cpu_ms / b.cpu_ms for a, b in pairs]))

    @property
    def times_baseline(self) -> Spread | None:
        """CPU time a request of the best server with PyTorch over that of the last rung."""
        return self.times_cpu(BASELINE, LAST)

    @property
    def is_full(self) -> bool:
        """Whether enough full searches were made to judge the final server's highest rate."""
        return len(self.final.rounds) >= FULL_ROUNDS and self.search == Search()

    @property
    def thread_gain(self) -> float | None:
        """Highest rate of one worker with a compute thread over that without one."""
        found = {(c.workers, c.threads): c.highest_per_s for c in self.grid if c.highest_per_s}
        rates = [found[key].middle for key in ((1, 0), (1, 1)) if key in found]
        return rates[1] / rates[0] if len(rates) == 2 and rates[0] else None

    @property
    def overload_rounds(self) -> list[Overload]:
        """The rounds in which the generator was not late, the worst for computed answers first."""
        timed = [found for found in self.overload if found.verdict != "VOID"]
        return sorted(timed, key=lambda found: found.computed_share)
