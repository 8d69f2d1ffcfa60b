"""The bench: it starts servers, sends loads and keeps the results.

Every server gets the same mix: a share of the requests comes from users who have not asked before,
the others from a hot set whose answers are in the cache before the measurement. The scenarios
follow MLPerf's load generator: single stream, server (a Poisson stream) and offline.

    with bench.start(ladder.FINAL) as server:
        run = server.open_loop("steady", rate=200, seconds=10)
        run.row.p95_ms, summary.stages(run.rows)
    found = measure(bench, ladder.RUNGS, Search(), rounds=3, kept=Path("rounds"))
    found[ladder.FINAL].highest_per_s
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import call_once, fingerprint
from nanorecsys.loadtest.bundles import Bundles
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.generator import Load, Sent, generate, poisson
from nanorecsys.loadtest.ladder import Rung, climb
from nanorecsys.loadtest.population import Workload
from nanorecsys.loadtest.result import LoadRow, MeasuredServer, Round, Search
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.loadtest.summary import SLOW_SHARE, VALID, VOID, frame_of, summarize
from nanorecsys.system.processes import watch_parent

# Servers are nicer than the generator, which would otherwise be late when they use all cores.
SERVER = ("nice", "-n", "5", sys.executable, "-m", "server")
CLIENTS = 16  # clients of a closed loop that keeps a server busy
WARM_UP_S = 0.3  # seconds of each run before it counts
BUSY_SHARE = 0.7  # share of what a busy server answers, at which a search begins
WARM_PASSES = 64  # passes over the hot set, at most: a worker may get few of the connections
WARM_SHARE = 0.99  # share of hits at which the caches count as warm
CLOSED_PER_S = 20_000  # requests/s for which a closed loop has users, at most
SEARCH, CONFIRM = "search", "confirming"
LONG_RUNS = 12  # long runs that confirm a rate, at most, each lower than the one before
PAUSE = 0.2  # wait before a further long run, as a share of its length


@dataclass(frozen=True, eq=False)
class LoadRun:
    """One run: its row in the record, and the rows of its requests (see `summary`).

    The tries of a search keep no rows of requests.
    """

    row: LoadRow
    rows: pd.DataFrame


@dataclass(eq=False)
class Bench:
    """Starts servers, and keeps every run.

    Args:
        bundles: Bundles to serve.
        folder: Folder for logs and events of the servers.
        hot_users: Size of the hot set.
        cold_share: Share of the requests from cold users.
        bound_ms: Bound of the 99th percentile of latency.
        refused_share: Share of the requests that may be refused, fail or be skipped.
        seed: Random seed of users and schedules.
        report: Called with what begins.
    """

    bundles: Bundles
    folder: Path
    hot_users: int
    cold_share: float
    bound_ms: float
    refused_share: float
    seed: int
    report: Callable[[str], object] = lambda _: None

    def __post_init__(self) -> None:
        self.user_ids: list[Any] = np.asarray(self.bundles.served.user_ids).tolist()
        n_users = len(self.user_ids)
        self.workload = Workload(n_users, self.hot_users, self.cold_share, self.seed)
        self.generator = ProcessPoolExecutor(1, get_context("spawn"), watch_parent)
        self.runs: list[LoadRun] = []
        self.servers: list[LoadedServer] = []

    def start(self, rung: Rung) -> "LoadedServer":
        """Start a server and fill its cache with the hot set.

        Raises:
            LoadTestError: It does not start, or its cache does not fill.
        """
        self.report(f"{rung.name}: starting")
        folder = self.folder / f"{len(self.servers) + 1:02d}-{rung.name.replace(' ', '-')}"
        arguments = [*rung.arguments(self.bundles), "--events", folder / "events.sqlite"]
        process = ServerProcess(arguments, log=folder / "server.log", command=SERVER)
        process.start()
        server = LoadedServer(self, rung, process)
        self.servers.append(server)
        try:
            server.warm_cache()
        except BaseException:
            server.stop()
            raise
        return server

    def send(self, load: Load) -> Sent:
        """Send a load from the generator's process.

        Raises:
            LoadTestError: The process ended, or a connection was refused before the start.
        """
        try:
            return self.generator.submit(generate, load).result()
        except (BrokenProcessPool, OSError) as error:
            remedy = "Look into the server's log and at the free memory, then start again."
            raise LoadTestError(f"the load generator failed: {error}", remedy) from error

    def close(self) -> None:
        """Stop the servers that still run, and end the generator's process."""
        for server in self.servers:
            server.stop()
        self.generator.shutdown()

    def rows(self) -> list[LoadRow]:
        """List the row of each run."""
        return [run.row for run in self.runs]

    def frame(self) -> pd.DataFrame:
        """Join the rows of all runs that keep them; `run` is the place of the run in `rows()`."""
        return pd.concat(
            [run.rows.assign(run=number) for number, run in enumerate(self.runs)],
            ignore_index=True,
        )


class LoadedServer:
    """A running server and the loads on it, each with users who are cold to it."""

    def __init__(self, bench: Bench, rung: Rung, process: ServerProcess) -> None:
        self.bench, self.rung, self.process = bench, rung, process
        self.cold_used = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop()

    def warm_cache(self) -> None:
        """Ask for the hot set until its answers come from the cache, whichever worker answers."""
        rng = np.random.default_rng(self.bench.seed)
        for _ in range(WARM_PASSES):
            users = rng.permutation(self.bench.workload.hot)
            sent = self._send(users, clients=16, seconds=60.0)
            if (sent.rows.source == "cache").sum() >= WARM_SHARE * len(users):
                return
        raise LoadTestError(
            f"the cache of {self.rung.name} does not hold the hot set after {WARM_PASSES} passes",
            "Use fewer hot users, or a cache that holds them all.",
        )

    def open_loop(
        self,
        scenario: str,
        rate: float,
        seconds: float,
        *,
        cold_share: float | None = None,
        due_ns: np.ndarray | None = None,
        warm_up_s: float = WARM_UP_S,
        attempts: int = 2,
        stop_early: bool = False,
    ) -> LoadRun:
        """Send a Poisson stream of requests, whatever the server does.

        Args:
            scenario: Name in the record.
            rate: Offered rate, requests/s.
            seconds: Length of the measured part.
            cold_share: Share of the requests from cold users; the bench's by default.
            due_ns: Arrivals in place of a Poisson stream, see `Load`.
            warm_up_s: Seconds before the measured part.
            attempts: Number of attempts while the generator is late; the last one is kept.
            stop_early: Whether the run ends when too many requests were refused, failed or slow.
        """
        if due_ns is None:
            due_ns = poisson(rate, warm_up_s + seconds, self.bench.seed + len(self.bench.runs))
        load: dict[str, Any] = {"due_ns": due_ns, "warm_up_s": warm_up_s, "seconds": seconds}
        load["max_slow"] = SLOW_SHARE * rate * seconds if stop_early else math.inf
        load["bound_ms"] = self.bench.bound_ms
        return self._run(scenario, rate, len(due_ns), cold_share, attempts, **load)

    def closed_loop(
        self,
        scenario: str,
        clients: int,
        seconds: float,
        *,
        cold_share: float | None = None,
        min_requests: int = 0,
    ) -> LoadRun:
        """Run clients that send the next request when the last one is answered.

        One client is MLPerf's single stream; many keep the server busy (offline).

        Args:
            scenario: Name in the record.
            clients: Number of clients.
            seconds: Length of the measured part.
            cold_share: Share of the requests from cold users; the bench's by default.
            min_requests: Number of requests before which the run does not end.
        """
        n = int(CLOSED_PER_S * (WARM_UP_S + seconds)) + min_requests
        load: dict[str, Any] = {"clients": clients, "min_requests": min_requests}
        load |= {"warm_up_s": WARM_UP_S, "seconds": seconds}
        return self._run(scenario, None, n, cold_share, **load)

    def _run(
        self,
        scenario: str,
        rate: float | None,
        n: int,
        cold_share: float | None,
        attempts: int = 1,
        *,
        warm_up_s: float,
        **load: Any,
    ) -> LoadRun:
        """Send a load, again where the generator was late, and keep the last run."""
        bench, workload, begin_ns = self.bench, self.bench.workload, int(warm_up_s * 1e9)
        bench.report(f"{self.rung.name}: {scenario}" + (f" at {rate:.0f}/s" if rate else ""))
        if cold_share is not None:
            workload = dataclasses.replace(workload, cold_share=cold_share)
        bounds = bench.bound_ms, bench.refused_share
        for _ in range(attempts):
            users, hot = workload.draw(n, self.cold_used)
            sent = self._send(users, warm_up_s=warm_up_s, **load)
            n_sent = len(sent.rows)
            self.cold_used += int((~hot[:n_sent]).sum())
            rows = frame_of(sent, users[:n_sent], hot[:n_sent], begin_ns)
            row = summarize(sent, rows, begin_ns, scenario, self.rung.name, rate, *bounds)
            if row.verdict != VOID:
                break
        bench.runs.append(LoadRun(row, rows.head(0) if scenario.startswith(SEARCH) else rows))
        return bench.runs[-1]

    def _send(self, users: np.ndarray, **load: Any) -> Sent:
        user_ids = [self.bench.user_ids[user] for user in users.tolist()]
        pid = self.process.process.pid
        whole = Load(port=self.process.port, user_ids=user_ids, server_pid=pid, **load)
        return self.bench.send(whole)


def find_highest(
    server: LoadedServer, search: Search, first: float, cold_share: float | None = None
) -> tuple[LoadRun | None, float | None, str]:
    """Search the highest rate that is VALID, and confirm it by a long run.

    A rate that the long run does not confirm is lowered by the precision of the search. The search
    waits before each further long run, so that one stall of the machine fails fewer of them.

    Args:
        server: The server.
        search: Lengths and precision.
        first: First rate, a guess, in requests/s.
        cold_share: Share of the requests from cold users; the bench's by default.

    Returns:
        The run that confirmed a rate, None where none did; the rate, 0 where no try held and None
        where it is not known: the generator was late, or no long run held; and how the next higher
        rate failed.
    """
    runs, n_before = server.bench.runs, len(server.bench.runs)
    mix = "" if cold_share is None else f", {cold_share:.0%} cold"

    def holds(rate: float, scenario: str = SEARCH, seconds: float = 0.0) -> bool:
        name, seconds = scenario + mix, seconds or search.seconds(rate)
        run = server.open_loop(name, rate, seconds, cold_share=cold_share, stop_early=True)
        return run.row.verdict == VALID

    rate = climb(holds, first, search.precision) or 0.0
    n_searched, confirmed = len(runs), None
    while rate and not confirmed and len(runs) < n_searched + LONG_RUNS:
        if len(runs) > n_searched:
            time.sleep(PAUSE * search.confirm_s)
        confirmed = runs[-1] if holds(rate, CONFIRM, search.confirm_s) else None
        rate /= 1 + search.precision
    tried = [run.row for run in runs[n_before:]]
    failed = [row for row in tried if row.verdict != VALID and row.rate > rate_of(confirmed)]
    limit = "no higher rate was tried"
    if failed:
        row = min(failed, key=lambda row: row.rate)
        limit = f"{row.limit} at {row.rate:,.0f}/s: {row.reason}"
    # Where tries held and no long run did, the machine may have stalled, and not the server.
    had_long_runs = len(runs) > n_searched
    is_unknown = not confirmed and (had_long_runs or all(row.verdict == VOID for row in tried))
    return confirmed, None if is_unknown else rate_of(confirmed), limit


def measure_round(bench: Bench, rung: Rung, search: Search, first: float | None = None) -> Round:
    """Start a server, keep it busy, and search its highest rate.

    Args:
        bench: The bench.
        rung: The server.
        search: Lengths and precision of the search.
        first: First rate of the search; by default a share of what the busy server answers.
    """
    with bench.start(rung) as server:
        enough = search.min_requests // 2
        busy = server.closed_loop("kept busy", CLIENTS, search.try_s, min_requests=enough).row
        first = first or BUSY_SHARE * busy.goodput_per_s
        _, rate, limit = find_highest(server, search, first)
        is_eager = "not compiled" in server.process.printed()
    return Round(
        cpu_ms=busy.server_cpu_ms,
        busy_per_s=busy.goodput_per_s,
        highest_per_s=rate,
        limit=limit,
        is_eager=is_eager,
    )


def measure(
    bench: Bench, rungs: Sequence[Rung], search: Search, rounds: int, kept: Path
) -> dict[Rung, MeasuredServer]:
    """Measure servers in rounds, in which they take turns; every other round runs backwards.

    A round whose file is there, since the chapter was killed later, is not measured again.

    Args:
        bench: The bench.
        rungs: The servers; one that is there twice is measured once.
        search: Lengths and precision of each search. It starts from the last round's rate.
        rounds: Number of rounds.
        kept: Folder for a file of each round, of the same chapter and inputs.
    """
    found: dict[Rung, list[Round]] = {rung: [] for rung in rungs}

    def measured(rung: Rung, first: float | None) -> tuple[Round, list[LoadRun]]:
        begin = len(bench.runs)
        return measure_round(bench, rung, search, first), bench.runs[begin:]

    for number in range(rounds):
        for rung in list(found)[:: -1 if number % 2 else 1]:
            first = found[rung][-1].highest_per_s if number else None
            begin, turn = len(bench.runs), fingerprint([*found], number, rung, search, first)
            round_, runs = call_once(kept / f"{turn}.round", measured, rung, first)
            bench.runs[begin:] = runs
            found[rung].append(round_)
    told = ("name", "before", "change", "findings", "without", "workers", "threads")
    return {
        rung: MeasuredServer(rounds=rounds, **{name: getattr(rung, name) for name in told})
        for rung, rounds in found.items()
    }


def rate_of(run: LoadRun | None) -> float:
    """The offered rate of a run; 0 where there is none."""
    return run.row.rate if run else 0.0


def arrivals(phases: Sequence[tuple[float, float]], seed: int) -> np.ndarray:
    """Draw Poisson arrivals at one rate after another, nanoseconds from the start, int64.

    Args:
        phases: Rate and seconds of each phase.
        seed: Random seed.
    """
    start_ns, found = 0, []
    for number, (rate, seconds) in enumerate(phases):
        found.append(start_ns + poisson(rate, seconds, seed + number))
        start_ns += int(seconds * 1e9)
    return np.concatenate(found)
