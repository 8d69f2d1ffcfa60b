"""A run of the load generator: a plan goes in, a process of its own sends, raw rows and a verdict come out.

Rows, one a request in order of intended time (parquet):

    intended_ns, sent_ns, done_ns  int64 from the run's start; done -1 without an answer, sent -1 where skipped
    user                           int32, the number; hot: bool, drawn from the hot set
    status                         int16, of HTTP; 0 no connection or no answer in time; -1 skipped
    source                         model, cache, fallback or ""
    cache_ms, queue_ms, encode_ms, retrieve_ms, rank_ms, total_ms   float32, of Server-Timing; NaN where absent
    worker                         int32, X-Worker; -1 where absent
    retries                        int8, on fresh connections
    warm_up                        bool, intended before the measured part
    body                           binary, of every `keep_every`-th answer, null elsewhere; absent where none is kept
"""

import ipaddress
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import numpy as np
import polars as pl

from nanorecsys.loadtest.errors import GeneratorError, PlanError, RemoteHostError, UnreachableError
from nanorecsys.loadtest.process import memory_mib, tree_cpu_s
from nanorecsys.loadtest.schedule import poisson
from nanorecsys.loadtest.summary import Lag, Summary, Verdict, judge, measure_lag, summarize

USER = "{user}"  # in a body's template
ROWS, PLAN, FINISHED, LOG = "rows.parquet", "plan.json", "finished.json", "generator.log"
BEGIN, END = "begin", "end"  # of the measured part, as lines of the generator


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, how, and when a run of it is valid.

    Args:
        url: of the server, with scheme, host and port.
        out: folder for the rows.
        mode: open sends on a Poisson schedule, whatever the server does. closed has `concurrency` clients, each of
            which waits for its answer before it asks again. offline has all requests due at once, `concurrency` of
            them at work.
        users: .npy file, int32, the user of each request; an open run needs as many as it has arrivals.
        hot: .npy file, bool, of the same length.
        user_ids: .npy file, the id that each user number goes by; int64 or text.
        rate: requests a second of an open run.
        arrivals: .npy file, int64, nanoseconds from the start, ascending: when the requests of an open run are due,
            in place of a Poisson stream at `rate`; empty for that.
        seconds: of the measured part; an offline run goes on until all are answered.
        warm_up_s: before it, discarded.
        concurrency: of closed and offline.
        max_in_flight: of open: a request that is due when so many are in flight is skipped, and counted.
        connections: opened before the start; more are opened when all are in use.
        spacing_ms: between openings, so that the connections do not all land on one worker.
        timeout_s: for one attempt.
        retries: after a broken connection, each on a fresh one; a timeout is not tried again.
        path: of the request.
        body: template in which {user} becomes the user's id as JSON; empty for one of `k` and `degrade`.
        k, degrade: of the default body.
        seed: of the schedule.
        keep_every: keep the body of every so-manieth answer; 0 keeps none.
        pids: roots of the server's process trees, whose CPU time and memory are measured.
        bound_ms, percentile: what latency, counted from the intended time, must not pass; offline has no bound.
        fail_fast: of open: send no more once a measured request has failed, since no length makes such a run valid.
        minimum: measured requests, below which a run is not valid; 1,000 leave 10 beyond a 99th percentile.
        allow_remote: load a host that is not loopback.
        nice: of the generator, where the system allows it. Below 0 it is on time also where the server takes all
            processors; it works no more for that.
    """

    url: str
    out: str
    users: str
    hot: str
    user_ids: str
    seconds: float
    mode: Literal["open", "closed", "offline"] = "open"
    rate: float = 0.0
    arrivals: str = ""
    warm_up_s: float = 0.0
    concurrency: int = 1
    max_in_flight: int = 512
    connections: int = 64
    spacing_ms: float = 2.0
    timeout_s: float = 10.0
    retries: int = 2
    path: str = "/recommend"
    body: str = ""
    k: int = 10
    degrade: bool = False
    seed: int = 0
    keep_every: int = 0
    pids: list[int] = []
    bound_ms: float = 100.0
    percentile: float = 99.0
    fail_fast: bool = False
    minimum: int = 1000
    allow_remote: bool = False
    nice: int = -10

    @property
    def template(self) -> str:
        """The body, with {user} in it."""
        fallback = ', "degrade": true' if self.degrade else ""
        return self.body or f'{{"user_id": {USER}, "k": {self.k}, "include_titles": false{fallback}}}'

    def due(self) -> np.ndarray:
        """Arrivals of an open run, nanoseconds from the start, int64."""
        if self.arrivals:
            return np.load(self.arrivals)
        return poisson(self.rate, self.warm_up_s + self.seconds, self.seed)


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """What the generating process leaves beside its rows.

    Args:
        begin_ns, end_ns: the measured part; one that is offline, or stopped early, ends with the last answer.
        cpu_s: user and system time of the generator from the begin until all was answered.
        interrupted: it was told to stop early.
        failures: broken attempts by their error's name, with those that were tried again.
        nice: the generator's priority.
    """

    begin_ns: int
    end_ns: int
    cpu_s: float
    interrupted: bool
    failures: dict[str, int]
    nice: int


class Progress(msgspec.Struct, frozen=True):
    """How far a run is."""

    elapsed_s: float
    sent: int
    answered: int
    failed: int
    in_flight: int


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        plan: as run.
        rows: parquet file, see this module.
        finished: what the generator says of itself.
        summary: of the measured part.
        lag: of the generator, really sent against intended; 0 unless the plan is open.
        verdict: VALID, INVALID or VOID, with reasons.
        server_cpu_s: CPU time of the server's processes, ended ones too, from the begin of the measured part until all
            was answered; None where no process ids were given.
        server_rss_mib: resident memory of the server's processes before and after, pages that they share counted once
            (PSS); None where no process ids were given.
    """

    plan: Plan
    rows: Path
    finished: Finished
    summary: Summary
    lag: Lag
    verdict: Verdict
    server_cpu_s: float | None
    server_rss_mib: tuple[float, float] | None

    @property
    def cpu_s(self) -> float:
        """CPU time of the generator over the measured part."""
        return self.finished.cpu_s

    @property
    def cpu_ms_per_request(self) -> float | None:
        """CPU time of the generator for an answer, None where there was none."""
        return _per(self.cpu_s, self.summary.answered_since_begin)

    @property
    def server_cpu_ms_per_request(self) -> float | None:
        """CPU time of the server for an answer, None where it was not measured or there was none."""
        return None if self.server_cpu_s is None else _per(self.server_cpu_s, self.summary.answered_since_begin)

    def frame(self) -> pl.DataFrame:
        """All rows, those of the warm-up too."""
        return pl.read_parquet(self.rows)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by hand. `run` is what there is of it, `search` of the search that it belongs to, if any."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.search: Any = None


def run_plan(plan: Plan, progress: Callable[[Progress], None] | None = None) -> Run:
    """Run a plan in a process of its own, and judge it.

    Args:
        plan: all of it.
        progress: called about twice a second.

    Raises:
        PlanError, RemoteHostError, UnreachableError: it cannot start.
        GeneratorError: the generating process ended without rows.
        Interrupted: on Ctrl-C, with what there is.
    """
    check(plan)
    out = Path(plan.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in (ROWS, FINISHED):
        (out / name).unlink(missing_ok=True)
    (out / PLAN).write_bytes(msgspec.json.encode(plan))
    before = memory_mib(plan.pids) if plan.pids else 0.0
    cpu, interrupted = _generate(plan, progress or (lambda _: None))
    finished = msgspec.json.decode((out / FINISHED).read_bytes(), type=Finished)
    rows = pl.read_parquet(out / ROWS)
    summary = summarize(rows, finished.begin_ns, finished.end_ns)
    lag = measure_lag(rows) if plan.mode == "open" else Lag(0.0, 0.0, 0.0)  # else requests wait by intention
    bound_ms = math.inf if plan.mode == "offline" else plan.bound_ms
    run = Run(
        plan=plan,
        rows=out / ROWS,
        finished=finished,
        summary=summary,
        lag=lag,
        verdict=judge(rows, summary, lag, bound_ms, plan.percentile, plan.minimum),
        server_cpu_s=cpu[END] - cpu[BEGIN] if len(cpu) == 2 else None,
        server_rss_mib=(before, memory_mib(plan.pids)) if plan.pids else None,
    )
    if interrupted:
        raise Interrupted(run)
    return run


def check(plan: Plan) -> None:
    """Refuse a plan that cannot run.

    Raises:
        PlanError: a number out of bounds, or fewer users than arrivals.
        RemoteHostError, UnreachableError: see `check_target`.
    """
    least = {"concurrency": 1, "max_in_flight": 1, "connections": 1, "retries": 0, "keep_every": 0, "warm_up_s": 0}
    for name, low in least.items():
        if getattr(plan, name) < low:
            raise PlanError(f"expected {name} of {low} or more, got {getattr(plan, name)}", "Mend the plan.")
    for name in ("seconds", "timeout_s", "bound_ms"):
        if not getattr(plan, name) > 0:
            raise PlanError(f"expected {name} above 0, got {getattr(plan, name)}", "Mend the plan.")
    if not 0 < plan.percentile <= 100:
        raise PlanError(f"expected a percentile up to 100, got {plan.percentile}", "99 is usual.")
    needed = len(plan.due()) if plan.mode == "open" else 1
    requests = len(np.load(plan.users, mmap_mode="r"))
    if requests < needed:
        raise PlanError(f"{needed:,} requests are due, and {requests:,} users were drawn", "Draw one for each.")
    check_target(plan.url, plan.allow_remote)


def check_target(url: str, allow_remote: bool = False) -> None:
    """Refuse what is no URL, somebody else's server, and one that is not there.

    Raises:
        PlanError: not a URL of http or https.
        RemoteHostError: the host is not loopback, and it is not said that it may be loaded.
        UnreachableError: nothing answers there.
    """
    parts = _split(url)
    if not allow_remote and not _loopback(parts.hostname):
        raise RemoteHostError(
            f"{parts.hostname} is not this machine", "If it is yours to load: --allow-remote, or allow_remote=True."
        )
    try:
        socket.create_connection((parts.hostname, _port(parts)), timeout=5).close()
    except OSError as error:
        raise UnreachableError(
            f"nothing answers at {url}: {error.strerror or error}",
            "Start the server, or mend the URL: python -m server --help.",
        ) from None


def _split(url: str):
    parts = urlsplit(url)
    try:
        if parts.scheme in ("http", "https") and parts.hostname and _port(parts):
            return parts
    except ValueError:  # of a port that is no number
        pass
    raise PlanError(f"expected a URL such as http://127.0.0.1:8000, got {url!r}", "Mend the URL.")


def _port(parts) -> int:
    return parts.port or {"http": 80, "https": 443}[parts.scheme]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _per(seconds: float, answers: int) -> float | None:
    return 1e3 * seconds / answers if answers else None


def _generate(plan: Plan, progress: Callable[[Progress], None]) -> tuple[dict[str, float], bool]:
    """Server's CPU seconds at begin and end, and whether it was stopped by hand."""
    out = Path(plan.out)
    command = [sys.executable, "-m", "nanorecsys.loadtest.worker", str(out / PLAN)]
    cpu: dict[str, float] = {}
    interrupted = False
    with (
        (out / LOG).open("wb") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process, which passes it on once
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1"),
        ) as process,
    ):
        try:
            while True:
                try:
                    for line in process.stdout:
                        word = line.strip()
                        if word in (BEGIN, END):
                            cpu |= {word: tree_cpu_s(plan.pids)} if plan.pids else {}
                        elif not interrupted:  # which may have torn a line
                            progress(msgspec.json.decode(word, type=Progress))
                    break
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted = True
                    process.send_signal(signal.SIGINT)
        except BaseException:
            process.kill()
            raise
    if interrupted and not (out / FINISHED).exists():  # it had not begun
        raise KeyboardInterrupt
    if process.returncode or not (out / FINISHED).exists():
        told = (out / LOG).read_text(errors="replace").strip()[-800:]
        raise GeneratorError(
            f"the generator ended with status {process.returncode}: {told}", "Status -9 is memory that ran out."
        )
    return cpu, interrupted
