"""A load generator for servers on 127.0.0.1, which runs in a separate process.

In an open loop, requests follow a schedule whatever the server does. In a closed loop, each client
waits for its answer before it asks again. The generator shares the machine with the server, so a
request has to cost it little: requests are encoded before the run, a timer of the kernel wakes one
thread when requests are due, an `asyncio.Protocol` finds the end of each response, and its headers
are parsed after the run.
"""

import asyncio
import ctypes
import gc
import json
import math
import os
import re
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import psutil
import uvloop

SKIPPED, FAILED = -1, 0  # in place of an HTTP status
TFD_TIMER_ABSTIME = 1  # flag of timerfd_settime(2) for a time of the clock
SPACING_S = 0.002  # seconds between connections, so that one worker does not get them all
TIMEOUT_CHECK_S = 0.5  # seconds between checks for requests that have timed out
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SOURCE = b'"source":"'


@dataclass(frozen=True, kw_only=True, eq=False)
class Load:
    """Requests to send, and how.

    Args:
        port: Port of the server on 127.0.0.1.
        user_ids: User id of each request, int or str.
        due_ns: Time of each request in nanoseconds from the start, int64, ascending; None for a
            closed loop, which ends when its time is over or its users are used up.
        clients: Number of clients of a closed loop.
        warm_up_s: Seconds before the measured part.
        seconds: Seconds of the measured part.
        min_requests: Requests that a closed loop sends in its measured part at least.
        server_pid: Process whose CPU time is measured with that of its descendants; 0 for none.
        connections: Connections opened before the start; more are opened when all are in use.
        max_in_flight: Requests in flight beyond which an open loop skips a request.
        timeout_s: Longest wait for a connection or an answer.
        bound_ms: Latency beyond which an answer is slow.
        max_slow: Requests of the measured part that may be slow, fail, be refused or skipped; with
            one more the run ends.
    """

    port: int
    user_ids: Sequence[Any]
    due_ns: np.ndarray | None = None
    clients: int = 1
    warm_up_s: float = 0.0
    seconds: float
    min_requests: int = 0
    server_pid: int = 0
    connections: int = 64
    max_in_flight: int = 512
    timeout_s: float = 30.0
    bound_ms: float = math.inf
    max_slow: float = math.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """What became of the requests that were due.

    Args:
        rows: One row for each request, in order: intended_ns, sent_ns, done_ns, int64 from the
            start, -1 where there is none; status of HTTP, int16, 0 for a broken connection or a
            timeout, -1 for a skipped one; head, the headers of the response; source of the answer:
            model, cache, fallback, or empty.
        end_ns: End of the measured part.
        cpu_s: CPU seconds of the generator from the start of the measured part to the last answer.
        server_cpu_s: CPU seconds of the server in the same time.
    """

    rows: pd.DataFrame
    end_ns: int
    cpu_s: float
    server_cpu_s: float


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Draw the arrivals of a Poisson process, nanoseconds from the start, int64, ascending.

    >>> due = poisson(1000, 10, seed=0)
    >>> bool(9_600 < len(due) < 10_400), bool((np.diff(due) >= 0).all())
    (True, True)
    """
    rng = np.random.default_rng(seed)
    times = rng.random(rng.poisson(rate * seconds)) * seconds * 1e9
    return np.sort(times.astype(np.int64))


def cpu_seconds(pid: int) -> float:
    """Sum the user and system time of a process, its descendants and its children that have ended.

    On Linux, clocks of nanoseconds (clock_getcpuclockid(3)) count every thread of the processes
    that run. The kernel counts children that have ended in hundredths of a second.
    """
    if sys.platform != "linux":
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(sum(process.cpu_times()[:4]) for process in family)
    total, pids = 0.0, [pid]
    while pids:
        pid = pids.pop()
        try:
            total += time.clock_gettime(~pid << 3 | 2)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except OSError:  # it has just ended
            continue
    return total


def generate(load: Load) -> Sent:
    """Send the load and wait for every answer."""
    generator = _Generator(load)
    gc.collect()
    gc.disable()  # a collection would delay the requests that are due meanwhile
    try:
        uvloop.run(generator.run())
    finally:
        gc.enable()
    return generator.sent()


class _Timer:
    """Calls a function on the event loop at a time of `time.perf_counter_ns`.

    Timers of the event loop are exact to 1 ms only. Linux has one that is exact to microseconds,
    and needs no second thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self.loop, self.call, self.file = loop, call, -1
        if sys.platform == "linux":
            self.libc = ctypes.CDLL(None)
            self.file = self.libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
            loop.add_reader(self.file, self._expired)

    def set(self, at_ns: int) -> None:
        """Call the function at this time, at once if it has passed."""
        if self.file < 0:
            self.loop.call_later((at_ns - time.perf_counter_ns()) / 1e9, self.call)
        else:
            setting = struct.pack("4q", 0, 0, *divmod(at_ns, 1_000_000_000))
            self.libc.timerfd_settime(self.file, TFD_TIMER_ABSTIME, setting, None)

    def close(self) -> None:
        """Give the timer back."""
        if self.file >= 0:
            self.loop.remove_reader(self.file)
            os.close(self.file)

    def _expired(self) -> None:
        os.read(self.file, 8)
        self.call()


class _Connection(asyncio.Protocol):
    """A keep-alive connection with at most one request in flight."""

    def __init__(self, generator: "_Generator") -> None:
        self.generator = generator
        self.request = -1
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        start = self.received.find(b"\r\n\r\n")
        if start < 0:
            return
        length = _LENGTH.search(self.received, 0, start)
        if length is None or len(self.received) < start + 4 + int(length[1]):
            return
        head, body = self.received[:start], self.received[start + 4 :]
        request, self.request, self.received = self.request, -1, b""
        if b"connection: close" in head.lower():
            self.transport.close()
        else:
            self.generator.idle.append(self)
        self.generator.finish(request, head, body)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.generator.idle:
            self.generator.idle.remove(self)
        if self.request >= 0:
            self.generator.finish(self.request, b"", b"")


class _Generator:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests = [_request(load.port, user_id) for user_id in load.user_ids]
        n = len(self.requests) if load.due_ns is None else len(load.due_ns)
        self.intended = [-1] * n if load.due_ns is None else load.due_ns.tolist()
        self.sent_ns, self.done_ns = [-1] * n, [-1] * n
        self.status = [FAILED] * n
        self.heads = [b""] * n
        self.sources = [b""] * n
        self.idle: deque[_Connection] = deque()
        # Requests in flight, each with its connection or the task that opens one.
        self.busy: dict[int, _Connection | asyncio.Task] = {}
        self.next = 0
        self.slow = self.measured = 0
        self.stopped = False
        self.begin_ns = int(load.warm_up_s * 1e9)
        self.bound_ns = load.bound_ms * 1e6

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        for _ in range(self.load.connections):
            self.idle.append(await self._connect())
            await asyncio.sleep(SPACING_S)
        self.start = time.perf_counter_ns()
        self._read_cpu()
        self.loop.call_later(self.load.warm_up_s, self._read_cpu)
        self.loop.call_later(TIMEOUT_CHECK_S, self._break_late)
        timer = self.timer = _Timer(self.loop, self._send_due)
        if self.load.due_ns is None:
            for _ in range(self.load.clients):
                self._send_next()
        else:
            self._send_due()
        await self.over.wait()
        timer.close()
        self.cpu_s = time.process_time() - self.cpu_begin_s
        self.server_cpu_s = self._server_cpu_s() - self.server_cpu_begin_s
        for connection in self.idle:
            connection.transport.close()

    def sent(self) -> Sent:
        """Collect what became of each request."""
        load, n = self.load, self.next
        end_ns = self.begin_ns + int(load.seconds * 1e9)
        last_ns = max(self.done_ns, default=0)
        if load.min_requests:
            end_ns = max(end_ns, last_ns)
        if self.stopped or load.due_ns is None:
            end_ns = min(end_ns, last_ns)
        rows = {
            "intended_ns": np.array(self.intended[:n], np.int64),
            "sent_ns": np.array(self.sent_ns[:n], np.int64),
            "done_ns": np.array(self.done_ns[:n], np.int64),
            "status": np.array(self.status[:n], np.int16),
            "head": [head.decode("latin-1") for head in self.heads[:n]],
            "source": [source.decode() for source in self.sources[:n]],
        }
        return Sent(
            rows=pd.DataFrame(rows),
            end_ns=max(end_ns, self.begin_ns),
            cpu_s=self.cpu_s,
            server_cpu_s=self.server_cpu_s,
        )

    def finish(self, request: int, head: bytes, body: bytes) -> None:
        """Note the response to a request; an empty head means that it failed."""
        del self.busy[request]
        if head:
            self.done_ns[request] = self._now()
            self.status[request] = int(head[9:12])
            self.heads[request] = head
            start = body.rfind(_SOURCE) + len(_SOURCE)
            if start >= len(_SOURCE):
                self.sources[request] = body[start : body.index(b'"', start)]
        latency_ns = self.done_ns[request] - self.intended[request]
        if self.status[request] != 200 or latency_ns > self.bound_ns:
            self._count_slow(request)
        if self.load.due_ns is None:
            self._send_next()
        self._end_if_over()

    def _now(self) -> int:
        return time.perf_counter_ns() - self.start

    def _server_cpu_s(self) -> float:
        return cpu_seconds(self.load.server_pid) if self.load.server_pid else 0.0

    def _read_cpu(self) -> None:
        self.cpu_begin_s = time.process_time()
        self.server_cpu_begin_s = self._server_cpu_s()

    def _send_due(self) -> None:
        """Send the requests of an open loop that are due, and set the timer for the next one."""
        now = self._now()
        while self.next < len(self.intended) and not self.stopped:
            if self.intended[self.next] > now:
                self.timer.set(self.start + self.intended[self.next])
                return
            request, self.next = self.next, self.next + 1
            if len(self.busy) < self.load.max_in_flight:
                self._send(request)
            else:
                self.status[request] = SKIPPED
                self._count_slow(request)
        self._end_if_over()

    def _count_slow(self, request: int) -> None:
        self.slow += self.intended[request] >= self.begin_ns
        self.stopped = self.slow > self.load.max_slow

    def _send_next(self) -> None:
        """Send the next request of a closed loop unless it has run long enough."""
        now, load = self._now(), self.load
        lasts = now < self.begin_ns + load.seconds * 1e9 or self.measured < load.min_requests
        if lasts and self.next < len(self.requests):
            self.measured += now >= self.begin_ns
            self.intended[self.next] = now
            self.next += 1
            self._send(self.next - 1)

    def _send(self, request: int) -> None:
        self.sent_ns[request] = self._now()  # the time to connect is the server's
        if self.idle:
            self._send_on(self.idle.popleft(), request)
        else:
            self.busy[request] = self.loop.create_task(self._send_on_new_connection(request))

    async def _send_on_new_connection(self, request: int) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self.finish(request, b"", b"")
        else:
            self._send_on(connection, request)

    def _send_on(self, connection: _Connection, request: int) -> None:
        self.busy[request] = connection
        connection.request = request
        connection.transport.write(self.requests[request])

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(self.load.timeout_s):
            _, connection = await self.loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self.load.port
            )
        return connection

    def _break_late(self) -> None:
        """Break the connections of requests that have waited too long."""
        latest = self._now() - self.load.timeout_s * 1e9
        for request, connection in list(self.busy.items()):
            if isinstance(connection, _Connection) and self.sent_ns[request] < latest:
                connection.transport.abort()
        self.loop.call_later(TIMEOUT_CHECK_S, self._break_late)

    def _end_if_over(self) -> None:
        all_sent = self.stopped or self.load.due_ns is None or self.next == len(self.intended)
        if all_sent and not self.busy:
            self.over.set()


def _request(port: int, user_id: Any) -> bytes:
    body = json.dumps({"user_id": user_id, "k": 10, "include_titles": False})
    head = f"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + fields + body).encode()
