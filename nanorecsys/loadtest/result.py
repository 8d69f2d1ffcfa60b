"""The result record of the load test.

Latencies count from the intended time of sending. CPU times are of all processes of the server.
A percentile is None where too few requests lie beyond it, see `summary.percentile`.
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
        slow: Those of them that took longer than the bound.
        refused: Requests answered with 503.
        failed: Requests with another status, a broken connection or a timeout.
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


class ServerComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Baseline and optimized server, which took turns with the same users and schedules.

    Args:
        offered_per_s: Offered rate; None where clients in a closed loop kept both busy.
        cold_share: Share of requests from cold users.
        baseline_cpu_ms, optimized_cpu_ms: CPU milliseconds for each good answer.
        baseline_per_s, optimized_per_s: Good answers a second.
        times: CPU time of the baseline over that of the optimized server, by pair.
    """

    offered_per_s: float | None
    cold_share: float
    baseline_cpu_ms: Spread
    optimized_cpu_ms: Spread
    baseline_per_s: Spread
    optimized_per_s: Spread
    times: Spread


class MeasuredRung(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder.

    Args:
        name: Name of the server.
        change: What is new against its neighbour.
        before: Name of its neighbour, the rung that it is compared with; empty for the first.
        cpu_ms: CPU milliseconds for each good answer when kept busy.
        busy_per_s: Good answers a second when kept busy.
        highest_per_s: Highest offered rate that was VALID; None where none was, or none was tried.
    """

    name: str
    change: str
    before: str
    cpu_ms: float
    busy_per_s: float
    highest_per_s: float | None


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one stage in ms."""

    p50: float | None
    p95: float | None
    p99: float | None


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
    """Percentiles of one run at an offered rate, predicted by the queue and measured."""

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
        p99_ms: Predicted 99th percentile of latency.
    """

    offered_per_s: float
    load: float
    hits_wait: bool
    p99_ms: float


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """One round of a load beyond the capacity.

    Args:
        offered_per_s: Offered rate.
        computed_per_s, cached_per_s: Good answers a second in the overload by where they came from.
        computed_share, cached_share: These over their peaks, those at the highest rate.
        p99_ms: 99th percentile of latency of the good answers.
        refused_cold, refused_hot: Shares of the cold and hot users' requests answered with 503.
        lost_share: Share of the requests that failed otherwise or were skipped.
        verdict: VOID where the generator was late, otherwise VALID.
    """

    offered_per_s: float
    computed_per_s: float
    cached_per_s: float
    computed_share: float
    cached_share: float
    p99_ms: float | None
    refused_cold: float
    refused_hot: float
    lost_share: float
    verdict: str


class LoadtestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 06 found.

    Args:
        dataset: Name of the data set.
        is_study_shape: Whether model and catalogue have the study's shape.
        is_full: Whether the loads have their full length.
        n_users, n_items: Number of users and of items in the bundle.
        bootstrapped: Whether the users are drawn from fewer real users.
        mean_length: Mean number of events of a user.
        window, events_read: Last events that the model can read, and that the final server reads.
        cold_share: Share of requests from cold users.
        p99_bound_ms: Bound of the 99th percentile of latency.
        refused_share: Share of the requests that may be refused, fail or be skipped.
        deadline_ms: Longest wait of a request in the server's queue.
        in_kind: The original's two servers in kind, PyTorch and ONNX, kept busy with the usual mix.
        in_kind_stages: Time in each stage by server, one cold request at a time.
        is_compiled: Whether the encoder of the best PyTorch server was compiled.
        busy, busy_cold: The best PyTorch server and the final one kept busy, with the usual mix and
            with cold users alone.
        mixed: These two at a light rate that both carry.
        ladder: The rungs.
        highest_rates: Highest rate of each round of search and confirmation, 0 where none held;
            rounds are left out in which the generator was late.
        highest: The run that confirmed the lowest of them; None where a round confirmed none.
        limited_by: How the next higher rate failed.
        all_cold: The run that confirmed the highest rate of cold users alone.
        capacity_per_s: Good answers a second of many clients in a closed loop.
        loads: Every run.
        stages_alone: Time in each stage, one request at a time.
        stages_loaded: Time in each stage at the highest rate.
        bands: Where the time goes at the highest rate; empty where it has too few requests.
        predicted: What queueing alone predicts, beside the measurement.
        original: The same for the original's service times.
        overload_times: Offered rate in the overload as a multiple of the capacity.
        overload: The rounds of the overload; none where no highest rate is known.
        void_runs: Number of runs that are VOID.
    """

    dataset: str
    is_study_shape: bool
    is_full: bool
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
    in_kind: ServerComparison
    in_kind_stages: dict[str, dict[str, Percentiles]]
    is_compiled: bool
    busy: ServerComparison
    busy_cold: ServerComparison
    mixed: ServerComparison
    ladder: list[MeasuredRung]
    highest_rates: list[float]
    highest: LoadRow | None
    limited_by: str
    all_cold: LoadRow | None
    capacity_per_s: float
    loads: list[LoadRow]
    stages_alone: dict[str, Percentiles]
    stages_loaded: dict[str, Percentiles]
    bands: list[Band]
    predicted: list[Predicted]
    original: list[Original]
    overload_times: float
    overload: list[Overload]
    void_runs: int

    def neighbours(self, name: str) -> tuple[MeasuredRung, MeasuredRung] | None:
        """Find the rung that a rung is compared with, and the rung itself.

        Returns:
            None where either was not measured, or the rung has no neighbour.
        """
        measured = {rung.name: rung for rung in self.ladder}
        rung = measured.get(name)
        before = measured.get(rung.before) if rung else None
        return (before, rung) if rung and before else None

    @property
    def overload_rounds(self) -> list[Overload]:
        """The rounds in which the generator was not late, the worst for computed answers first."""
        timed = [found for found in self.overload if found.verdict != "VOID"]
        return sorted(timed, key=lambda found: found.computed_share)
