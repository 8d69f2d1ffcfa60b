"""The result record of the load test.

Latencies count from the intended time of sending. CPU times are of all processes of the server.
"""

import msgspec

from nanorecsys.study.spread import Spread


class LoadRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a load against one server.

    Args:
        scenario, server: Names of the scenario and of the server.
        offered_per_s: Offered rate; None in a closed loop.
        seconds: Length of the measured part.
        requests: Requests intended in it.
        answered: Requests answered with 200 from the model or the cache.
        refused: Requests answered with 503.
        failed: Requests with another status, a broken connection or a timeout.
        skipped: Requests that the generator left out because too many were in flight.
        goodput_per_s: Good answers a second.
        p50_ms, p95_ms, p99_ms: Latency of the good answers; None where there is none.
        hit_share: Share of the good answers that came from the cache.
        server_cpu_ms, generator_cpu_ms: CPU milliseconds a request.
        lag_p99_ms: 99th percentile of how late the generator sent.
        verdict: VALID, INVALID (the server broke a bound) or VOID (the generator was late).
        reason: Why a run is not VALID.
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
    reason: str = ""


class ServerComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Baseline and optimized server, which took turns with the same users and schedules.

    Args:
        offered_per_s: Offered rate; None where clients in a closed loop kept both busy.
        cold_share: Share of requests from cold users.
        repeats: Number of pairs of runs.
        baseline_cpu_ms, optimized_cpu_ms: CPU milliseconds a request.
        baseline_p99_ms, optimized_p99_ms: 99th percentile of latency, over the pairs without a VOID
            run; None where there is no such pair.
        baseline_per_s, optimized_per_s: Good answers a second.
        times: CPU time of the baseline over that of the optimized server, by pair.
        void: Number of runs in which the generator was late; their CPU times count all the same.
    """

    offered_per_s: float | None
    cold_share: float
    repeats: int
    baseline_cpu_ms: Spread
    optimized_cpu_ms: Spread
    baseline_p99_ms: Spread | None
    optimized_p99_ms: Spread | None
    baseline_per_s: Spread
    optimized_per_s: Spread
    times: Spread
    void: int


class MeasuredRung(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder.

    Args:
        name: Name of the server.
        change: What is new against the rung before.
        cpu_ms: CPU milliseconds a request at the rate that every rung carries.
        p99_ms: 99th percentile of latency there; None where the run was VOID.
        highest_per_s: Highest offered rate that was VALID; None where none was, or none was tried.
        cpu_at_highest_ms: CPU milliseconds a request at that rate.
    """

    name: str
    change: str
    cpu_ms: float
    p99_ms: float | None
    highest_per_s: float | None
    cpu_at_highest_ms: float | None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one stage in ms."""

    p50: float
    p95: float
    p99: float


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """Requests between two quantiles of latency.

    Args:
        low, high: The quantiles.
        requests: Number of requests.
        mean_ms: Mean latency.
        computed_share: Share that was computed, not answered from the cache.
        parts_ms: Mean time in each part, see `summary.PARTS`.
    """

    low: float
    high: float
    requests: int
    mean_ms: float
    computed_share: float
    parts_ms: dict[str, float]

    @property
    def waiting_share(self) -> float:
        """Share of the time that was spent in the queue or waiting for a core."""
        waited = self.parts_ms["queue"] + self.parts_ms.get("waiting for a core", 0.0)
        return waited / self.mean_ms


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles at one offered rate, predicted by the queue and measured: medians over rounds."""

    offered_per_s: float
    load: float
    predicted_p50_ms: float
    predicted_p99_ms: float
    measured_p50_ms: float
    measured_p99_ms: float

    @property
    def p99_error(self) -> float:
        """Relative error of the predicted P99."""
        return self.predicted_p99_ms / self.measured_p99_ms - 1


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """The original's latency, predicted from its published service times.

    Args:
        offered_per_s: Offered rate.
        load: Share of its two cores that the rate needs.
        hits_wait: Whether hits wait behind what is computed.
        p50_ms, p95_ms, p99_ms: Predicted latency.
    """

    offered_per_s: float
    load: float
    hits_wait: bool
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """A multiple of the highest rate: of several rounds, the one with the median P99.

    Args:
        times_highest: Offered rate over the highest rate.
        offered_per_s: Offered rate.
        goodput_per_s: Good answers a second in the overload.
        goodput_share: Goodput over that at the highest rate.
        p99_ms: 99th percentile of latency of the good answers.
        refused_share: Share of the requests answered with 503.
        not_deliberate: Requests that failed otherwise, in all rounds.
        recovery_s: Seconds until the bound was kept again after the rate fell back.
        lag_p99_ms: 99th percentile of how late the generator sent.
        verdict: VOID where the generator was late, otherwise VALID.
        rounds_p99_ms: 99th percentile of latency in each round that is not VOID.
    """

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
    rounds_p99_ms: list[float] = []


class LoadtestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 06 found.

    Args:
        dataset: Name of the data set.
        is_study_shape: Whether model and catalogue have the study's shape.
        is_full: Whether the loads have their full length.
        n_users: Number of users in the bundle.
        bootstrapped: Whether they are drawn from fewer real users.
        mean_length: Mean number of events of a user.
        window, events_read: Last events that the model can read, and that the final server reads.
        cold_share: Share of requests from cold users.
        p99_bound_ms: Bound of the 99th percentile of latency.
        mixed: The two servers at a light rate that both carry.
        busy, busy_cold: The two servers kept busy, with the usual mix and with cold users alone.
        ladder: The rungs.
        highest: The run that confirmed the highest rate; None where none was confirmed.
        limited_by: How the next higher rate failed.
        loads: Every run.
        stages_alone, baseline_stages: Time in each stage, one request at a time.
        stages_loaded: Time in each stage at the highest rate.
        bands: Where the time goes at the highest rate.
        predicted: What queueing alone predicts, beside the measurement.
        original: The same for the original's service times.
        overload: The overload; None where no highest rate is known.
        void_runs: Number of runs that are VOID.
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
    mixed: ServerComparison
    busy: ServerComparison
    busy_cold: ServerComparison
    ladder: list[MeasuredRung]
    highest: LoadRow | None
    limited_by: str
    loads: list[LoadRow]
    stages_alone: dict[str, Percentiles]
    stages_loaded: dict[str, Percentiles]
    baseline_stages: dict[str, Percentiles]
    bands: list[Band]
    predicted: list[Predicted]
    original: list[Original]
    overload: Overload | None
    void_runs: int
