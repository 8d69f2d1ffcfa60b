"""The bench on which servers are loaded: what it starts it stops, what it runs it keeps.

Every server asks for the same answers: a share of the requests of users whose answer nobody has
asked for, the rest of a hot set that each server with a cache has answered before. CPU times are
those of all the server's processes.
"""

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from nanorecsys.loadtest import result, scenarios, summary
from nanorecsys.loadtest.bundles import Bundles
from nanorecsys.loadtest.generator import Run
from nanorecsys.loadtest.ladder import BASELINE, FINAL, Rung, climb
from nanorecsys.loadtest.process import ServerProcess
from nanorecsys.loadtest.schedule import poisson
from nanorecsys.loadtest.summary import VOID, timed
from nanorecsys.loadtest.workload import Workload
from nanorecsys.study.spread import spread

BUSY = 0.6  # share of what a server's CPU time allows, at which a search begins
USABLE_CORES = 1.6  # of two, where computing has two threads: the rest is the generator's
BUSY_CLIENTS = 8  # of a closed loop that keeps a server busy
WARM_UP_S = 0.3  # of each run, not counted
HALF_COLD = 0.5  # share of computed requests where it is measured what they cost
SPARSE, LEAST = (
    0.06,
    20,
)  # share of the highest rate at which requests hardly meet, and requests of such a run


class Bench:
    """Starts servers and loads them. Every run's rows are kept in `out`, what it came to in `rows`.

    Args:
        bundles: what is served.
        out: folder of the runs.
        hot_users: size of the hot set.
        cold_share: of requests.
        bound_ms: of the 99th percentile.
        seed: of users and schedules.
        say: is told what begins.
    """

    def __init__(
        self,
        bundles: Bundles,
        out: Path,
        *,
        hot_users: int,
        cold_share: float,
        bound_ms: float,
        seed: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.bundles, self.out, self.seed, self.bound_ms, self.say = (
            bundles,
            out,
            seed,
            bound_ms,
            say,
        )
        self.workload = Workload(len(bundles.lengths), hot_users, cold_share, seed)
        self.rows: list[result.LoadRow] = []
        self.runs: list[Run] = []
        self._folders = 0

    @contextmanager
    def serve(
        self, rung: Rung, *, warm: bool = True, more: Sequence[str] = ()
    ) -> Iterator["Target"]:
        """A started server with the hot set in its cache.

        Args:
            rung: what is started.
            warm: ask for the hot set before anything is measured, where there is a cache.
            more: further arguments of the server.

        Raises:
            NanorecsysError: it does not start.
        """
        self.say(f"{rung.name}: starting")
        folder = self.folder(rung.name)
        arguments = [
            *rung.arguments(self.bundles),
            "--events",
            str(folder / "events.sqlite"),
            *more,
        ]
        with ServerProcess(arguments, log=folder / "server.log") as server:
            target = Target(self, rung, server)
            if warm and rung.cache != "none":
                # one cache knows a user after one pass; of several each has to be met
                scenarios.warm_cache(target.load(), passes=1 if rung.workers == 1 else 12)
            yield target
            server.signal(
                signal.SIGQUIT
            )  # nobody is connected any more whom it would have to wait for

    def folder(self, name: str) -> Path:
        """A new folder of its own."""
        self._folders += 1
        folder = self.out / f"{self._folders:03d}-{name.replace(' ', '-')}"
        folder.mkdir(parents=True)
        return folder

    def frame(self) -> pl.DataFrame:
        """The rows of every run that was kept, `run` counting as `rows` does."""
        frames = [run.frame().drop("body", strict=False) for run in self.runs]
        return pl.concat(
            [f.insert_column(0, pl.lit(i, pl.Int32).alias("run")) for i, f in enumerate(frames)]
        )

    @property
    def void_runs(self) -> int:
        """Runs that are published as void."""
        return sum(row.verdict == VOID for row in self.rows)


class Target:
    """A server that runs, and the loads on it, each with users that are cold to it."""

    def __init__(self, bench: Bench, rung: Rung, server: ServerProcess) -> None:
        self.bench, self.rung, self.server = bench, rung, server
        self._cold_used = 0
        self._load: scenarios.Load | None = None

    def load(self, workload: Workload | None = None) -> scenarios.Load:
        """A new series of runs, its cold users after those of the last."""
        used, bench = self.used(), self.bench
        self._load = scenarios.Load(
            self.server.url,
            workload or bench.workload,
            np.array(bench.bundles.parts.user_ids),
            bench.folder(self.rung.name),
            pids=[self.server.pid],
            bound_ms=bench.bound_ms,
            minimum=1,
            timeout_s=30.0,
            seed=bench.seed,
        )
        self._load.cold_used = used
        return self._load

    def mix(self, cold_share: float | None = None, zipf: float | None = None) -> Workload:
        """The bench's users in another mix."""
        workload = self.bench.workload
        share = workload.cold_share if cold_share is None else cold_share
        return dataclasses.replace(workload, cold_share=share, zipf=zipf)

    def measure(self, scenario: str, call: Callable[[], Run], offered: float | None = None) -> Run:
        """Run a load; where the generator was late, once more. What is published is the last, VOID or not.

        Args:
            scenario: its name in the record.
            call: makes the run.
            offered: requests a second, None in a closed loop.
        """
        self.bench.say(
            f"{self.rung.name}: {scenario}" + (f" at {offered:.0f}/s" if offered else "")
        )
        run = call()
        if run.verdict.kind == VOID:
            run = call()
        self.keep(scenario, run, offered)
        return run

    def poisson(self, scenario: str, load: scenarios.Load, rate: float, seconds: float) -> Run:
        """Measure an open loop."""
        return self.measure(
            scenario, lambda: scenarios.open_loop(load, rate, seconds, WARM_UP_S), rate
        )

    def keep(self, scenario: str, run: Run, offered: float | None) -> None:
        """Publish a run."""
        self.bench.runs.append(run)
        self.bench.rows.append(row_of(run, scenario, self.rung.name, offered))

    def used(self) -> int:
        """Cold users that have been asked for."""
        if self._load is not None:
            self._cold_used = max(self._cold_used, self._load.cold_used)
        return self._cold_used


def row_of(run: Run, scenario: str, server: str, offered: float | None) -> result.LoadRow:
    """A run as the record has it."""
    s = run.summary
    refused = s.statuses.get(503, 0)
    some = s.latency.n > 0
    timed = (
        some and run.plan.mode != "offline"
    )  # where all are due at once, latency is the run's length
    return result.LoadRow(
        scenario=scenario,
        server=server,
        offered_per_s=offered,
        seconds=s.seconds,
        requests=s.offered,
        answered=s.latency.n,
        refused=refused,
        failed=s.errors - refused,
        skipped=s.skipped,
        goodput_per_s=s.goodput_per_s,
        p50_ms=s.latency.p50_ms if timed else None,
        p95_ms=s.latency.p95_ms if timed else None,
        p99_ms=s.latency.p99_ms if timed else None,
        hit_share=s.hit_share if some else 0.0,
        server_cpu_ms=run.server_cpu_ms_per_request if s.answered_since_begin else 0.0,
        generator_cpu_ms=run.cpu_ms_per_request if s.answered_since_begin else 0.0,
        lag_p99_ms=run.lag.p99_ms,
        verdict=run.verdict.kind,
    )


def measure_rung(
    bench: Bench, rung: Rung, rate: float, seconds: float, tries: int, try_s: float
) -> result.Rung:
    """CPU time a request at a common load, and the highest rate by a short search.

    Args:
        bench: where.
        rung: which.
        rate: of the common load, requests a second.
        seconds: of it.
        tries: of the search; 0 for none.
        try_s: of each.
    """
    with bench.serve(rung) as target:
        load = target.load()
        common = target.poisson("ladder, common load", load, rate, seconds)
        cpu_ms = common.server_cpu_ms_per_request
        highest, at_highest = search(
            target, load, first_rate(cpu_ms, rung), tries, try_s, "ladder, search"
        )
    return result.Rung(
        name=rung.name,
        change=rung.change,
        cpu_ms=cpu_ms,
        p99_ms=common.summary.latency.p99_ms
        if common.summary.latency.n and common.verdict.kind != VOID
        else None,
        highest_per_s=highest,
        cpu_at_highest_ms=at_highest.server_cpu_ms_per_request if at_highest else None,
    )


def compare(
    baseline: Target,
    optimized: Target,
    rate: float | None,
    cold_share: float,
    seconds: float,
    repeats: int,
) -> result.Compared:
    """Both servers in turn, on the same schedules and users.

    Args:
        baseline: one.
        optimized: the other.
        rate: requests a second that both carry; None where a few clients in a closed loop keep each
            busy.
        cold_share: of them.
        seconds: of each run.
        repeats: pairs of runs.
    """
    targets = {"baseline": baseline, "optimized": optimized}
    workload = baseline.mix(cold_share)
    scenario = f"{'kept busy' if rate is None else 'compared'}, {cold_share:.0%} cold"
    runs: dict[str, list[Run]] = {name: [] for name in targets}
    tries = 0
    for _ in range(repeats):
        for _ in range(2):  # where the generator was late in one of the two, both run once more
            used = max(target.used() for target in targets.values())
            found = {}
            for name, target in targets.items():
                load = target.load(workload)
                load.cold_used = used
                target.bench.say(f"{target.rung.name}: {scenario}")
                if rate is None:
                    found[name] = scenarios.closed_loop(load, BUSY_CLIENTS, seconds, WARM_UP_S)
                else:
                    found[name] = scenarios.open_loop(
                        load, rate, seconds, WARM_UP_S, seed=1000 + tries
                    )
            tries += 1
            if all(run.verdict.kind != VOID for run in found.values()):
                break
        for name, target in targets.items():
            runs[name].append(found[name])
            target.keep(scenario, found[name], rate)
    cpu = {
        name: np.array([r.server_cpu_ms_per_request for r in found]) for name, found in runs.items()
    }
    tails = {
        name: np.array([r.summary.latency.p99_ms for r in found]) for name, found in runs.items()
    }
    answers = {
        name: np.array([r.summary.goodput_per_s for r in found]) for name, found in runs.items()
    }
    return result.Compared(
        offered_per_s=rate,
        cold_share=cold_share,
        repeats=repeats,
        baseline_cpu_ms=spread(cpu["baseline"]),
        optimized_cpu_ms=spread(cpu["optimized"]),
        baseline_p99_ms=spread(tails["baseline"]),
        optimized_p99_ms=spread(tails["optimized"]),
        times=spread(cpu["baseline"] / cpu["optimized"]),
        void=sum(run.verdict.kind == VOID for found in runs.values() for run in found),
        baseline_per_s=spread(answers["baseline"]),
        optimized_per_s=spread(answers["optimized"]),
    )


def first_rate(cpu_ms: float, rung: Rung) -> float:
    """Where a search begins: below what the CPU time of a request allows."""
    return BUSY * 1000 / cpu_ms * (1 if rung.threads * rung.workers < 2 else USABLE_CORES)


@dataclass(frozen=True)
class Lengths:
    """How long and how often everything is measured; seconds, shares of the highest rate, counts.

    Args:
        single_s: of each single stream, the closed loop and the Zipf replay.
        search_s: of a try.
        precision: relative, of the highest rate.
        confirm_s: of the run that confirms it.
        sweep: shares of the highest rate.
        sweep_s: of each at the highest rate and beyond, longer below it for as many requests,
        sweep_rounds: which take turns.
        cold_shares: of the cold-share sweep.
        cold_load: its rate, as a share of the highest.
        zipf: exponent.
        overload: multiple of the highest rate.
        overload_s: before, during and after,
        overload_rounds: one after the other, see `analysis.middle_overload`.
        tries: of the shorter searches.
    """

    single_s: float
    search_s: float
    precision: float
    confirm_s: float
    sweep: Sequence[float]
    sweep_s: float
    sweep_rounds: int
    cold_shares: Sequence[float]
    cold_load: float
    zipf: float
    overload: float
    overload_s: Sequence[float]
    overload_rounds: int
    tries: int


@dataclass(frozen=True, eq=False)
class Measured:
    """The final server's runs, by what they are for.

    `cold` is a single stream; `hits` is hits alone for many clients, which keep the event loop at
    work: waking up for several, it costs less for each. `highest` is the run that confirmed the
    highest rate, with its row, None where no rate held; `limit` says how the rate above it failed.
    `sweep` has the rounds of each rate; `idle` and `busy` took turns with them. `overload` has its
    rounds, `phases` rate and seconds of before, the overload and after.
    """

    hits: Run
    cold: Run
    highest: Run | None
    highest_row: result.LoadRow | None
    limit: str
    sweep: list[list[tuple[result.LoadRow, Run]]]
    idle: list[Run]
    busy: list[Run]
    overload: list[tuple[result.LoadRow, Run]]
    phases: list[tuple[float, float]]


def pair(bench: Bench, rates: Sequence[float], seconds: float, repeats: int) -> "Pair":
    """Baseline, with the cache that the original's had, and final server beside each other.

    Args:
        bench: where.
        rates: requests a second with the bench's mix and with cold users alone, which both carry.
        seconds: of a run.
        repeats: pairs of runs.
    """
    share = bench.workload.cold_share
    with bench.serve(BASELINE) as baseline, bench.serve(FINAL) as optimized:
        mixed, cold, busy, busy_cold = (
            compare(baseline, optimized, rate, cold_share, seconds, repeats)
            for rate, cold_share in ((rates[0], share), (rates[1], 1.0), (None, share), (None, 1.0))
        )
        load = baseline.load(baseline.mix(1.0))
        alone = baseline.measure(
            "single stream, cold", lambda: scenarios.single_stream(load, seconds)
        )
    return Pair(mixed, cold, busy, busy_cold, alone)


@dataclass(frozen=True, eq=False)
class Pair:
    """What `pair` found: the comparisons, and the baseline's single stream of cold users."""

    mixed: result.Compared
    cold: result.Compared
    busy: result.Compared
    busy_cold: result.Compared
    alone: Run


def search(
    target: Target, load: scenarios.Load, first: float, tries: int, seconds: float, name: str
) -> tuple[float | None, Run | None]:
    """The highest rate that is VALID, in few tries, and its run."""
    valid: dict[float, Run] = {}

    def attempt(rate: float) -> bool:
        run = target.poisson(name, load, rate, seconds)
        if run.verdict.valid:
            valid[rate] = run
        return run.verdict.valid

    highest = climb(attempt, first, tries) if tries else None
    return highest, valid[highest] if highest else None


def final_server(bench: Bench, lengths: Lengths) -> Measured:
    """Every scenario on the final server, one after the other."""
    with bench.serve(FINAL) as target:
        _alone(target, "single stream, hot", 0.0, lengths)
        cold = _alone(target, "single stream, cold", 1.0, lengths)
        load = target.load(target.mix(0.0))
        hits = target.measure(
            "closed loop, hot",
            lambda: scenarios.closed_loop(load, BUSY_CLIENTS, lengths.single_s, WARM_UP_S),
        )
        mixed = _alone(target, "single stream", None, lengths)
        first = first_rate(mixed.server_cpu_ms_per_request, FINAL)
        load = target.load()
        many = int(first * lengths.single_s)
        target.measure("offline", lambda: scenarios.offline(load, many))
        highest, row, limit = _highest(bench, target, first, lengths)
        peak = row.offered_per_s if row else first
        swept, idle, busy = sweep(target, peak, lengths)
        _closed_beside_open(target, lengths)
        load = target.load(target.mix(zipf=lengths.zipf))
        rate = 0.5 * peak
        target.poisson("Zipf replay", load, rate, lengths.single_s)
        for share in lengths.cold_shares:
            load, rate = target.load(target.mix(share)), lengths.cold_load * peak
            name = f"cold share {share:.0%}"
            target.poisson(name, load, rate, lengths.single_s)
        load = target.load(target.mix(1.0))
        first = first_rate(cold.server_cpu_ms_per_request, FINAL)
        search(target, load, first, lengths.tries, lengths.search_s, "all cold, search")
        over, phases = _overload(target, peak, lengths)
    return Measured(hits, cold, highest, row, limit, swept, idle, busy, over, phases)


def _alone(target: Target, name: str, cold_share: float | None, lengths: Lengths) -> Run:
    load = target.load(target.mix(cold_share))
    return target.measure(name, lambda: scenarios.single_stream(load, lengths.single_s, WARM_UP_S))


def _highest(
    bench: Bench, target: Target, first: float, lengths: Lengths
) -> tuple[Run | None, result.LoadRow | None, str]:
    bench.say(f"{target.rung.name}: searching the highest rate")
    load = target.load()
    found = scenarios.server(
        load,
        bench.bound_ms,
        start_rate=first,
        seconds=lengths.search_s,
        warm_up_s=WARM_UP_S,
        precision=lengths.precision,
        confirm_s=lengths.confirm_s,
        confirmations=5,
        step_down=0.12,
        lowest=first / 8,
    )
    for tried, run in zip(found.tries, load.runs, strict=True):
        target.keep("confirming" if tried.step == "confirm" else "search", run, tried.rate)
    if found.confirmed is None:
        return None, None, found.limit
    row = bench.rows[len(bench.rows) - len(found.tries) + found.confirmed]
    return load.runs[found.confirmed], row, found.limit


def sweep(
    target: Target, peak: float, lengths: Lengths
) -> tuple[list[list[tuple[result.LoadRow, Run]]], list[Run], list[Run]]:
    """Shares of a rate in turn, round by round, each round after a run of few requests and one that keeps the cores
    busy: what requests cost in these is what they cost at the time of the sweep, also where the
    machine is shared and slower an hour later.

    Returns:
        the rounds of each share, see `middle`; the runs of few requests; and those of busy cores.
    """
    rounds: list[list[tuple[result.LoadRow, Run]]] = [[] for _ in lengths.sweep]
    idle, busy, few = [], [], max(SPARSE * peak, LEAST / lengths.sweep_s)
    for _ in range(lengths.sweep_rounds):
        load = target.load(target.mix(HALF_COLD))
        idle.append(target.poisson("few requests", load, few, lengths.sweep_s))
        call = partial(scenarios.closed_loop, load, BUSY_CLIENTS, lengths.sweep_s, WARM_UP_S)
        busy.append(target.measure("busy cores", call))
        load = target.load()
        for share, runs in zip(lengths.sweep, rounds, strict=True):
            run = target.poisson("sweep", load, share * peak, lengths.sweep_s / min(share, 1.0))
            runs.append((target.bench.rows[-1], run))
    return rounds, idle, busy


def middle(rounds: Sequence[tuple[result.LoadRow, Run]]) -> tuple[result.LoadRow, Run]:
    """The run with the median P99 of those that are not VOID, the lower of two middle ones; the first if all are."""
    return rounds[summary.middle([row.p99_ms if timed(row) else None for row, _ in rounds])]


def _closed_beside_open(target: Target, lengths: Lengths) -> None:
    """A closed loop of a few clients, and a Poisson stream of the rate that it reached."""
    load = target.load()
    closed = target.measure(
        "closed loop", lambda: scenarios.closed_loop(load, 2, lengths.single_s, WARM_UP_S)
    )
    rate = closed.summary.goodput_per_s
    target.poisson("open loop at that rate", load, rate, lengths.single_s)


def _overload(
    target: Target, peak: float, lengths: Lengths
) -> tuple[list[tuple[result.LoadRow, Run]], list[tuple[float, float]]]:
    phases = list(
        zip((0.5 * peak, lengths.overload * peak, 0.5 * peak), lengths.overload_s, strict=True)
    )
    load = target.load()
    path = target.bench.folder("arrivals") / "arrivals.npy"
    rounds = []
    for number in range(lengths.overload_rounds):
        np.save(path, arrivals(phases, target.bench.seed + number * len(phases)))
        run = target.measure(
            "overload",
            lambda: load.run(
                "overload", mode="open", arrivals=str(path), seconds=sum(lengths.overload_s)
            ),
            phases[1][0],
        )
        rounds.append((target.bench.rows[-1], run))
    return rounds, phases


def arrivals(phases: Sequence[tuple[float, float]], seed: int) -> np.ndarray:
    """Poisson arrivals at one rate after the other, nanoseconds from the start, int64.

    Args:
        phases: rate and seconds of each.
        seed: of them all.
    """
    start, found = 0, []
    for number, (rate, seconds) in enumerate(phases):
        found.append(start + poisson(rate, seconds, seed + number))
        start += int(seconds * 1e9)
    return np.concatenate(found)
