"""The queue is bounded, waits no longer than allowed, and computes like lengths together. 2 s."""

import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from server.batching import STANDING, STANDING_S, Batcher
from server.engine import Query, Ranked, Stages
from server.errors import OverloadedError

pytestmark = pytest.mark.timed


class Slow:
    """An engine that takes a while, and remembers what it was asked together. Its answer is the history."""

    window = 200

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds, self.batches = seconds, []
        self.at_work, self.most = 0, 0
        self.lock = threading.Lock()

    def length(self, query: Query) -> int:
        return len(query.items)

    def __call__(self, queries):
        with self.lock:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            self.batches.append([len(q.items) for q in queries])
        time.sleep(self.seconds)
        with self.lock:
            self.at_work -= 1
        return [Ranked(q.items, q.items) for q in queries], Stages({"encode": 1.0}, {"encode": 0.5})


class Broken(Slow):
    def __call__(self, queries):
        raise RuntimeError("broken")


def query(length: int) -> Query:
    return Query(np.arange(length), exclude_seen=True)


def run(engine, lengths, *, threads=1, max_batch=8, max_queue=100, deadline_s=10.0):
    """What comes of queries that arrive at once: answers or errors."""

    async def main():
        batcher = Batcher(threads, max_batch, max_queue, deadline_s)
        try:
            asked = [batcher.compute(engine, query(n)) for n in lengths]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            batcher.close()

    return asyncio.run(main())


def test_every_query_gets_its_own_answer():
    lengths = [3, 50, 4, 51, 3, 200, 1]
    answers = run(Slow(), lengths, threads=2)
    assert [len(ranked.items) for ranked, _, _ in answers] == lengths


def test_a_batch_has_like_lengths_and_the_oldest_goes_first():
    engine = Slow()
    run(engine, [9, 40, 41, 10, 50, 200, 12, 39])
    # the first finds a free thread and nobody else; then the oldest and those like it
    assert engine.batches == [[9], [40, 41, 50, 39], [10, 12], [200]]


def test_a_batch_has_no_more_events_than_one_long_history():
    engine = Slow()
    run(engine, [1, 60, 70, 62, 190, 190, 60])
    assert engine.batches == [[1], [60, 70], [62, 60], [190], [190]]


def test_a_batch_has_a_size():
    engine = Slow()
    run(engine, [20] * 10, max_batch=4)
    assert [len(batch) for batch in engine.batches] == [1, 4, 4, 1]


def test_threads_are_all_used_and_no_more():
    engine = Slow()
    run(engine, [1, 50, 100, 150, 200], threads=2, max_batch=1)
    assert engine.most == 2


def test_beyond_its_bound_the_queue_takes_nothing():
    answers = run(Slow(), [20] * 10, max_queue=3, max_batch=1)
    refused = [a for a in answers if isinstance(a, OverloadedError)]
    assert len(refused) == 6  # one at work, three wait
    assert refused[0].status == 503
    assert int(refused[0].headers["Retry-After"]) >= 1


def test_who_waits_beyond_the_deadline_is_turned_away():
    engine = Slow(0.05)
    answers = run(engine, [20] * 6, max_batch=1, deadline_s=0.12)
    late = [isinstance(a, OverloadedError) for a in answers]
    assert late == sorted(late)  # the oldest are served
    assert any(late)
    assert not all(late)
    assert len(engine.batches) == late.count(False)


def test_while_somebody_is_turned_away_a_part_of_the_deadline_is_allowed():
    engine = Slow(0.08)
    assert (
        STANDING * 0.24 < 0.08 < 0.24
    )  # a second request waits longer than is allowed then, not than otherwise

    async def main():
        batcher = Batcher(1, 1, 100, 0.24)

        async def refused(number):
            answers = await asyncio.gather(
                *(batcher.compute(engine, query(20)) for _ in range(number)), return_exceptions=True
            )
            return sum(isinstance(a, OverloadedError) for a in answers)

        try:
            before, crowd, after = await refused(2), await refused(8), await refused(2)
            await asyncio.sleep(STANDING_S)
            return before, crowd, after, await refused(2)
        finally:
            batcher.close()

    before, crowd, after, later = asyncio.run(main())
    assert crowd
    assert (before, after, later) == (0, 1, 0)


PRIORITY = """
import os, threading
from server.batching import _give_way
before = os.getpriority(os.PRIO_PROCESS, 0)
def tell():
    _give_way()
    print(os.sched_getscheduler(0) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, 0) - before)
thread = threading.Thread(target=tell)
thread.start()
thread.join()
print(os.sched_getscheduler(0) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, 0) - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="threads have a priority of their own on Linux alone"
)
@pytest.mark.parametrize(("own_session", "told"), [(True, "True 0"), (False, "False 5")])
def test_compute_threads_give_way_entirely_only_in_a_session_of_their_own(own_session, told):
    command = [
        "sh",
        "-c",
        f'{"exec " if own_session else ""}"$0" -c "$1"; true',
        sys.executable,
        PRIORITY,
    ]
    said = subprocess.run(
        command, start_new_session=own_session, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines() == [told, "False 0"]


def test_the_waiting_time_is_told():
    answers = run(Slow(0.05), [20, 20], max_batch=1)
    (_, first, _), (_, second, stages) = answers
    assert first < 25 < second
    assert (stages.ms, stages.cpu_ms) == ({"encode": 1.0}, {"encode": 0.5})


def test_without_threads_it_computes_on_the_loop_one_by_one():
    engine = Slow()
    answers = run(engine, [20, 20, 20], threads=0)
    assert engine.batches == [[20], [20], [20]]
    assert [waited for _, waited, _ in answers] == [0.0] * 3


def test_an_error_reaches_those_of_its_batch_and_the_thread_goes_on():
    async def main():
        batcher = Batcher(1, 8, 100, 10.0)
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.compute(Broken(), query(3))
        ranked, _, _ = await batcher.compute(Slow(), query(3))
        batcher.close()
        return len(ranked.items)

    assert asyncio.run(main()) == 3


def test_old_and_new_engines_are_not_mixed():
    old, new = Slow(), Slow()

    async def main():
        batcher = Batcher(1, 8, 100, 10.0)
        await asyncio.gather(
            *(batcher.compute(engine, query(20)) for engine in (old, old, new, old, new))
        )
        batcher.close()

    asyncio.run(main())
    assert old.batches == [[20], [20, 20]]
    assert new.batches == [[20, 20]]


def test_who_left_is_not_computed():
    engine = Slow(0.05)

    async def main():
        batcher = Batcher(1, 1, 100, 10.0)
        first, gone, last = (
            asyncio.ensure_future(batcher.compute(engine, query(n))) for n in (1, 50, 150)
        )
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(first, last)
        batcher.close()

    asyncio.run(main())
    assert engine.batches == [[1], [150]]
