"""The bench: it starts servers, sends loads and keeps the results.

Every server gets the same mix: a share of the requests comes from users who have not asked before,
the others from a hot set whose answers are in the cache before the measurement. The scenarios
follow MLPerf's load generator: single stream, server (a Poisson stream) and offline.

    with bench.start(ladder.FINAL) as server:
        run = server.open_loop("steady", rate=200, seconds=10)
        run.row.p95_ms, summary.stages(run.rows)
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from nanorecsys.loadtest import result
from nanorecsys.loadtest.bundles import Bundles
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.generator import Load, Sent, end_with_parent, generate, poisson
from nanorecsys.loadtest.ladder import FINAL, Rung, climb
from nanorecsys.loadtest.population import Workload
from nanorecsys.loadtest.result import LoadRow
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.loadtest.summary import VALID, VOID, frame_of, summarize
from nanorecsys.study.spread import spread

# Servers are nicer than the generator, which would otherwise be late when they use all cores.
SERVER = ("nice", "-n", "5", sys.executable, "-m", "server")
BUSY_CLIENTS = 8  # clients of a closed loop that keeps a server busy
WARM_UP_S = 0.3  # seconds of each run before it counts
PATIENT_MS = 60_000.0  # deadline of every server but the final one
BUSY_SHARE = 0.6  # share of what a busy server answers, at which a search begins
WARM_PASSES = 64  # passes over the hot set, at most: a worker may get few of the connections
WARM_SHARE = 0.99  # share of hits at which the caches count as warm
CLOSED_PER_S = 20_000  # requests/s for which a closed loop has users, at most
LONG_RUNS, STEP_DOWN = 5, 0.12  # long runs that confirm, at most, each lower by this share
TRIES = 12  # tries of a search, at most


@dataclass(frozen=True, eq=False)
class LoadRun:
    """One run: its row in the record, and the rows of its requests (see `summary`)."""

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
        deadline_ms: Longest wait of a request in the final server's queue. The other servers
            reject nothing in time, so that a closed loop keeps each of them busy with answers.
        seed: Random seed of users and schedules.
        report: Called with what begins.
    """

    bundles: Bundles
    folder: Path
    hot_users: int
    cold_share: float
    bound_ms: float
    refused_share: float
    deadline_ms: float
    seed: int
    report: Callable[[str], object] = lambda _: None

    def __post_init__(self) -> None:
        self.user_ids: list[Any] = np.asarray(self.bundles.served.user_ids).tolist()
        n_users = len(self.user_ids)
        self.workload = Workload(n_users, self.hot_users, self.cold_share, self.seed)
        self.generator = _start_generator()
        self.runs: list[LoadRun] = []
        self.servers: list[LoadedServer] = []

    def start(self, rung: Rung) -> "LoadedServer":
        """Start a server and fill its cache with the hot set.

        Raises:
            ServerStartError: It does not start.
            LoadTestError: Its cache does not fill.
        """
        self.report(f"{rung.name}: starting")
        folder = self.folder / f"{len(self.servers) + 1:02d}-{rung.name.replace(' ', '-')}"
        arguments = [*rung.arguments(self.bundles), "--events", folder / "events.sqlite"]
        arguments += ["--deadline-ms", self.deadline_ms if rung == FINAL else PATIENT_MS]
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
        """Send a load from the generator's process, which is replaced where it has ended.

        Raises:
            LoadTestError: The process ended, or a connection was refused before the start.
        """
        try:
            return self.generator.submit(generate, load).result()
        except (BrokenProcessPool, OSError) as error:
            self.generator.shutdown()
            self.generator = _start_generator()
            raise LoadTestError(
                f"the load generator failed: {error}",
                "Look into the server's log and at the free memory, then start again.",
            ) from error

    def close(self) -> None:
        """Stop the servers that still run, and end the generator's process."""
        for server in self.servers:
            server.stop()
        self.generator.shutdown()

    def rows(self) -> list[LoadRow]:
        """List the row of each run."""
        return [run.row for run in self.runs]

    def frame(self) -> pd.DataFrame:
        """Join the rows of all runs; `run` is the place of the run in `rows()`."""
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
            if sent.sources.count("cache") >= WARM_SHARE * len(users):
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
            stop_early: Whether the run ends when too many requests were refused or failed.
        """
        self.bench.report(f"{self.rung.name}: {scenario} at {rate:.0f}/s")
        if due_ns is None:
            due_ns = poisson(rate, warm_up_s + seconds, self.bench.seed + len(self.bench.runs))
        max_failed = self.bench.refused_share * rate * seconds if stop_early else math.inf
        for _ in range(attempts):
            run = self._measure(
                scenario,
                rate,
                len(due_ns),
                cold_share,
                due_ns=due_ns,
                warm_up_s=warm_up_s,
                seconds=seconds,
                max_failed=max_failed,
            )
            if run.row.verdict != VOID:
                break
        self.bench.runs.append(run)
        return run

    def closed_loop(
        self,
        scenario: str,
        clients: int,
        seconds: float,
        *,
        cold_share: float | None = None,
        requests: int = 0,
    ) -> LoadRun:
        """Run clients that send the next request when the last one is answered.

        One client is MLPerf's single stream; many keep the server busy (offline).

        Args:
            scenario: Name in the record.
            clients: Number of clients.
            seconds: Length of the measured part.
            cold_share: Share of the requests from cold users; the bench's by default.
            requests: Number of requests that end the run before its time; 0 for none.
        """
        self.bench.report(f"{self.rung.name}: {scenario}")
        warm_up_s = 0.0 if requests else WARM_UP_S
        n = requests or int(CLOSED_PER_S * (WARM_UP_S + seconds))
        run = self._measure(
            scenario, None, n, cold_share, clients=clients, warm_up_s=warm_up_s, seconds=seconds
        )
        self.bench.runs.append(run)
        return run

    def _measure(
        self,
        scenario: str,
        offered_per_s: float | None,
        n: int,
        cold_share: float | None,
        *,
        warm_up_s: float,
        **load: Any,
    ) -> LoadRun:
        workload = self.bench.workload
        if cold_share is not None:
            workload = dataclasses.replace(workload, cold_share=cold_share)
        users, hot = workload.draw(n, self.cold_used)
        sent = self._send(users, warm_up_s=warm_up_s, **load)
        n_sent = len(sent.status)
        self.cold_used += int((~hot[:n_sent]).sum())
        begin_ns = int(warm_up_s * 1e9)
        rows = frame_of(sent, users[:n_sent], hot[:n_sent], begin_ns)
        bounds = self.bench.bound_ms, self.bench.refused_share
        row = summarize(sent, rows, begin_ns, scenario, self.rung.name, offered_per_s, *bounds)
        return LoadRun(row, rows)

    def _send(self, users: np.ndarray, **load: Any) -> Sent:
        user_ids = [self.bench.user_ids[user] for user in users.tolist()]
        whole = Load(port=self.process.port, user_ids=user_ids, pids=self.process.pids(), **load)
        return self.bench.send(whole)


def _start_generator() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)


def compare(
    baseline: LoadedServer,
    optimized: LoadedServer,
    rate: float | None,
    cold_share: float,
    seconds: float,
    repeats: int,
) -> result.ServerComparison:
    """Load two servers in turn, with the same users and schedules.

    Args:
        baseline, optimized: The two servers.
        rate: Offered rate that both carry; None for a closed loop that keeps each of them busy.
        cold_share: Share of the requests from cold users.
        seconds: Length of each run.
        repeats: Number of pairs of runs.
    """
    scenario = f"{'kept busy' if rate is None else 'compared'}, {cold_share:.0%} cold"
    pairs = []
    for number in range(repeats):
        cold_used = max(baseline.cold_used, optimized.cold_used)
        pair = []
        for server in (baseline, optimized):
            server.cold_used = cold_used
            if rate is None:
                run = server.closed_loop(scenario, BUSY_CLIENTS, seconds, cold_share=cold_share)
            else:
                run = server.open_loop(
                    scenario,
                    rate,
                    seconds,
                    cold_share=cold_share,
                    due_ns=poisson(rate, WARM_UP_S + seconds, server.bench.seed + number),
                    attempts=1,
                )
            pair.append(run.row)
        pairs.append(pair)
    cpu_ms = np.array([[row.server_cpu_ms for row in pair] for pair in pairs])
    per_s = np.array([[row.goodput_per_s for row in pair] for pair in pairs])
    return result.ServerComparison(
        offered_per_s=rate,
        cold_share=cold_share,
        baseline_cpu_ms=spread(cpu_ms[:, 0]),
        optimized_cpu_ms=spread(cpu_ms[:, 1]),
        baseline_per_s=spread(per_s[:, 0]),
        optimized_per_s=spread(per_s[:, 1]),
        times=spread(cpu_ms[:, 0] / cpu_ms[:, 1]),
    )


def measure_rung(
    server: LoadedServer, seconds: float, tries: int, try_s: float
) -> result.MeasuredRung:
    """Measure a rung's CPU time and rate when it is kept busy, and search its highest rate.

    Args:
        server: The rung's server.
        seconds: Length of the closed loop that keeps it busy.
        tries: Number of tries of the search; 0 for none.
        try_s: Length of each.
    """
    rung = server.rung
    busy = server.closed_loop("ladder, kept busy", BUSY_CLIENTS, seconds).row
    first = BUSY_SHARE * busy.goodput_per_s
    return result.MeasuredRung(
        name=rung.name,
        change=rung.change,
        before=rung.before,
        cpu_ms=busy.server_cpu_ms,
        busy_per_s=busy.goodput_per_s,
        highest_per_s=search(server, "ladder, search", first, try_s, tries),
    )


def search(
    server: LoadedServer,
    scenario: str,
    first: float,
    seconds: float,
    tries: int,
    precision: float = 0.0,
    cold_share: float | None = None,
) -> float | None:
    """Search the highest rate that is VALID; None where no try was.

    Args:
        server: The server.
        scenario: Name in the record.
        first: First rate, requests/s.
        seconds: Length of each try.
        tries: Number of tries at most.
        precision: Relative precision at which the search ends.
        cold_share: Share of the requests from cold users; the bench's by default.
    """

    def holds(rate: float) -> bool:
        run = server.open_loop(scenario, rate, seconds, cold_share=cold_share, stop_early=True)
        return run.row.verdict == VALID

    return climb(holds, first, tries, precision)


def find_highest(
    server: LoadedServer,
    first: float,
    seconds: float,
    precision: float,
    confirm_s: float,
    confirmations: int = 1,
    cold_share: float | None = None,
) -> tuple[list[LoadRun | None], str]:
    """Search the highest rate and confirm it by a long run, several times.

    Args:
        server: The server.
        first: First rate, requests/s.
        seconds: Length of each try.
        precision: Relative precision of the search.
        confirm_s: Length of the run that confirms; where it fails, the rate is lowered.
        confirmations: Number of rounds of a search and its confirmation.
        cold_share: Share of the requests from cold users; the bench's by default.

    Returns:
        The run that confirmed a rate in each round, None where none did, without the rounds in
        which the generator was late; and how the next rate above the lowest of them failed.
    """
    runs, n_before = server.bench.runs, len(server.bench.runs)
    mix = "" if cold_share is None else f", {cold_share:.0%} cold"
    rounds = []
    for _ in range(confirmations):
        n_searched = len(runs)
        rate = search(server, f"search{mix}", first, seconds, TRIES, precision, cold_share)
        n_confirmed = len(runs) if rate else n_searched
        for number in range(LONG_RUNS if rate else 0):
            server.open_loop(
                f"confirming{mix}",
                (rate or 0.0) * (1 - STEP_DOWN) ** number,
                confirm_s,
                cold_share=cold_share,
                stop_early=True,
            )
            if runs[-1].row.verdict == VALID:
                break
        if any(run.row.verdict != VOID for run in runs[n_confirmed:]):
            confirmed = runs[-1] if rate and runs[-1].row.verdict == VALID else None
            rounds.append(confirmed)
            first = rate_of(confirmed) or first
    lowest = min(map(rate_of, rounds), default=0.0)
    failed = [run for run in runs[n_before:] if run.row.verdict != VALID and rate_of(run) > lowest]
    if not failed:
        return rounds, "no higher rate was tried"
    row = min(failed, key=rate_of).row
    return rounds, f"{row.limit} at {row.offered_per_s:,.0f}/s: {row.reason}"


def rate_of(run: LoadRun | None) -> float:
    """The offered rate of a run; 0 where there is none."""
    return (run.row.offered_per_s if run else None) or 0.0


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
