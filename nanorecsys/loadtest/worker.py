"""`python -m nanorecsys.loadtest.worker`: for each plan that it is told to run, send what the plan says.

Each plan runs in a fork, with libraries that are loaded once: loading them took 0.6 s, longer than
many a run. So what starts threads, as Polars does, is kept out of this process, and the rows are
made by the one that reads them.

The generator shares the machine with the server, so what it does for a request is counted in
microseconds: requests are bytes made beforehand, headers and bodies of answers are kept as they
come and read after the run, columns are allocated once, and the garbage collector is off while it
sends. Of aiohttp it uses the connections and the parser alone: a session with its request and
response objects took 0.20 ms of CPU a request where this takes 0.11 (400 and 800 requests/s on two
busy cores, side by side).

It prints a line when the measured part begins, one when all is answered, and its progress in
between.
"""

import asyncio
import ctypes
import gc
import math
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import uvloop
from aiohttp.http import RawResponseMessage
from yarl import URL

from nanorecsys.loadtest.plan import (
    BEGIN,
    COLUMNS,
    END,
    ENDED,
    FINISHED,
    LOG,
    USER,
    Finished,
    Plan,
    Progress,
)

SKIPPED, FAILED = -1, 0
_SOURCE = b'"source":'
_EVERY_S = 0.5  # between lines of progress
_PAUSE_S = (
    0.05  # before a retry, times its number: a worker that died is replaced in about that time
)
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_MONOTONIC, _NONBLOCK = 1, os.O_NONBLOCK  # linux/timerfd.h


class Alarm:
    """Calls back at a time, to about 0.1 ms.

    libuv counts in whole milliseconds, and rounds to the nearest: a generator that waits by it
    sends late by up to one or spins through the rest. A timer of the Linux kernel does not;
    elsewhere the loop's timer has to do, rounded up.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._timer = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._timer = self._libc.timerfd_create(_MONOTONIC, _NONBLOCK)
            self._spec = (ctypes.c_long * 4)()  # interval s, ns; first s, ns
        if self._timer >= 0:
            loop.add_reader(self._timer, self._ring)

    def set(self, after_ns: int) -> None:
        """Call once, so many nanoseconds from now."""
        if self._timer < 0:
            self._loop.call_later(math.ceil(after_ns / 1e6) / 1e3, self._call)
            return
        self._spec[2], self._spec[3] = divmod(max(after_ns, 1), 1_000_000_000)
        self._libc.timerfd_settime(self._timer, 0, self._spec, None)

    def close(self) -> None:
        """Let the timer go."""
        if self._timer >= 0:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)

    def _ring(self) -> None:
        os.read(self._timer, 8)
        self._call()


class Generator:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        open_loop = plan.mode == "open"
        self.users, self.hot = np.load(plan.users), np.load(plan.hot)
        due = plan.due() if open_loop else np.zeros(len(self.users), np.int64)
        self.n = n = len(due)
        self.users, self.hot = self.users[:n], self.hot[:n]
        self.due = due.tolist()
        self.url = URL(plan.url).join(URL(plan.path))
        self.requests = _requests(plan, self.url, self.users)
        self.sent, self.done = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        self.status, self.retries = np.full(n, FAILED, np.int16), np.zeros(n, np.int8)
        self.sources, self.timings, self.workers = [b""] * n, [""] * n, [""] * n
        self.kept: list[bytes | None] = [None] * n if plan.keep_every else []
        self.failures: Counter[str] = Counter()
        self.running: dict[int, asyncio.Task] = {}  # the loop itself holds tasks weakly
        self.next = self.answered = self.failed = 0
        self.stopped = self.interrupted = False
        self.cpu_s = 0.0  # at the begin of the measured part

    async def run(self) -> None:
        """Open the connections, send, wait for every answer."""
        plan, loop = self.plan, asyncio.get_running_loop()
        self.over = loop.create_future()
        loop.add_signal_handler(signal.SIGINT, self._stop)
        self.target = aiohttp.ClientRequest("POST", self.url)
        async with (
            aiohttp.TCPConnector(limit=0, keepalive_timeout=3600) as self.pool,
            aiohttp.TCPConnector(limit=0, force_close=True) as self.fresh,
        ):
            await self._connect()
            self.alarm = Alarm(loop, self._fire)
            gc.collect()
            gc.freeze()
            gc.disable()
            self.start = time.perf_counter_ns()
            loop.call_later(plan.warm_up_s, self._begin) if plan.warm_up_s else self._begin()
            loop.call_later(_EVERY_S, self._report)
            if plan.mode == "open":
                self._fire()
            else:
                for _ in range(min(plan.concurrency, self.n)):
                    self._ask_next()
            await self.over
            print(END, flush=True)
            self.cpu_s = _cpu_s() - self.cpu_s
            self.alarm.close()

    async def _connect(self) -> None:
        """Open connections one after another, and only then give them all to the pool."""
        opened = []
        for _ in range(self.plan.connections):
            opened.append(await self.pool.connect(self.target, [], _NO_TIMEOUT))
            await asyncio.sleep(self.plan.spacing_ms / 1e3)
        for connection in opened:
            connection.release()

    # Sending

    def _fire(self) -> None:
        """Send all that is due, and set the alarm for the next."""
        loop, due, running = asyncio.get_running_loop(), self.due, self.running
        now = time.perf_counter_ns() - self.start
        while self.next < self.n and not self.stopped:
            i = self.next
            if due[i] > now:
                now = time.perf_counter_ns() - self.start
                if due[i] > now:
                    self.alarm.set(due[i] - now)
                    return
            self.next += 1
            if len(running) >= self.plan.max_in_flight:
                self.status[i] = SKIPPED
            else:
                running[i] = loop.create_task(self._ask(i))
        self._end_if_over()

    def _ask_next(self) -> None:
        """Send the next of a closed loop, if its time is not over."""
        now = time.perf_counter_ns() - self.start
        closed = self.plan.mode == "closed"
        over = closed and now > (self.plan.warm_up_s + self.plan.seconds) * 1e9
        if self.next < self.n and not over and not self.stopped:
            i = self.next
            self.next += 1
            if closed:
                self.due[i] = now
            self.running[i] = asyncio.get_running_loop().create_task(self._ask(i))
        else:
            self.stopped = True
            self._end_if_over()

    async def _ask(self, i: int) -> None:
        """Send request i until it is answered, or has failed for good."""
        self.sent[i] = time.perf_counter_ns() - self.start
        pool = self.pool
        for attempt in range(self.plan.retries + 1):
            try:
                message, body = await self._exchange(pool, self.requests[i])
            except TimeoutError:
                self.failures["TimeoutError"] += 1
                break
            except Exception as error:  # whatever breaks an attempt is counted, and the run goes on
                self.failures[type(error).__name__] += 1
                if attempt < self.plan.retries:
                    self.retries[i] += 1
                    pool = self.fresh
                    await asyncio.sleep(_PAUSE_S * (attempt + 1))
            else:
                self.done[i] = time.perf_counter_ns() - self.start
                self._keep(i, message, body)
                break
        if self.status[i] != 200:
            self.failed += 1
            self.stopped |= self.plan.fail_fast and self.due[i] >= self.plan.warm_up_s * 1e9
        del self.running[i]
        if self.plan.mode != "open":
            self._ask_next()
        elif not self.running:
            self._end_if_over()

    async def _exchange(
        self, pool: aiohttp.TCPConnector, request: bytes
    ) -> tuple[RawResponseMessage, bytes]:
        """Send a request on a connection of the pool, and read the answer."""
        connection = None
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                connection = await pool.connect(self.target, [], _NO_TIMEOUT)
                protocol = connection.protocol
                protocol.set_response_params(read_until_eof=True, auto_decompress=False)
                connection.transport.write(request)
                message, payload = await protocol.read()
                body = await payload.read()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        connection.release()
        return message, body

    def _keep(self, i: int, message: RawResponseMessage, body: bytes) -> None:
        self.status[i] = message.code
        self.timings[i] = message.headers.get("Server-Timing", "")
        self.workers[i] = message.headers.get("X-Worker", "")
        at = body.rfind(_SOURCE)
        if at >= 0:
            self.sources[i] = body[at + len(_SOURCE) : at + len(_SOURCE) + 16]
        if self.kept and i % self.plan.keep_every == 0:
            self.kept[i] = body
        self.answered += 1

    def _end_if_over(self) -> None:
        if not self.running and (self.stopped or self.next >= self.n) and not self.over.done():
            self.over.set_result(None)

    def _stop(self) -> None:
        """Send no more; what is in flight is waited for."""
        self.stopped = self.interrupted = True
        self._end_if_over()

    # Telling

    def _begin(self) -> None:
        print(BEGIN, flush=True)
        self.cpu_s = _cpu_s()

    def _report(self) -> None:
        elapsed_s = (time.perf_counter_ns() - self.start) / 1e9
        line = Progress(elapsed_s, self.next, self.answered, self.failed, len(self.running))
        try:
            print(msgspec.json.encode(line).decode(), flush=True)
        except BrokenPipeError:  # nobody waits for the rows any more
            self._stop()
        asyncio.get_running_loop().call_later(_EVERY_S, self._report)

    def columns(self) -> dict[str, Any]:
        """What there is of each request that was due; see `generator` for the rows that it makes of it."""
        n = self.next
        return {
            "intended_ns": np.array(self.due[:n], np.int64),
            "sent_ns": self.sent[:n],
            "done_ns": self.done[:n],
            "user": self.users[:n].astype(np.int32),
            "hot": self.hot[:n],
            "status": self.status[:n],
            "source": self.sources[:n],
            "timing": self.timings[:n],
            "worker": self.workers[:n],
            "retries": self.retries[:n],
            "warm_up": np.array(self.due[:n], np.int64) < self.plan.warm_up_s * 1e9,
            "body": self.kept[:n],
        }

    def finished(self) -> Finished:
        """What to say beside the rows."""
        begin_ns = int(self.plan.warm_up_s * 1e9)
        end_ns = begin_ns + int(self.plan.seconds * 1e9)
        early = self.plan.mode == "open" and self.next < self.n
        if self.plan.mode == "offline" or self.interrupted or early:
            end_ns = max(int(self.done.max(initial=0)), begin_ns)
        return Finished(
            begin_ns=begin_ns,
            end_ns=end_ns,
            cpu_s=self.cpu_s,
            interrupted=self.interrupted,
            failures=dict(self.failures),
            nice=os.getpriority(os.PRIO_PROCESS, 0),
        )


def _requests(plan: Plan, url: URL, users: np.ndarray) -> list[bytes]:
    """The bytes of each request; one object a user."""
    before, found, after = plan.template.partition(USER)
    host = f"[{url.host}]" if ":" in url.host else url.host
    head = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {host}:{url.port}\r\nContent-Type: application/json\r\n"

    def whole(body: str) -> bytes:
        content = body.encode()
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    if not found:
        return [whole(before)] * len(users)
    ids = np.load(plan.user_ids, mmap_mode="r")
    different, which = np.unique(users, return_inverse=True)
    made = [
        whole(f"{before}{msgspec.json.encode(i).decode()}{after}") for i in ids[different].tolist()
    ]
    return [made[i] for i in which.tolist()]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def generate(path: Path) -> None:
    """Run the plan in `path`; what comes of it goes beside it."""
    plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    with suppress(OSError):  # not everyone may take precedence; what came of it is told
        os.setpriority(os.PRIO_PROCESS, 0, plan.nice)
    generator = Generator(plan)
    uvloop.run(generator.run())
    (path.parent / COLUMNS).write_bytes(pickle.dumps(generator.columns()))
    (path.parent / FINISHED).write_bytes(msgspec.json.encode(generator.finished()))


def _in_a_fork(folder: str, path: str) -> int:
    """Run the plan in `path`, as seen from `folder`, in a process of its own; its status."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        log = os.open(Path(path).parent / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, sys.stderr.fileno())
        generate(Path(path))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Run the plan of each line of the standard input: a folder to be in, and a path."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the fork's to answer
    for line in sys.stdin:
        print(ENDED, _in_a_fork(*msgspec.json.decode(line, type=tuple[str, str])), flush=True)


if __name__ == "__main__":
    main()
