"""A bounded queue before a few compute threads. Requests of similar length are computed together.

A free thread takes the oldest request and whatever else waits and has about its length; it never
waits for more. A batch has at most the events of one history of full length. Several short
histories cost less together; several long ones do not, and each would wait for all.

A request that has queued longer than the deadline is rejected, so that its client can retry
elsewhere. The queue is full long before that: a standing queue makes everyone wait without more
answers (Nichols and Jacobson 2012; Maurer 2015, Fail at scale).
"""

import asyncio
import logging
import math
import os
import statistics
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from nanorecsys.serving.errors import ServingError
from server import metrics
from server.engine import Engine, Query, Ranked, Timings
from server.schema import OverloadedError

log = logging.getLogger("server")
ALIKE = 1.25  # largest ratio of lengths in a batch; a difference of SHORT is allowed in any case
SHORT = 8
AFTER_S = 0.01  # a timer may be early, so late requests are looked for this long after
EARLY = 0.5  # expected wait at which the queue is full, as a share of the deadline
RECENT = 15  # batches whose median is the pace; a batch that was held up does not change it
COMPUTE_NICE = 5  # how much nicer than the event loop: compute threads, and the one that reloads
FULL = "too many requests wait already"

Computed = tuple[float, list[Ranked], Timings]  # when a thread began, and its results
Computing = asyncio.Future[tuple[Ranked, Timings]]  # time in the queue and in each stage


@dataclass(eq=False, slots=True)
class _Waiting:
    engine: Engine
    query: Query
    length: int
    since: float
    answer: Computing


class Batcher:
    """Computes queries for the event loop that it is used on.

    Args:
        threads: Number of compute threads; 0 computes on the event loop, which blocks it.
        max_batch: Largest number of queries in a batch.
        max_queue: Largest number of queries that wait.
        deadline_s: Longest wait, in seconds.
    """

    def __init__(self, threads: int, max_batch: int, max_queue: int, deadline_s: float) -> None:
        self._threads = ThreadPoolExecutor(threads or 1, "compute", initializer=lower_priority)
        self._blocking, self._free, self._number = threads == 0, threads, threads
        self._max_batch, self._max_queue, self._deadline_s = max_batch, max_queue, deadline_s
        self._queue: deque[_Waiting] = deque()
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds of a query by batch
        self._pace_s = 0.0  # their median
        self.computed_at = -math.inf  # when a batch last ended well

    def start(self) -> None:
        """Start all threads, so that the system cannot refuse one in the middle of the service.

        Raises:
            ServingError: The system refuses a thread.
        """
        try:
            for _ in range(self._number):
                self._threads.submit(time.sleep, 0.01)  # so that the next one finds none idle
        except RuntimeError as error:
            expected = f"expected {self._number} compute threads: {error}"
            raise ServingError(expected, "Choose fewer, --threads, or raise the limit.") from error

    def compute(self, engine: Engine, query: Query) -> Computing:
        """Queue a query for its answer.

        The future has an `OverloadedError` if the query is rejected, now or by the deadline. It
        must not be cancelled: a caller that may leave awaits it behind `asyncio.shield`.
        """
        answer: Computing = asyncio.get_running_loop().create_future()
        # A caller that has left reads no error, and asyncio would log it as never retrieved.
        answer.add_done_callback(lambda done: done.exception())
        if self._blocking:
            (ranked,), timings = engine([query])
            self.computed_at = time.perf_counter()
            metrics.BATCH.observe(1)
            answer.set_result((ranked, {"queue": (0.0, None)} | timings))
        elif self.is_full():
            answer.set_exception(OverloadedError("queue", FULL))
        else:
            length = engine.length(query)
            self._queue.append(_Waiting(engine, query, length, time.perf_counter(), answer))
            self._start()
            if self._queue:  # every thread is busy, and may be for long: Milvus may hang
                asyncio.get_running_loop().call_later(self._deadline_s + AFTER_S, self._start)
        return answer

    def is_full(self) -> bool:
        """Whether a query would find no place, or would wait for too long at the present pace."""
        waiting = len(self._queue)
        return waiting >= self._max_queue or waiting * self._pace_s > EARLY * self._deadline_s

    def _start(self) -> None:
        """Hand out batches as long as there is a free thread and a request that waits."""
        self._reject_late()
        while self._free and self._queue:
            batch = self._next()
            self._free -= 1
            loop = asyncio.get_running_loop()
            try:
                work = loop.run_in_executor(self._threads, _compute, batch)
            except RuntimeError as error:
                work = loop.create_future()
                work.set_exception(error)
            work.add_done_callback(partial(self._end, batch))
        metrics.QUEUE.set(len(self._queue))

    def _next(self) -> list[_Waiting]:
        """Take the oldest request, and others like it."""
        first = self._queue.popleft()
        batch, longest = [first], first.length
        others: deque[_Waiting] = deque()
        for waiting in self._queue:
            short, long = sorted((first.length, waiting.length))
            alike = waiting.engine is first.engine and long <= max(short * ALIKE, short + SHORT)
            most = min(self._max_batch, first.engine.window // max(longest, waiting.length))
            if alike and len(batch) < most:
                batch.append(waiting)
                longest = max(longest, waiting.length)
            else:
                others.append(waiting)
        self._queue = others
        metrics.BATCH.observe(len(batch))
        return batch

    def _reject_late(self) -> None:
        """Reject the requests whose deadline has passed, which are the oldest."""
        now = time.perf_counter()
        while self._queue and now - self._queue[0].since > self._deadline_s:
            detail = f"no thread was free within {self._deadline_s * 1e3:g} ms"
            self._queue.popleft().answer.set_exception(OverloadedError("deadline", detail))

    def _end(self, batch: list[_Waiting], done: asyncio.Future[Computed]) -> None:
        self._free += 1
        if error := done.exception():
            for waiting in batch:
                waiting.answer.set_exception(error)
        else:
            begun, answers, timings = done.result()
            self.computed_at = time.perf_counter()
            self._recent.append((self.computed_at - begun) / len(batch) / self._number)
            self._pace_s = statistics.median(self._recent)
            for waiting, ranked in zip(batch, answers, strict=True):
                queued: Timings = {"queue": ((begun - waiting.since) * 1e3, None)}
                waiting.answer.set_result((ranked, queued | timings))
        self._start()

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _compute(batch: list[_Waiting]) -> Computed:
    """Compute a batch; also when a thread began with it."""
    begun = time.perf_counter()
    return begun, *batch[0].engine([waiting.query for waiting in batch])


def lower_priority() -> None:
    """Let the event loop go first: it answers cached requests. Linux applies this to one thread."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + COMPUTE_NICE)
    except OSError as error:
        name = threading.current_thread().name
        log.warning("the thread %s keeps the event loop's priority: %s", name, error)
