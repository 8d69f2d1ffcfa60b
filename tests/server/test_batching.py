"""The queue is bounded, rejects late requests, and computes similar lengths together. 2 s."""

import asyncio
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from nanorecsys.serving.errors import RetrievalError
from server import metrics
from server.batching import COMPUTE_NICE, EARLY, RECENT, Batcher
from server.engine import Query, Ranked
from server.schema import OverloadedError, ProblemError, Request
from server.service import Service
from server.settings import Settings

pytestmark = pytest.mark.timed


class Slow:
    """An engine that takes a while, records its batches, and answers with the history."""

    window = 200

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds, self.batches = seconds, []
        self.computing, self.most = 0, 0
        self.lock = threading.Lock()

    def length(self, query: Query) -> int:
        return len(query.items)

    def __call__(self, queries):
        with self.lock:
            self.computing += 1
            self.most = max(self.most, self.computing)
            self.batches.append([len(q.items) for q in queries])
        time.sleep(self.seconds)
        with self.lock:
            self.computing -= 1
        return [Ranked(q.items, q.items) for q in queries], {"encode": (1.0, 0.5)}


class Held(Slow):
    """Computes nothing until it is released, as a search in a Milvus that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def __call__(self, queries):
        assert self.released.wait(20)
        return super().__call__(queries)


class Broken(Slow):
    def __call__(self, queries):
        raise RuntimeError("broken")


def query(length: int) -> Query:
    return Query(np.arange(length), exclude_seen=True)


def run(engine, lengths, *, threads=1, max_batch=8, max_queue=100, deadline_s=10.0):
    """Answers or errors of queries that arrive at once."""

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
    assert [len(ranked.items) for ranked, _ in answers] == lengths


def test_a_batch_has_similar_lengths_and_the_oldest_goes_first():
    engine = Slow()
    run(engine, [9, 40, 41, 10, 50, 200, 12, 39])
    # The first finds a free thread and an empty queue; then the oldest goes with similar ones.
    assert engine.batches == [[9], [40, 41, 50, 39], [10, 12], [200]]


def test_a_batch_has_no_more_events_than_one_long_history():
    engine = Slow()
    run(engine, [1, 60, 70, 62, 190, 190, 60])
    assert engine.batches == [[1], [60, 70], [62, 60], [190], [190]]


def test_a_batch_has_a_largest_size():
    engine = Slow()
    run(engine, [20] * 10, max_batch=4)
    assert [len(batch) for batch in engine.batches] == [1, 4, 4, 1]


def test_every_thread_is_used():
    engine = Slow()
    run(engine, [1, 50, 100, 150, 200], threads=2, max_batch=1)
    assert engine.most == 2


def test_a_full_queue_rejects():
    answers = run(Slow(), [20] * 10, max_queue=3, max_batch=1)
    refused = [a for a in answers if isinstance(a, OverloadedError)]
    assert len(refused) == 6  # one is computed, three wait
    assert refused[0].status == 503
    assert int(refused[0].headers["Retry-After"]) >= 1


def test_a_query_that_would_wait_too_long_is_rejected_at_once():
    engine, most = Slow(0.02), 1 + int(EARLY * 1.0 / 0.02)

    async def main():
        batcher = Batcher(1, 1, 100, 1.0)
        for _ in range(RECENT):  # It learns the pace.
            await batcher.compute(engine, query(20))
        asked = [batcher.compute(engine, query(20)) for _ in range(2 * most)]
        at_once = sum(answer.done() for answer in asked)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return at_once, sum(isinstance(a, OverloadedError) for a in answers)

    at_once, rejected = asyncio.run(main())
    assert most - 1 <= at_once < 2 * most - 5
    assert rejected == at_once


def test_a_batch_that_was_held_up_does_not_fill_the_queue():
    engine = Slow(0.002)

    async def main():
        batcher = Batcher(1, 1, 100, 1.0)
        for number in range(RECENT):
            engine.seconds = 0.5 if number == RECENT // 2 else 0.002
            await batcher.compute(engine, query(20))
        asked = [batcher.compute(engine, query(20)) for _ in range(50)]
        assert not batcher.is_full()
        await asyncio.gather(*asked)
        batcher.close()

    asyncio.run(main())


def test_a_query_is_in_the_queue_as_soon_as_it_is_asked():
    async def main():
        batcher = Batcher(1, 1, 3, 10.0)
        answers = [batcher.compute(Slow(), query(20)) for _ in range(4)]
        assert batcher.is_full()
        await asyncio.gather(*answers)
        assert not batcher.is_full()
        batcher.close()

    asyncio.run(main())


def test_a_request_beyond_the_deadline_is_rejected():
    engine = Slow(0.05)
    answers = run(engine, [20] * 6, max_batch=1, deadline_s=0.12)
    late = [isinstance(a, OverloadedError) for a in answers]
    assert late == sorted(late)  # the oldest are served
    assert any(late)
    assert not all(late)
    assert len(engine.batches) == late.count(False)


def test_a_request_is_rejected_at_its_deadline_while_every_thread_is_held():
    """A search in a Milvus that hangs may hold a thread for seconds."""
    held = Held()

    async def main():
        batcher = Batcher(1, 1, 100, 0.05)
        first = batcher.compute(held, query(3))
        with pytest.raises(OverloadedError):
            await asyncio.wait_for(batcher.compute(Slow(), query(3)), 10)
        assert not first.done()
        held.released.set()
        await first
        batcher.close()

    asyncio.run(main())


def test_compute_threads_have_a_lower_priority_and_may_be_refused_it(monkeypatch):
    event_loop = os.getpriority(os.PRIO_PROCESS, 0)

    class Priorities(Slow):
        def __call__(self, queries):
            self.priority = os.getpriority(os.PRIO_PROCESS, 0)
            return super().__call__(queries)

    def refuse(*arguments):
        raise PermissionError("refused")

    engine = Priorities()
    run(engine, [20])
    assert engine.priority == event_loop + COMPUTE_NICE
    assert os.getpriority(os.PRIO_PROCESS, 0) == event_loop
    monkeypatch.setattr(os, "setpriority", refuse)
    (ranked, _), *_ = run(engine, [20])
    assert len(ranked.items) == 20
    assert engine.priority == event_loop


def test_timings_include_the_queue():
    answers = run(Slow(0.05), [20, 20], max_batch=1)
    (_, first), (_, second) = answers
    assert first["queue"][0] < 25 < second["queue"][0]
    assert second["encode"] == (1.0, 0.5)


def test_without_threads_it_computes_on_the_event_loop():
    engine = Slow()
    answers = run(engine, [20, 20, 20], threads=0)
    assert engine.batches == [[20], [20], [20]]
    assert [timings["queue"] for _, timings in answers] == [(0.0, None)] * 3


def test_an_error_reaches_its_batch_and_the_thread_goes_on():
    async def main():
        batcher = Batcher(1, 8, 100, 10.0)
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.compute(Broken(), query(3))
        ranked, _ = await batcher.compute(Slow(), query(3))
        batcher.close()
        return len(ranked.items)

    assert asyncio.run(main()) == 3


def test_a_batch_has_one_engine():
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


def shed() -> dict[str, float]:
    """Rejections so far, by reason."""
    [counted] = metrics.SHED.collect()
    return {
        sample.labels["reason"]: sample.value
        for sample in counted.samples
        if sample.name == "nanorecsys_shed_total"
    }


def in_service(small, tmp_path, act: Callable[[Service], Awaitable[None]], **settings) -> None:
    """Act on an open service with one compute thread."""

    async def main():
        place = str(tmp_path / "events.sqlite")
        service = Service(Settings(bundle=small.bundle, events=place, cache="none", **settings))
        await service.open()
        try:
            await act(service)
        finally:
            await service.close()

    asyncio.run(main())


def test_every_rejected_request_is_counted_once_and_a_check_is_not(small, tmp_path):
    """Equal requests wait for one computation, and are rejected with it."""
    held = Held()

    async def act(service):
        busy, before = service.batcher.compute(held, query(3)), shed()
        asked = [service.recommend(Request(user_id=1002), {}) for _ in range(3)]
        asked.append(service.recommend(Request(user_id=1003), {}))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(ProblemError, match="nothing can be computed"):
            await service.check()
        held.released.set()
        await busy
        assert [type(answer) for answer in answers] == [OverloadedError] * 4
        assert shed() == before | {"deadline": before.get("deadline", 0) + 4}

    in_service(small, tmp_path, act, deadline_ms=50.0)


class Failing(Held):
    """Fails once it is released, as a search in a Milvus that was killed."""

    def __call__(self, queries):
        super().__call__(queries)
        raise RetrievalError("Milvus fails", "Start it.")


@pytest.mark.parametrize("held", [Held(), Failing()])
def test_a_check_that_waits_in_vain_leaves_the_thread_at_work(small, tmp_path, monkeypatch, held):
    monkeypatch.setattr("server.service.CHECK_S", 0.05)
    errors = []

    async def act(service):
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        service.engine = held
        with pytest.raises(ProblemError, match="TimeoutError"):
            await service.check()
        held.released.set()
        ranked, _ = await service.batcher.compute(Slow(), query(3))
        assert len(ranked.items) == 3
        gc.collect()  # a future that is freed reports an error that no one has read

    in_service(small, tmp_path, act)
    assert not errors
