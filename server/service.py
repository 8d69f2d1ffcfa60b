"""What a worker does with a request: look up, join an equal one, compute, keep; and take up a new bundle."""

import asyncio
import ctypes
import gc
import hashlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from nanorecsys.system.errors import NanorecsysError
from server import metrics
from server.batching import Batcher
from server.cache import open_cache
from server.engine import Engine, Query, Ranked, open_engine
from server.errors import OverloadedError, ProblemError
from server.events import EventLog
from server.schema import Request
from server.settings import Settings

log = logging.getLogger("server")
COLLECT_AFTER = (
    20_000,
    20,
    50,
)  # objects more than were let go, and collections of one generation before the next
Source = Literal["model", "cache", "fallback"]


@dataclass
class Timings:
    """Milliseconds of a request in the stages that it went through; of those that compute, also of CPU time."""

    stages: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    started_ns: int = field(default_factory=time.perf_counter_ns)

    def total_ms(self) -> float:
        """Milliseconds since the request came."""
        return (time.perf_counter_ns() - self.started_ns) / 1e6

    def header(self) -> str:
        """As Server-Timing has them: https://www.w3.org/TR/server-timing, with a parameter of our own for CPU time."""
        cpu = {stage: f";cpu={ms:.3f}" for stage, ms in self.cpu.items()}
        return ", ".join(
            [f"{stage};dur={ms:.3f}{cpu.get(stage, '')}" for stage, ms in self.stages.items()]
        )


class Service:
    """One worker's state. Made and used on one event loop; `open` before use, `close` after it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine: Engine
        self._cache = open_cache(settings.cache, settings.cache_size, settings.cache_ttl_s)
        self._batcher = Batcher(
            settings.threads if settings.engine == "onnx" else 0,
            settings.max_batch,
            settings.max_queue,
            settings.deadline_ms / 1e3,
        )
        self._in_flight: dict[bytes, asyncio.Future[Ranked]] = {}
        self._side = ThreadPoolExecutor(
            1, "side"
        )  # for what waits on the disk: one thread, so one writer of events
        self._reloading = asyncio.Lock()
        self.draining = False

    async def open(self) -> None:
        """Open the bundle and the event log.

        Raises:
            NanorecsysError: one of them cannot be opened.
        """
        self.engine = await asyncio.get_running_loop().run_in_executor(self._side, self._load)
        self.events = EventLog(self.settings.events_path)
        _settle_memory()

    async def close(self) -> None:
        """Let go of threads, files and connections."""
        self._batcher.close()
        self._side.shutdown()
        self.events.close()
        await self._cache.close()

    async def reload(self) -> None:
        """Take up the bundle that is in the folder now; a broken one is refused and the old one stays."""
        async with self._reloading:
            try:
                engine = await asyncio.get_running_loop().run_in_executor(self._side, self._load)
            except NanorecsysError as error:
                log.error("reload refused, bundle %s stays: %s", self.engine.id, error)
                metrics.RELOADS.labels("refused").inc()
                return
            log.info("bundle %s takes over from %s", engine.id, self.engine.id)
            self.engine = engine
            await asyncio.get_running_loop().run_in_executor(self._side, _settle_memory)
            metrics.RELOADS.labels("taken").inc()

    def _load(self) -> Engine:
        s = self.settings
        return open_engine(s.bundle, s.engine, s.models, s.candidates, s.read_events, s.pad)

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        """Store an event, on the disk when this returns; the number of the user's events.

        Raises:
            ProblemError: there is no such user or item.
        """
        _number(self.engine.bundle.user_numbers, user_id, "user")
        _number(self.engine.bundle.item_numbers, item_id, "item")
        await asyncio.get_running_loop().run_in_executor(
            self._side, self.events.append, user_id, item_id
        )
        metrics.EVENTS.inc()
        return len(self.events.of_user(user_id))

    async def recommend(self, request: Request, timings: Timings) -> tuple[Engine, Ranked, Source]:
        """Ranked items, where they come from, and the engine whose item numbers they are.

        Raises:
            ProblemError: an unknown user or item, or too much to do.
        """
        engine = self.engine
        key, items = self._history(engine, request)
        if not len(items):
            return engine, engine.popular, "fallback"
        start = time.perf_counter_ns()
        kept = await self._cache.get(key)
        timings.stages["cache"] = (time.perf_counter_ns() - start) / 1e6
        if kept is not None:
            return engine, Ranked.from_bytes(kept), "cache"
        try:
            query = Query(items.astype(np.int64), request.exclude_seen)
            return engine, await self._computed(engine, key, query, timings), "model"
        except OverloadedError:
            if not request.degrade:
                raise
            return engine, engine.popular, "fallback"

    async def _computed(self, engine: Engine, key: bytes, query: Query, timings: Timings) -> Ranked:
        if self.settings.coalesce and (other := self._in_flight.get(key)):
            metrics.COALESCED.inc()
            start = time.perf_counter_ns()
            ranked = await asyncio.shield(other)
            timings.stages["queue"] = (time.perf_counter_ns() - start) / 1e6
            return ranked
        # a task of its own: when the client that asked first goes away, those who joined it still
        # get their answer
        work = asyncio.ensure_future(self._compute(engine, key, query, timings))
        if self.settings.coalesce:
            self._in_flight[key] = work
            work.add_done_callback(lambda _: self._in_flight.pop(key, None))
        return await asyncio.shield(work)

    async def _compute(self, engine: Engine, key: bytes, query: Query, timings: Timings) -> Ranked:
        ranked, waited_ms, stages = await self._batcher.compute(engine, query)
        timings.stages |= {"queue": waited_ms} | stages.ms
        timings.cpu = stages.cpu_ms
        await self._cache.put(key, ranked.to_bytes())
        return ranked

    def _history(self, engine: Engine, request: Request) -> tuple[bytes, np.ndarray]:
        """A key that names all that the answer depends on, and the history's item numbers, int (n,)."""
        bundle = engine.bundle
        if request.history is not None:
            items = np.array(
                [_number(bundle.item_numbers, name, "item") for name in request.history], np.int64
            )
            who = b"h" + hashlib.blake2b(items.tobytes(), digest_size=16).digest()
        else:
            user = _number(bundle.user_numbers, request.user_id, "user")
            offsets = bundle.histories.offsets
            items = bundle.histories.items[offsets[user] : offsets[user + 1]]
            who = b"u%d" % user
            if posted := self.events.of_user(request.user_id):
                # an item that a new bundle no longer has counts no more
                newer = np.array(
                    [bundle.item_numbers[i] for i in posted if i in bundle.item_numbers], np.int32
                )
                items = np.concatenate([items, newer])
                who += b"e" + hashlib.blake2b(newer.tobytes(), digest_size=16).digest()
        return b"%b:%d:%b" % (engine.id.encode(), request.exclude_seen, who), items


def _settle_memory() -> None:
    """After a bundle was loaded: collect garbage, spare what is left from later collections, give free memory back.

    A collection that looks through a whole bundle holds up every request for as long as it takes,
    and by Python's own thresholds a busy server makes one every few seconds. And glibc keeps half
    as much again as is in use otherwise.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _number(numbers: Mapping[int | str, int], name: int | str | None, what: str) -> int:
    number = numbers.get(name)
    if number is None:
        raise ProblemError(404, f"Unknown {what}", f"this bundle has no {what} {name!r:.99}")
    return number
