"""Where answers are kept: in the memory of a worker, in Redis, or nowhere.

A key names everything that an answer depends on, so an entry never becomes wrong: after an event or
with another bundle the key is another.
"""

import asyncio
import logging
import time
from typing import Any

import redis.asyncio
from cachetools import TTLCache
from redis.exceptions import ResponseError

from server import metrics

log = logging.getLogger("server")
REDIS_TIMEOUT_S = 0.25  # far above Redis's own time: both may wait for a busy processor
REDIS_PAUSE_S = 1.0  # pause after a failure
CONNECTION = "connection"

_Call = tuple[tuple[Any, ...], asyncio.Future]  # a command and its answer


class Cache:
    """Bytes by key; this one keeps nothing. No call raises: a cache that fails has no entries."""

    async def get(self, key: bytes) -> bytes | None:
        """Get the value of a key."""
        return None

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value."""

    async def close(self) -> None:
        """Close connections."""


class MemoryCache(Cache):
    """Drops the least recently used entry when it is full.

    Args:
        size: Number of entries.
        ttl_s: Seconds for which an entry is kept.
    """

    def __init__(self, size: int, ttl_s: float) -> None:
        self._entries: TTLCache[bytes, bytes] = TTLCache(size, ttl_s)

    async def get(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    async def put(self, key: bytes, value: bytes) -> None:
        self._entries[key] = value


class RedisCache(Cache):
    """Shared by workers and hosts, over one connection.

    Calls that come while others are under way are sent together when those are done. Any number of
    clients needs no further connection, and a call costs less under load.

    After a failure Redis is not asked for a second. If Redis itself answers with an error, as when
    its memory is full, only that command pauses.

    Args:
        url: redis://HOST:PORT/DB.
        ttl_s: Seconds for which an entry is kept.
    """

    def __init__(self, url: str, ttl_s: float) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url,
            protocol=2,  # every version of Redis knows it
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )
        self._ttl_ms = int(ttl_s * 1000)
        self._waiting: list[_Call] = []
        self._sending: asyncio.Task | None = None
        self._paused: dict[str, float] = {}  # when to ask again, by command or CONNECTION

    async def get(self, key: bytes) -> bytes | None:
        return await self._call("GET", key)

    async def put(self, key: bytes, value: bytes) -> None:
        await self._call("SET", key, value, "PX", self._ttl_ms)

    async def _call(self, *command: Any) -> bytes | None:
        until = max(self._paused.get(name, 0.0) for name in (command[0], CONNECTION))
        if time.monotonic() < until:
            return None
        call: _Call = command, asyncio.get_running_loop().create_future()
        self._waiting.append(call)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await call[1]

    async def _send(self) -> None:
        """Send calls until none waits."""
        while self._waiting:
            calls, self._waiting = self._waiting, []
            answers: list[Any]
            try:
                answers = await self._ask([command for command, _ in calls])
            except ResponseError as error:
                answers = [error]
            except Exception as error:  # redis-py passes on half a dozen of asyncio's errors too
                calls, self._waiting = calls + self._waiting, []
                answers = [error] * len(calls)
            for (command, future), answer in zip(calls, answers, strict=True):
                self._note(command[0], answer)
                if not future.done():
                    future.set_result(None if isinstance(answer, Exception) else answer)
        self._sending = None

    async def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if len(commands) == 1:  # cheaper without a pipeline
            return [await self._client.execute_command(*commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    def _note(self, command: str, answer: Any) -> None:
        """Pause after a failure. The log has a line for the first one, and one for the recovery."""
        if isinstance(answer, Exception):
            failed = command if isinstance(answer, ResponseError) else CONNECTION
            if failed not in self._paused:
                reason = str(answer) or repr(answer)
                log.warning("Redis %s fails, answers are computed: %s", failed, reason)
            if self._paused.get(failed, 0) <= (now := time.monotonic()):
                metrics.CACHE_FAILURES.inc()
                self._paused[failed] = now + REDIS_PAUSE_S
        elif self._paused:
            for recovered in self._paused.keys() & {command, CONNECTION}:
                del self._paused[recovered]
                log.info("Redis %s works again", recovered)

    async def close(self) -> None:
        await self._client.aclose()


def open_cache(kind: str, size: int, ttl_s: float) -> Cache:
    """Open the cache that a setting names: memory, none, or a Redis URL."""
    if kind == "none":
        return Cache()
    return MemoryCache(size, ttl_s) if kind == "memory" else RedisCache(kind, ttl_s)
