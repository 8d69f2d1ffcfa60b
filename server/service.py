"""What a worker does with a request: look up, join an equal one, compute, keep. It also reloads."""

import asyncio
import ctypes
import gc
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from nanorecsys.serving.errors import CollectionError, RetrievalError
from nanorecsys.serving.milvus import Milvus
from server import metrics
from server.batching import FULL, Batcher, Computing, lower_priority
from server.cache import open_cache
from server.engine import Engine, Query, Ranked, Timings
from server.events import Events
from server.redis_events import open_events
from server.schema import OverloadedError, ProblemError, Request, Source
from server.settings import EMBEDDED, Settings

log = logging.getLogger("server")
CHECK_S = 2.0  # age of a computed batch at which a check computes another, and its timeout
PROBE = Query(np.zeros(1, np.int64), exclude_seen=True)
# At a higher rate of rejections they are delayed: each client that retries at once would otherwise
# get several for the work of one answer, and take the processor from computing.
REJECTION_GAP_S = 0.004
REJECTION_DELAY_S = 1.0
COLLECT_AFTER = (20_000, 20, 50)  # thresholds of the garbage collector's generations


class Rejections:
    """Spaces rejections: at once at a low rate, up to a second later at a high one."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self) -> None:
        """Wait for the turn of a rejection."""
        now = time.perf_counter()
        self._next = min(max(now, self._next + REJECTION_GAP_S), now + REJECTION_DELAY_S)
        await asyncio.sleep(self._next - now)


class Recommendation(NamedTuple):
    """Ranked items, the engine that numbers them, and where they come from.

    `events_unread` says that the user's posted events could not be read.
    """

    engine: Engine
    ranked: Ranked
    source: Source
    events_unread: bool


class Service:
    """State of one worker, used on one event loop: `open` it before use and `close` it after."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self.engine: Engine
        self.events: Events
        self._cache = open_cache(settings.cache, settings.cache_size, settings.cache_ttl_s)
        deadline_s = settings.deadline_ms / 1e3
        self.batcher = Batcher(settings.threads, settings.max_batch, settings.max_queue, deadline_s)
        self.rejections = Rejections()
        self._milvus = None
        if settings.retrieval != EMBEDDED:
            timeout_s = settings.retrieval_timeout_ms / 1e3
            number = settings.retrieval_retries, settings.retrieval_pool
            self._milvus = Milvus(settings.retrieval, timeout_s, *number)
        self._in_flight: dict[bytes, asyncio.Future[Ranked]] = {}
        # It opens bundles, which takes as much of a core as computing.
        self._disk = ThreadPoolExecutor(1, "disk", initializer=lower_priority)

    async def open(self) -> None:
        """Open the bundle and the event log.

        Raises:
            ServingError: One of them cannot be opened.
        """
        loop = asyncio.get_running_loop()
        self.engine = await loop.run_in_executor(self._disk, self._load, True)
        self.batcher.start()
        self.events = open_events(self.settings.events_place)
        settle_memory()

    async def close(self) -> None:
        """Close threads, files and connections."""
        self.batcher.close()
        self._disk.shutdown()
        await self.events.close()
        await self._cache.close()
        if self._milvus:
            self._milvus.close()

    async def reload(self) -> None:
        """Open the bundle that the path names now. If it is broken, the old one stays."""
        loop = asyncio.get_running_loop()
        try:
            engine = await loop.run_in_executor(self._disk, self._load, False)
        except Exception as error:  # ONNX Runtime raises its own errors
            log.error("reload refused, bundle %s stays: %s", self.engine.id, error)
            metrics.RELOADS.labels("refused").inc()
            return
        if self.draining:  # its threads may be gone
            return
        log.info("bundle %s takes over from %s", engine.id, self.engine.id)
        self.engine = engine
        await loop.run_in_executor(self._disk, settle_memory)
        metrics.RELOADS.labels("taken").inc()

    def _load(self, is_start: bool) -> Engine:
        engine = Engine(self.settings, self._milvus)
        try:
            engine.warm_up()
        except RetrievalError as error:
            if not is_start or isinstance(error, CollectionError):
                raise
            log.warning("the server starts without retrieval: %s", error)
        return engine

    async def check(self) -> None:
        """Check that queries are computed: compute one unless one was computed just now.

        Raises:
            ProblemError: Nothing can be computed.
        """
        if time.perf_counter() - self.batcher.computed_at < CHECK_S:
            return
        try:
            async with asyncio.timeout(CHECK_S):
                await asyncio.shield(self.batcher.compute(self.engine, PROBE))
        except Exception as error:
            detail = f"nothing can be computed: {error!r:.200}"
            raise ProblemError(503, "Not ready", detail, {"Retry-After": "1"}) from error

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        """Store an event; also count the user's events.

        Raises:
            ProblemError: There is no such user or item, or Redis does not store the event.
        """
        _number(self.engine.bundle.user_numbers, user_id, "user")
        _number(self.engine.bundle.item_numbers, item_id, "item")
        stored = await self.events.append(user_id, item_id)
        metrics.EVENTS.inc()
        return stored

    async def recommend(self, request: Request, timings: Timings) -> Recommendation:
        """Rank items.

        Args:
            request: Request for a user or a history.
            timings: Dict to which the stages of the request are added.

        Raises:
            ProblemError: An unknown user or item, or an overload.
            RetrievalError: Milvus does not answer.
        """
        engine = self.engine
        if self.batcher.is_full() and not request.degrade:
            metrics.SHED.labels("early").inc()
            raise OverloadedError("early", FULL)
        key, items, unread = await self._history(engine, request)
        if not len(items):
            return Recommendation(engine, engine.popular(items), "fallback", unread)
        start = time.perf_counter_ns()
        stored = await self._cache.get(key)
        timings["cache"] = ((time.perf_counter_ns() - start) / 1e6, None)
        if stored is not None:
            return Recommendation(engine, Ranked.from_bytes(stored), "cache", unread)
        try:
            query = Query(items.astype(np.int64), request.exclude_seen)
            ranked = await self._computed(engine, key, query, timings)
            return Recommendation(engine, ranked, "model", unread)
        except (OverloadedError, RetrievalError) as error:
            if isinstance(error, OverloadedError):
                metrics.SHED.labels(error.reason).inc()
            else:
                metrics.RETRIEVAL_FAILURES.inc()
                self.batcher.computed_at = -math.inf  # the next check computes
            if not request.degrade:
                raise
            seen = items if request.exclude_seen else items[:0]
            return Recommendation(engine, engine.popular(seen), "fallback", unread)

    async def _computed(self, engine: Engine, key: bytes, query: Query, timings: Timings) -> Ranked:
        """Compute an answer, or wait for an equal request in flight."""
        if work := self._in_flight.get(key):
            metrics.COALESCED.inc()
            start = time.perf_counter_ns()
            ranked = await asyncio.shield(work)
            timings["queue"] = ((time.perf_counter_ns() - start) / 1e6, None)
            return ranked
        # A separate task: when the first client leaves, the others still get the answer.
        answer = self.batcher.compute(engine, query)
        work = asyncio.ensure_future(self._keep(key, answer, timings))
        self._in_flight[key] = work
        work.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await asyncio.shield(work)

    async def _keep(self, key: bytes, answer: Computing, timings: Timings) -> Ranked:
        ranked, computed = await answer
        timings |= computed
        await self._cache.put(key, ranked.to_bytes())
        return ranked

    async def _history(self, engine: Engine, request: Request) -> tuple[bytes, np.ndarray, bool]:
        """A key that names everything the answer depends on, and the history, int (n,).

        Also whether posted events are left out because they could not be read.
        """
        bundle, posted = engine.bundle, None
        if request.history is not None:
            numbers = [_number(bundle.item_numbers, name, "item") for name in request.history]
            items = np.array(numbers, np.int64)
            source = b"h" + _digest(items)
        else:
            assert request.user_id is not None  # The struct checks that one of the two is given.
            user = _number(bundle.user_numbers, request.user_id, "user")
            offsets = bundle.histories.offsets
            items = bundle.histories.items[offsets[user] : offsets[user + 1]]
            source = b"u%d" % user
            if posted := await self.events.of_user(request.user_id):
                # A new bundle may lack an item of an old event.
                known = [bundle.item_numbers[i] for i in posted if i in bundle.item_numbers]
                newer = np.array(known, np.int32)
                items = np.concatenate([items, newer])
                source += b"e" + _digest(newer)
        key = b"%b:%d:%b" % (engine.cache_id.encode(), request.exclude_seen, source)
        return key, items, posted is None and request.history is None


def settle_memory() -> None:
    """Collect garbage after a bundle was loaded, spare it later collections, and free memory.

    A collection that looks through a whole bundle blocks every request, and with Python's own
    thresholds a busy server makes one every few seconds. glibc would otherwise keep half as much
    memory again.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _digest(items: np.ndarray) -> bytes:
    return hashlib.blake2b(items.tobytes(), digest_size=16).digest()


def _number(numbers: Mapping[int | str, int], name: int | str, what: str) -> int:
    number = numbers.get(name)
    if number is None:
        raise ProblemError(404, f"Unknown {what}", f"this bundle has no {what} {name!r:.99}")
    return number
