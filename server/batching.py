"""A bounded queue before a few compute threads: requests of like length are computed together.

A free thread takes the oldest request and whatever else waits and has about its length; nothing
waits for company. A batch has no more events than one history of full length: several short ones
cost less together, several long ones do not, and each would wait for all. A request that has waited
beyond the deadline is turned away, since its client has better uses for an early refusal. While
that happens a part of the deadline is all that is allowed: a queue that stands would make everyone
wait almost until the deadline, and no more of them would be answered (controlled delay: Nichols and
Jacobson 2012; for requests, Maurer 2015, Fail at scale).
"""

import asyncio
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from server import metrics
from server.engine import Engine, Query, Ranked, Stages
from server.errors import OverloadedError

ALIKE = 1.25  # lengths in a batch differ by this factor at most, or by SHORT
SHORT = 8
STANDING = 0.25  # the share of the deadline that is allowed,
STANDING_S = 0.25  # until so long after the last request that was turned away
COMPUTE_NICE = 5  # above the event loop's


@dataclass(eq=False, slots=True)
class _Waiting:
    engine: Engine
    query: Query
    length: int
    since: float
    answer: asyncio.Future[tuple[Ranked, float, Stages]]


class Batcher:
    """Computes queries for the event loop that it is used on.

    Args:
        threads: that compute; 0: on the event loop itself, one query at a time, which blocks it.
        max_batch: queries at once.
        max_queue: queries that may wait.
        deadline_s: longest wait; `STANDING` of it until `STANDING_S` after somebody was turned away
            for it.
    """

    def __init__(self, threads: int, max_batch: int, max_queue: int, deadline_s: float) -> None:
        self._pool = (
            ThreadPoolExecutor(threads, "compute", initializer=_give_way) if threads else None
        )
        self._free = threads
        self._max_batch, self._max_queue, self._deadline_s = max_batch, max_queue, deadline_s
        self._queue: deque[_Waiting] = deque()
        self._late = -STANDING_S  # when somebody was last turned away for the deadline

    async def compute(self, engine: Engine, query: Query) -> tuple[Ranked, float, Stages]:
        """The answer, milliseconds until a thread began with it, and what its batch took in each stage.

        Raises:
            OverloadedError: the queue is full, or the deadline passed before a thread was free.
        """
        if self._pool is None:
            (ranked,), stages = engine([query])
            metrics.BATCH.observe(1)
            return ranked, 0.0, stages
        if len(self._queue) >= self._max_queue:
            metrics.SHED.labels("queue").inc()
            raise OverloadedError(f"{self._max_queue} requests wait already")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            engine, query, engine.length(query), time.perf_counter(), loop.create_future()
        )
        self._queue.append(waiting)
        self._start(loop)
        return await waiting.answer

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand out batches as long as there is a free thread and someone who waits."""
        while self._free and (batch := self._next(time.perf_counter())):
            self._free -= 1
            work = loop.run_in_executor(self._pool, _compute, batch)
            work.add_done_callback(lambda done, batch=batch: self._end(loop, batch, done))
        metrics.QUEUE.set(len(self._queue))

    def _next(self, now: float) -> list[_Waiting]:
        """The oldest request that may still be computed, with others like it."""
        allowed = self._deadline_s * (STANDING if now - self._late < STANDING_S else 1.0)
        while self._queue and (
            self._queue[0].answer.done() or now - self._queue[0].since > allowed
        ):
            late = self._queue.popleft()
            if not late.answer.done():  # done: cancelled, its client has gone
                self._late = now
                metrics.SHED.labels("deadline").inc()
                late.answer.set_exception(
                    OverloadedError(f"no thread was free within {allowed * 1e3:g} ms")
                )
        if not self._queue:
            return []
        first = self._queue.popleft()
        batch, rest, longest = [first], deque(), first.length
        for waiting in self._queue:
            short, long = sorted((first.length, waiting.length))
            alike = waiting.engine is first.engine and long <= max(short * ALIKE, short + SHORT)
            room = min(self._max_batch, first.engine.window // max(longest, waiting.length))
            if len(batch) < room and alike and not waiting.answer.done():
                batch.append(waiting)
                longest = max(longest, waiting.length)
            else:
                rest.append(waiting)
        self._queue = rest
        metrics.BATCH.observe(len(batch))
        return batch

    def _end(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting],
        done: "asyncio.Future[tuple[float, list[Ranked], Stages]]",
    ) -> None:
        self._free += 1
        error = done.exception()
        for row, waiting in enumerate(batch):
            if waiting.answer.done():
                continue
            if error:
                waiting.answer.set_exception(error)
            else:
                begun, answers, stages = done.result()
                waiting.answer.set_result((answers[row], (begun - waiting.since) * 1e3, stages))
        self._start(loop)

    def close(self) -> None:
        """Let the threads go."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _compute(batch: list[_Waiting]) -> tuple[float, list[Ranked], Stages]:
    """When a thread began, and what comes of it."""
    begun = time.perf_counter()
    return begun, *batch[0].engine([waiting.query for waiting in batch])


def _give_way() -> None:
    """Leave the cores to the event loop, which a quick answer waits for.

    Entirely, where the server has a session of its own, as under systemd or in a container: the
    system weighs a session as a whole, so that the threads lose nothing to others. Elsewhere they
    would, and have a lower priority only.
    """
    if hasattr(os, "SCHED_IDLE") and os.getsid(0) in (os.getpid(), os.getppid()):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(
        os, "setpriority"
    ):  # on Linux a thread has a priority of its own, under its own number
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + COMPUTE_NICE)
