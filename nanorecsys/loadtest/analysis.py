"""From raw rows to the chapter's findings: stages, the tail, overload, the prediction, and sentences."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np
import polars as pl

from nanorecsys.loadtest.generator import Run
from nanorecsys.loadtest.result import (
    NO_CORE,
    Band,
    CpuTimes,
    LoadRow,
    LoadtestResult,
    Original,
    Overload,
    Percentiles,
    Predicted,
    ServiceTimes,
)
from nanorecsys.loadtest.simulation import (
    Costs,
    Machine,
    Prediction,
    Service,
    predict,
    prediction,
    simulate,
)
from nanorecsys.loadtest.summary import COMPUTED, VALID, VOID, good, measured, middle, timed

# Where a request's time goes. They add up to the latency from the intended time.
PARTS = ("generator", "queue", *COMPUTED, NO_CORE, "event loop", "outside")
QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)  # bounds of the bands of latency
_TIMINGS = [
    f"{stage}_{of}" for stage in COMPUTED for of in ("ms", "cpu_ms")
]  # alike only within a micro-batch
BIN_S = 0.5  # a recovery is found in bins of this length
BELOW = 0.8  # share of the highest rate, below which the prediction is claimed
# The original's published service times (P50 and P95 in ms: encode, retrieve, rank), what it says
# of its load, and the CPU time that an answer from its cache took where its server was measured on
# a machine like this one.
ORIGINAL_COMPUTE_MS, ORIGINAL_COLD, ORIGINAL_RATE = (41.0, 76.0), 0.3, 80.0
ORIGINAL_P50_MS, ORIGINAL_P99_MS = 51.0, 580.0
ORIGINAL_HOT_MS, ORIGINAL_WORKERS = 1.5, 2
# Its published breakdown: P50, P95 and P99 in ms by stage, as far as it has them.
PUBLISHED_MS = {
    "total": (51, 200, 580),
    "embedding": (36, 69, None),
    "ranking": (2, 5, None),
    "retrieval": (2, 5, None),
    "compute": (41, 76, None),
}
_Z95 = 1.6449  # of the standard normal distribution


def parts(rows: pl.DataFrame) -> pl.DataFrame:
    """Good answers of the measured part by where their time went: `latency_ms` and one column a part, in ms.

    generator: sent late. queue: until a thread began. encode, retrieve, rank: CPU time of the
    thread that computed, and what else they took is waiting for a core or for the interpreter's
    lock; of a micro-batch each request has all of its batch. event loop: the rest of the server's
    total, with the cache and waiting for an equal request. outside: sockets, the server's loop
    before a handler begins, and the generator's own after the answer is there.
    """
    fine = good(measured(rows)).filter(pl.col("total_ms").is_not_nan())
    total = pl.col("total_ms").cast(pl.Float64)
    cpu = {s: _ms(f"{s}_cpu_ms") for s in COMPUTED}
    took = pl.sum_horizontal(_ms(f"{s}_ms") for s in COMPUTED)
    return fine.select(
        "latency_ms",
        "source",
        "hot",
        generator=(pl.col("sent_ns") - pl.col("intended_ns")) / 1e6,
        queue=_ms("queue_ms"),
        **cpu,
        **{NO_CORE: took - pl.sum_horizontal(cpu.values())},
        **{
            "event loop": total - _ms("queue_ms") - took,
            "outside": pl.col("sent_latency_ms") - total,
        },
    )


def _ms(column: str) -> pl.Expr:
    """Of a stage, 0 where a request did not go through it."""
    return pl.col(column).cast(pl.Float64).fill_nan(0.0)


def bands(rows: pl.DataFrame) -> list[Band]:
    """Mean time in each part, between quantiles of latency; a band without a request is left out."""
    found = parts(rows).sort("latency_ms")
    edges = np.round(np.array(QUANTILES) * len(found)).astype(int)
    made = []
    for (low, high), (start, stop) in zip(
        itertools.pairwise(QUANTILES), itertools.pairwise(edges), strict=True
    ):
        band = found[start:stop]
        if len(band):
            made.append(
                Band(
                    low=low,
                    high=high,
                    requests=len(band),
                    mean_ms=band["latency_ms"].mean(),
                    computed_share=float((band["source"] == "model").mean()),
                    parts_ms={name: band[name].mean() for name in PARTS},
                )
            )
    return made


def stages(rows: pl.DataFrame) -> dict[str, Percentiles]:
    """Percentiles of the original's breakdown: total of all answers; of computed ones embedding, ranking, retrieval,
    the three together and their CPU time, the queue, and their total. Empty where nothing was
    computed."""
    cold = _computed(rows)
    if not len(cold):
        return {}
    columns = {
        "total": good(measured(rows))["latency_ms"],
        "total, computed": cold["latency_ms"],
        "queue": cold["queue_ms"],
        "embedding": cold["encode_ms"],
        "ranking": cold["rank_ms"],
        "retrieval": cold["retrieve_ms"],
        "compute": _compute_ms(cold, "ms"),
        "compute, CPU time": _compute_ms(cold, "cpu_ms"),
    }
    return {name: percentiles(column) for name, column in columns.items()}


def percentiles(values: pl.Series) -> Percentiles:
    """P50, P95 and P99."""
    p50, p95, p99 = np.percentile(values.to_numpy(), (50, 95, 99))
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))


def recovery_s(rows: pl.DataFrame, fell_back_ns: int, bound_ms: float) -> float:
    """Seconds from when the rate fell back until a bin begins from which on all bins keep the bound at P99, without a
    refusal; the end of the last bin if none does.

    Args:
        rows: all of the run.
        fell_back_ns: when the rate fell back.
        bound_ms: of the latency.
    """
    after = rows.filter(pl.col("intended_ns") >= fell_back_ns).with_columns(
        bin=((pl.col("intended_ns") - fell_back_ns) / (BIN_S * 1e9)).floor().cast(pl.Int64),
        ms=pl.when(pl.col("status") == 200)
        .then((pl.col("done_ns") - pl.col("intended_ns")) / 1e6)
        .otherwise(float("inf")),
    )
    bad = (
        after.group_by("bin")
        .agg(
            bad=(pl.col("ms").quantile(0.99, "higher") > bound_ms) | (pl.col("status") != 200).any()
        )
        .filter("bad")
    )
    return 0.0 if bad.is_empty() else (bad["bin"].max() + 1) * BIN_S


def overload(
    rows: pl.DataFrame,
    phases: Sequence[tuple[float, float]],
    row: LoadRow,
    highest: LoadRow,
    bound_ms: float,
) -> Overload:
    """What happened at a multiple of the highest rate, and after it.

    Args:
        rows: of the run, all of it.
        phases: rate and seconds of: before, the overload, after.
        row: of the run in the record.
        highest: the run at the highest rate, whose goodput is the capacity.
        bound_ms: of the latency.
    """
    (_, before_s), (rate, during_s), _ = phases
    begin, end = int(before_s * 1e9), int((before_s + during_s) * 1e9)
    during = rows.filter(pl.col("intended_ns").is_between(begin, end))
    came = good(rows.filter(pl.col("done_ns").is_between(begin, end)))
    goodput = len(came) / during_s
    fine = good(during)
    refused = (during["status"] == 503).sum()
    return Overload(
        times_highest=rate / highest.offered_per_s,
        offered_per_s=rate,
        goodput_per_s=goodput,
        goodput_share=goodput / highest.goodput_per_s,
        p99_ms=float(np.percentile(fine["latency_ms"].to_numpy(), 99))
        if len(fine)
        else float("inf"),
        refused_share=refused / max(len(during), 1),
        not_deliberate=int(
            ((rows["status"] >= 500) & (rows["status"] != 503) | (rows["status"] == 0)).sum()
        ),
        recovery_s=recovery_s(rows, end, bound_ms),
        lag_p99_ms=row.lag_p99_ms,
        verdict=VOID if row.verdict == VOID else VALID,
    )


def middle_overload(rounds: Sequence[Overload]) -> tuple[int, Overload]:
    """The round with the median P99 of those that are not VOID, see `summary.middle`.

    Returns:
        its place in `rounds`; and what happened in it, with the P99 of all that were not VOID, and
        what was not deliberate in any.
    """
    told = [None if found.verdict == VOID else found.p99_ms for found in rounds]
    place = middle(told)
    return place, msgspec.structs.replace(
        rounds[place],
        not_deliberate=sum(found.not_deliberate for found in rounds),
        rounds_p99_ms=[p99 for p99 in told if p99 is not None],
    )


def by_second(rows: pl.DataFrame) -> pl.DataFrame:
    """Requests by the second they were due in: offered, good, refused, and P99 in ms of the good."""
    return (
        rows.with_columns(
            second=(pl.col("intended_ns") / 1e9).floor().cast(pl.Int64),
            good=(pl.col("status") == 200) & (pl.col("source") != "fallback"),
            ms=(pl.col("done_ns") - pl.col("intended_ns")) / 1e6,
        )
        .group_by("second")
        .agg(
            offered=pl.len(),
            good=pl.col("good").sum(),
            refused=(pl.col("status") == 503).sum(),
            p99_ms=pl.col("ms").filter("good").quantile(0.99, "higher"),
        )
        .sort("second")
    )


@dataclass(frozen=True, eq=False)
class Spent:
    """Runs of one kind.

    Args:
        rows: of all of them.
        server_ms: CPU time of the server for an answer,
        generator_ms: and of the generator.
    """

    rows: pl.DataFrame
    server_ms: float
    generator_ms: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Spent":
        """Of runs that differ by chance alone."""
        server, generator = zip(
            *((run.server_cpu_ms_per_request, run.cpu_ms_per_request) for run in runs), strict=True
        )
        return cls(
            pl.concat([run.frame() for run in runs]),
            float(np.mean(server)),
            float(np.mean(generator)),
        )

    def loop(self) -> tuple[float, float]:
        """CPU ms of the event loop for an answer, which is what did not compute; and the share that was computed."""
        answers, computed = len(good(measured(self.rows))), _computed(self.rows)
        once = _compute_ms(
            computed.unique(_TIMINGS), "cpu_ms"
        ).sum()  # each of a batch has all of its batch
        return self.server_ms - once / answers, len(computed) / answers


def service_times(
    idle: Spent, busy: Spent, hot_ms: float, lengths: np.ndarray, batch_cost: Sequence[float]
) -> Service:
    """The simulation's service times.

    What the event loop costs is known for all answers of a run together. That of a hit and of a
    computed answer come from it where cores are busy, since there is a run of hits alone; where
    they are idle each time that the loop wakes is taken to cost the same. What computing takes is
    CPU time where cores are busy, and time where they are idle.

    Args:
        idle: runs of so few requests a second that they hardly ever meet, hits and others.
        busy: runs in which the cores are always at work.
        hot_ms: CPU ms of the server for a hit, in a run of hits alone that keeps the event loop at
            work.
        lengths: events of each user's history that count, int (n_users,).
        batch_cost: see `simulation.calibrate`.
    """
    (loop, share), (seldom, few) = busy.loop(), idle.loop()
    cold_ms = max((loop - (1 - share) * hot_ms) / share, hot_ms)
    # it wakes once for a hit, and twice for what is computed
    wake_ms = max((seldom - (1 - few) * hot_ms - few * cold_ms) / (1 + few), 0.0)
    costs = [
        Costs(*_alone(of.rows, lengths, unit), hot_ms + wake, cold_ms + 2 * wake, of.generator_ms)
        for of, unit, wake in ((busy, "cpu_ms", 0.0), (idle, "ms", wake_ms))
    ]
    hit = good(measured(idle.rows)).filter(pl.col("source") == "cache")["latency_ms"].median()
    return Service(*costs, batch_cost, max(hit - costs[1].hot_ms - costs[1].generator_ms, 0.0))


def _alone(rows: pl.DataFrame, lengths: np.ndarray, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Of requests that were computed without another: events of their histories, and `ms` of time or `cpu_ms`."""
    alone = _computed(rows).filter(pl.len().over(_TIMINGS) == 1)
    return lengths[alone["user"].to_numpy()], _compute_ms(alone, of).to_numpy().astype(np.float64)


def _computed(rows: pl.DataFrame) -> pl.DataFrame:
    """Good answers of the measured part that were computed for the request itself, and not for an equal one."""
    return good(measured(rows)).filter(pl.col("encode_ms").is_not_nan())


def _compute_ms(rows: pl.DataFrame, of: str) -> pl.Series:
    """What encode, retrieve and rank took together: `ms` of time, or `cpu_ms`."""
    return rows.select(pl.sum_horizontal(f"{s}_{of}" for s in COMPUTED)).to_series()


def told(service: Service) -> ServiceTimes:
    """The service times as the record has them."""

    def of(costs: Costs) -> CpuTimes:
        p50, p95 = np.percentile(costs.compute_ms, (50, 95))
        return CpuTimes(
            compute_p50=float(p50),
            compute_p95=float(p95),
            loop_hot=costs.hot_ms,
            loop_cold=costs.cold_ms,
            generator=costs.generator_ms,
        )

    return ServiceTimes(
        busy=of(service.busy),
        idle=of(service.idle),
        wire=service.wire_ms,
        batch_cost=list(service.batch_cost),
    )


def replayed(
    rows: pl.DataFrame, lengths: np.ndarray, service: Service, machine: Machine, seed: int
) -> Prediction:
    """What the simulation makes of a run's own schedule and users.

    Args:
        rows: of the run; what is read of them is when requests were due, of whom, and whether they
            were to be hot.
        lengths: events of each user's history that count.
        service: measured apart from this run.
        machine: what serves.
        seed: of the service times.
    """
    due = rows["intended_ns"].to_numpy() / 1e6
    own, hot, counted = (
        lengths[rows["user"].to_numpy()],
        rows["hot"].to_numpy(),
        ~rows["warm_up"].to_numpy(),
    )
    return prediction(
        simulate(due, hot, own, service, machine, np.random.default_rng(seed)).latency_ms[counted]
    )


def predictions(
    sweep: Sequence[Sequence[tuple[LoadRow, Run]]],
    lengths: np.ndarray,
    service: Service,
    machine: Machine,
    seeds: int,
    highest_per_s: float,
) -> list[Predicted]:
    """Prediction beside measurement at each rate of a sweep: medians over its rounds but those that are VOID.

    Args:
        sweep: the rounds of each rate.
        lengths, service, machine: see `replayed`.
        seeds: how many draws of service times for each round.
        highest_per_s: the highest rate.
    """
    found = []
    for rounds in sweep:
        fine = [(row, run.frame()) for row, run in rounds if timed(row)]
        if not fine:
            continue
        foreseen = [
            replayed(rows, lengths, service, machine, seed)
            for _, rows in fine
            for seed in range(seeds)
        ]
        p99_ms = [row.p99_ms for row, _ in fine]
        rate = rounds[0][0].offered_per_s
        medians = {
            f"{of}_{p}": float(np.median([getattr(one, p) for one in those]))
            for of, those in (("predicted", foreseen), ("measured", [row for row, _ in fine]))
            for p in ("p50_ms", "p95_ms", "p99_ms")
        }
        found.append(
            Predicted(
                offered_per_s=rate,
                load=rate / highest_per_s,
                measured_p99_low_ms=min(p99_ms),
                measured_p99_high_ms=max(p99_ms),
                **medians,
            )
        )
    return found


def prediction_error(predicted: Sequence[Predicted]) -> float | None:
    """The largest relative error of the predicted P99 below `BELOW` of the highest rate; None without such a rate."""
    errors = [abs(p.predicted_p99_ms / p.measured_p99_ms - 1) for p in predicted if p.load < BELOW]
    return max(errors, default=None)


def original(rates: Sequence[float], requests: int, seed: int) -> list[Original]:
    """The original's published service times, its mix and two cores in the simulation, at Poisson arrivals.

    Its times of computing are taken as log-normal with the published median and 95th percentile, in
    two processes that compute one request at a time each and let any number wait. Either hits pass
    by what is computed, or their process cannot answer them meanwhile.
    """
    p50, p95 = ORIGINAL_COMPUTE_MS
    deviation = np.log(p95 / p50) / _Z95
    normal = NormalDist()
    compute = p50 * np.exp(
        deviation * np.array([normal.inv_cdf((i + 0.5) / 2000) for i in range(2000)])
    )
    costs = Costs(np.full(2000, 200), compute, ORIGINAL_HOT_MS, ORIGINAL_HOT_MS, 0.0)
    service = Service(costs, costs)
    work_ms = ORIGINAL_COLD * float(compute.mean()) + ORIGINAL_HOT_MS
    found = []
    for threads, rate in itertools.product((1, 0), rates):
        machine = Machine(
            workers=ORIGINAL_WORKERS,
            threads=threads,
            max_batch=1,
            max_queue=10**9,
            deadline_ms=float("inf"),
        )
        foreseen = predict(service, machine, rate, ORIGINAL_COLD, requests, seed)
        found.append(
            Original(
                offered_per_s=rate,
                load=rate * work_ms / 1e3 / machine.cores,
                hits_wait=threads == 0,
                p50_ms=foreseen.p50_ms,
                p95_ms=foreseen.p95_ms,
                p99_ms=foreseen.p99_ms,
            )
        )
    return found


def limited_by(highest: LoadRow | None, limit: str, cores: int) -> str:
    """What limits the highest rate: the share of the cores that was used at it, and how the next rate failed."""
    if highest is None:
        return "no rate was confirmed"
    used = highest.offered_per_s * (highest.server_cpu_ms + highest.generator_cpu_ms) / 1e3 / cores
    server = highest.server_cpu_ms / max(highest.server_cpu_ms + highest.generator_cpu_ms, 1e-9)
    return (
        f"server and generator together keep {used:.0%} of the {cores} cores busy at it ({server:.0%} of that the "
        f"server's); {limit}"
    )


# Sentences


def story(found: LoadtestResult) -> dict[str, str]:
    """The sentences of the page whose wording depends on how the numbers came out."""
    return {
        "answer": _answer(found),
        "compared_sentence": _compared(found),
        "rate_sentence": _rate(found),
        "limit_sentence": _limit(found),
        "closed_sentence": _closed(found),
        "overload_sentence": _overload(found),
        "tail_sentence": _tail(found),
        "prediction_sentence": _prediction(found),
        "original_sentence": _original(found),
        "faults_sentence": _faults(found),
        "void_sentence": _void(found),
        "population_sentence": _population(found),
        "ladder_sentence": _ladder(found),
    }


def _answer(found: LoadtestResult) -> str:
    if found.highest is None:
        first = f"In this run no rate kept a P99 of {found.p99_bound_ms:g} ms."
    else:
        h = found.highest
        first = (
            f"{h.offered_per_s:,.0f} requests a second at a P99 of {h.p99_ms:.0f} ms (bound {found.p99_bound_ms:g} ms, "
            f"no errors, {h.seconds:.0f} s), server and generator on the same two cores, {found.cold_share:.0%} of the "
            "requests cold."
        )
    tail = _tail(found) if found.highest else ""
    return f"{first} {_compared(found)} {tail}".strip()


def _compared(found: LoadtestResult) -> str:
    m, c = found.busy, found.busy_cold
    return (
        f"Kept busy, a request costs {m.optimized_cpu_ms.middle:.2f} ms of CPU time against "
        f"{m.baseline_cpu_ms.middle:.1f} ms for PyTorch with the same cache ({m.times.middle:.1f} times as much), and "
        f"{c.optimized_cpu_ms.middle:.2f} ms against {c.baseline_cpu_ms.middle:.1f} ms ({c.times.middle:.1f} times) "
        "when every request is computed."
    )


def _rate(found: LoadtestResult) -> str:
    """How the CPU time of a request depends on the rate; empty where no highest rate was confirmed."""
    if found.highest is None:
        return ""
    rare, rare_cold, often = found.mixed, found.cold, found.highest
    told = (
        f"A request of the mix costs the final server {rare.optimized_cpu_ms.middle:.2f} ms at "
        f"{rare.offered_per_s:,.0f} requests a second and {often.server_cpu_ms:.2f} ms at {often.offered_per_s:,.0f}"
    )
    hits = [found.load(s) for s in ("cold share 0%", "closed loop, hot")]
    if all(hits):
        told += f", a hit {hits[0].server_cpu_ms:.2f} ms at {hits[0].goodput_per_s:,.0f}" + (
            f" and {hits[1].server_cpu_ms:.2f} ms at {hits[1].goodput_per_s:,.0f}"
        )
    return (
        f"{told}. PyTorch takes {rare.times.middle:.1f} times as much at {rare.offered_per_s:,.0f} requests a second, "
        f"and {rare_cold.times.middle:.1f} times at {rare_cold.offered_per_s:,.0f} where each is computed."
    )


def _limit(found: LoadtestResult) -> str:
    return f"What limits it: {found.limited_by}."


def _closed(found: LoadtestResult) -> str:
    closed, beside = (found.load(s) for s in ("closed loop", "open loop at that rate"))
    if closed is None or beside is None or not closed.p99_ms or not beside.p99_ms:
        return ""
    ratio = beside.p99_ms / closed.p99_ms
    said = f"{ratio:.1f} times as long as" if ratio >= 1.05 else "no longer than"
    return (
        f"At {closed.goodput_per_s:,.0f} requests a second a closed loop reports a P99 of {closed.p99_ms:.1f} ms; a "
        f"Poisson stream of the same rate waits {beside.p99_ms:.1f} ms at P99, {said} what the closed loop shows: its "
        "clients stop asking while the server is behind."
    )


def _overload(found: LoadtestResult) -> str:
    o = found.overload
    if o is None:
        return "Overload was not measured in this run."
    late = (
        f" The generator was late itself ({o.lag_p99_ms:.0f} ms at P99), so the P99 says little of the server."
        if o.verdict == VOID
        else ""
    )
    rounds = o.rounds_p99_ms
    spread = (
        f" (the median of {len(rounds)} rounds, {min(rounds):.0f} to {max(rounds):.0f})"
        if len(rounds) > 1
        else ""
    )
    return (
        f"At {o.times_highest:.1f} times the highest rate the server still answers {o.goodput_share:.0%} of what it "
        f"answers there, at a P99 of {o.p99_ms:.0f} ms{spread}, and refuses {o.refused_share:.0%} with 503 and "
        f"Retry-After; {o.not_deliberate:,} requests ended in another way. After the rate fell back, the bound was "
        f"kept again within {o.recovery_s:.1f} s.{late}"
    )


def _tail(found: LoadtestResult) -> str:
    if not found.bands:
        return ""
    top = found.bands[-1]
    shares = sorted(((ms / top.mean_ms, name) for name, ms in top.parts_ms.items()), reverse=True)
    first = ", ".join(f"{name} {share:.0%}" for share, name in shares[:3])
    waiting = top.waiting_share
    verdict = "the tail is queueing" if waiting >= 0.5 else "the tail is not queueing alone"
    return (
        f"In the slowest percent ({top.mean_ms:.0f} ms in the mean) the largest parts are {first}; waiting, in the "
        f"queue or for a core, is {waiting:.0%} of it: {verdict}."
    )


def _prediction(found: LoadtestResult) -> str:
    if found.prediction_error is None:
        return "No rate below four fifths of the highest was measured in this run."
    rates = sum(p.load < BELOW for p in found.predicted)
    worst = max(
        (p for p in found.predicted if p.load < BELOW),
        key=lambda p: abs(p.predicted_p99_ms / p.measured_p99_ms - 1),
    )
    way = "above" if worst.predicted_p99_ms > worst.measured_p99_ms else "below"
    return (
        f"Below {BELOW:.0%} of the highest rate ({rates} rates) the predicted P99 is off by at most "
        f"{found.prediction_error:.0%}, at {worst.offered_per_s:,.0f} requests a second, where it is {way} the "
        "measured one."
    )


def _original(found: LoadtestResult) -> str:
    passing, waiting = (
        [o for o in found.original if o.hits_wait == waits] for waits in (False, True)
    )
    if not passing or not waiting:
        return ""
    near = [
        min(them, key=lambda o: abs(o.offered_per_s - ORIGINAL_RATE)) for them in (passing, waiting)
    ]
    figures = [
        f"a P50 of {o.p50_ms:.0f}, a P95 of {o.p95_ms:.0f} and a P99 of {o.p99_ms:.0f} ms"
        for o in near
    ]
    reaching = [o for o in passing if o.p99_ms >= ORIGINAL_P99_MS]
    first = min(reaching, key=lambda o: o.offered_per_s, default=None)
    if near[0].p99_ms >= ORIGINAL_P99_MS:
        verdict = f"the queue alone gives as much as the published P99 of {ORIGINAL_P99_MS:.0f} ms"
    elif first is None:
        verdict = f"less than the published P99 of {ORIGINAL_P99_MS:.0f} ms at every rate tried"
    else:
        verdict = (
            f"less than the published P99 of {ORIGINAL_P99_MS:.0f} ms, which a queue gives only at "
            f"{first.offered_per_s:.0f} requests a second ({first.load:.0%} of two cores). Queueing it was, but of "
            "more work than those service times tell"
        )
    published = f"published median of {ORIGINAL_P50_MS:.0f} ms"
    median = (
        f"The {published} says so too: with most answers from the cache it cannot be that high unless hits waited"
        if near[0].p50_ms < ORIGINAL_P50_MS / 2
        else f"The {published} fits"
    )
    return (
        f"The original's own service times, mix and rate ({near[0].offered_per_s:.0f} requests a second, "
        f"{near[0].load:.0%} of two cores) give {figures[0]} where hits pass by the queue, {figures[1]} where they "
        f"wait behind what is computed: {verdict}. {median}."
    )


def _faults(found: LoadtestResult) -> str:
    f = found.faults
    reasons = "; ".join(f"{why} ({count})" for why, count in f.reasons.items())
    wrong = "none differed" if f.wrong == 0 else f"{f.wrong:,} differed: {reasons}"
    lost = "none was lost" if f.lost == 0 else f"{f.lost:,} were lost"
    kept = (
        "all were in the log"
        if f.events_missing == 0
        else f"{f.events_missing:,} were missing from the log"
    )
    before = f"from {f.rss_before_mib:,.0f} MiB before that " if f.rss_before_mib else ""
    rounds = ", ".join(f"{mib:,.0f}" for mib in f.rss_mib)
    growth = "" if f.rss_growth is None else f" ({f.rss_growth:+.1%} from the first to the last)"
    cache = "Redis" if f.cache == "redis" else "memory, since this machine has no redis-server,"
    return (
        f"{f.requests:,} requests in {f.seconds:.0f} s against two workers with their cache in {cache} while workers "
        f"were killed ({f.workers_killed}), the bundle rebuilt and taken up ({f.reloads}), the cache stopped and "
        f"started ({f.cache_stops}) and clients cut off ({f.clients_cut:,}): {lost}, {f.retried:,} needed a second "
        f"connection, {f.refused:,} were refused, {f.server_errors:,} ended in another server error. {f.compared:,} "
        "answers were compared with a direct computation (the tower in fp32 here, so that what is judged is the "
        f"server): {wrong}. {f.events_acknowledged:,} events were "
        f"acknowledged: {kept}. Memory went {before}to {rounds} MiB after the rounds of faults, each with a bundle "
        f"taken up{growth}."
    )


def _void(found: LoadtestResult) -> str:
    if not found.void_runs:
        return "In no published run was the generator late."
    return (
        f"In {found.void_runs} of {len(found.loads)} published runs the generator was late even when they were made "
        "again: they are marked VOID, and say nothing of the server's latency."
    )


def _population(found: LoadtestResult) -> str:
    if not found.bootstrapped:
        return f"The {found.n_users:,} users are the data set's own."
    return (
        f"The {found.n_users:,} users are bootstrapped: stretches of real histories of the real length distribution, "
        "no two alike to the model."
    )


def _ladder(found: LoadtestResult) -> str:
    if len(found.ladder) < 2:
        return ""
    steps = [
        (a.cpu_ms / b.cpu_ms, b.name) for a, b in zip(found.ladder, found.ladder[1:], strict=False)
    ]
    best = max(steps)
    first, last = found.ladder[0], found.ladder[-1]
    rates = {r.name: r.highest_per_s for r in found.ladder}
    both = [rates.get(name) for name in ("second worker", "second thread")]
    return (
        f"From {first.name} to {last.name} a request went from {first.cpu_ms:.1f} to {last.cpu_ms:.2f} ms of CPU time, "
        f"{first.cpu_ms / last.cpu_ms:.0f} times less; the largest single step was {best[1]} ({best[0]:.1f} times)."
    ) + (
        f" A second worker carries {both[0]:,.0f} requests a second, a second thread in its place {both[1]:,.0f}."
        if all(both)
        else ""
    )
