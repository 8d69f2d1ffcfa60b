"""A run of the load generator: a plan goes in, a process of its own sends, raw rows and a verdict come out.

Rows, one a request in order of intended time (parquet):

    intended_ns, sent_ns, done_ns  int64 from the run's start; done -1 without an answer, sent -1
    where skipped user                           int32, the number; hot: bool, drawn from the hot
    set status                         int16, of HTTP; 0 no connection or no answer in time; -1
    skipped source                         model, cache, fallback or ""
    cache_ms, queue_ms, encode_ms, retrieve_ms, rank_ms, total_ms   float32, of Server-Timing; NaN
    where absent encode_cpu_ms, retrieve_cpu_ms, rank_cpu_ms                     float32, the CPU
    time in it, likewise worker                         int32, X-Worker; -1 where absent
    retries                        int8, on fresh connections
    warm_up                        bool, intended before the measured part
    body                           binary, of every `keep_every`-th answer, null elsewhere; absent
    where none is kept
"""

import atexit
import ipaddress
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import polars as pl

from nanorecsys.loadtest.errors import GeneratorError, PlanError, RemoteHostError, UnreachableError
from nanorecsys.loadtest.plan import (
    BEGIN,
    COLUMNS,
    END,
    ENDED,
    FINISHED,
    LOG,
    PLAN,
    Finished,
    Plan,
    Progress,
)
from nanorecsys.loadtest.process import memory_mib, tree_cpu_s
from nanorecsys.loadtest.summary import (
    COMPUTED,
    STAGES,
    Lag,
    Summary,
    Verdict,
    judge,
    measure_lag,
    summarize,
)
from nanorecsys.system.files import atomic_path

ROWS = "rows.parquet"
_spare: list[subprocess.Popen] = []  # that wait for a plan, see `_take`


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
        server_cpu_s: CPU time of the server's processes, ended ones too, from the begin of the
            measured part until all was answered; None where no process ids were given.
        server_rss_mib: resident memory of the server's processes before and after, pages that they
            share counted once (PSS); None where no process ids were given.
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
        return (
            None
            if self.server_cpu_s is None
            else _per(self.server_cpu_s, self.summary.answered_since_begin)
        )

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
    for name in (ROWS, COLUMNS, FINISHED):
        (out / name).unlink(missing_ok=True)
    (out / PLAN).write_bytes(msgspec.json.encode(plan))
    before = memory_mib(plan.pids) if plan.pids else 0.0
    cpu, interrupted = _generate(plan, progress or (lambda _: None))
    finished = msgspec.json.decode((out / FINISHED).read_bytes(), type=Finished)
    rows = _frame(pickle.loads((out / COLUMNS).read_bytes()))
    with atomic_path(out / ROWS) as part:
        rows.write_parquet(part)
    (out / COLUMNS).unlink()
    summary = summarize(rows, finished.begin_ns, finished.end_ns)
    lag = (
        measure_lag(rows) if plan.mode == "open" else Lag(0.0, 0.0, 0.0)
    )  # else requests wait by intention
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
    least = {
        "concurrency": 1,
        "max_in_flight": 1,
        "connections": 1,
        "retries": 0,
        "keep_every": 0,
        "warm_up_s": 0,
    }
    for name, low in least.items():
        if getattr(plan, name) < low:
            raise PlanError(
                f"expected {name} of {low} or more, got {getattr(plan, name)}", "Mend the plan."
            )
    for name in ("seconds", "timeout_s", "bound_ms"):
        if not getattr(plan, name) > 0:
            raise PlanError(f"expected {name} above 0, got {getattr(plan, name)}", "Mend the plan.")
    if not 0 < plan.percentile <= 100:
        raise PlanError(f"expected a percentile up to 100, got {plan.percentile}", "99 is usual.")
    needed = len(plan.due()) if plan.mode == "open" else 1
    requests = len(np.load(plan.users, mmap_mode="r"))
    if requests < needed:
        raise PlanError(
            f"{needed:,} requests are due, and {requests:,} users were drawn", "Draw one for each."
        )
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
            f"{parts.hostname} is not this machine",
            "If it is yours to load: --allow-remote, or allow_remote=True.",
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
    cpu: dict[str, float] = {}
    interrupted, status = False, None
    process = _take()
    try:
        order = msgspec.json.encode(
            (os.getcwd(), str(out / PLAN))
        ).decode()  # the process may be of another folder
        print(order, file=process.stdin, flush=True)
        while status is None:
            try:
                for line in process.stdout:
                    word = line.strip()
                    if word in (BEGIN, END):
                        cpu |= {word: tree_cpu_s(plan.pids)} if plan.pids else {}
                    elif word.startswith(ENDED):
                        status = int(word.removeprefix(ENDED))
                        break
                    elif not interrupted:  # which may have torn a line
                        progress(msgspec.json.decode(word, type=Progress))
                else:
                    status = process.wait()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                os.killpg(process.pid, signal.SIGINT)
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _close(process)
        raise
    if process.poll() is None:
        _spare.append(process)
    else:
        _close(process)
    if interrupted and not (out / FINISHED).exists():  # it had not begun
        raise KeyboardInterrupt
    if status or not (out / FINISHED).exists():
        told = (
            (out / LOG).read_text(errors="replace").strip()[-800:] if (out / LOG).exists() else ""
        )
        raise GeneratorError(
            f"the generator ended with status {status}: {told}", "Status -9 is memory that ran out."
        )
    return cpu, interrupted


def _take() -> subprocess.Popen:
    """A process that has loaded the generator's libraries, and forks one for each plan that it is told.

    In a session of its own, so that Ctrl-C reaches this process, which passes it on once.
    """
    while _spare:
        if (process := _spare.pop()).poll() is None:
            return process
        _close(process)
    return subprocess.Popen(
        [sys.executable, "-m", "nanorecsys.loadtest.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    )


def _close(process: subprocess.Popen) -> None:
    """End a process that waits for a plan, or has died."""
    process.stdin.close()
    process.stdout.close()
    process.wait()


@atexit.register
def _close_spare() -> None:
    while _spare:
        _close(_spare.pop())


def _frame(columns: dict[str, Any]) -> pl.DataFrame:
    """The rows of all requests that were due, from what the generator's process has kept of them."""
    timing = pl.Series(columns["timing"], dtype=pl.String)
    source = pl.Series([s.decode(errors="replace") for s in columns["source"]], dtype=pl.String)
    frame = pl.DataFrame(
        {
            **{
                name: columns[name]
                for name in ("intended_ns", "sent_ns", "done_ns", "user", "hot", "status")
            },
            "source": source.str.extract(r'^\s*"(\w+)"').fill_null(""),
            **{f"{stage}_ms": _milliseconds(timing, rf"{stage};dur=") for stage in STAGES},
            **{
                f"{stage}_cpu_ms": _milliseconds(timing, rf"{stage};dur=[0-9.]+;cpu=")
                for stage in COMPUTED
            },
            "worker": pl.Series(columns["worker"], dtype=pl.String)
            .cast(pl.Int32, strict=False)
            .fill_null(-1),
            "retries": columns["retries"],
            "warm_up": columns["warm_up"],
        }
    )
    return (
        frame.with_columns(body=pl.Series(columns["body"], dtype=pl.Binary))
        if columns["body"]
        else frame
    )


def _milliseconds(timing: pl.Series, before: str) -> pl.Series:
    found = timing.str.extract(rf"(?:^|[ ,]){before}([0-9.]+)")
    return found.cast(pl.Float32).fill_null(float("nan"))
