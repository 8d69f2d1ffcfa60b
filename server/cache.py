"""Where answers are kept: in the memory of a worker, in Redis, or nowhere.

A key names all that an answer depends on, so an entry is never wrong: what is new (an event, a
bundle) has another key.
"""

import time
from typing import Protocol

import redis.asyncio
from cachetools import TTLCache

from server import metrics

REDIS_TIMEOUT_S = 0.25  # a healthy Redis answers in well under a millisecond, but both may wait for a full processor
REDIS_PAUSE_S = 1.0  # after a failure Redis is left alone for so long


class Cache(Protocol):
    """Bytes by key. Neither call raises: a cache that fails has nothing, and keeps nothing."""

    async def get(self, key: bytes) -> bytes | None:
        """What was kept under the key."""

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value."""

    async def close(self) -> None:
        """Let go of connections."""


class NoCache:
    """Keeps nothing."""

    async def get(self, key: bytes) -> bytes | None:
        return None

    async def put(self, key: bytes, value: bytes) -> None:
        return None

    async def close(self) -> None:
        return None


class MemoryCache:
    """The least recently used entries go first.

    Args:
        size: entries.
        ttl_s: seconds that one is kept.
    """

    def __init__(self, size: int, ttl_s: float) -> None:
        self._kept: TTLCache[bytes, bytes] = TTLCache(size, ttl_s)

    async def get(self, key: bytes) -> bytes | None:
        return self._kept.get(key)

    async def put(self, key: bytes, value: bytes) -> None:
        self._kept[key] = value

    async def close(self) -> None:
        self._kept.clear()


class RedisCache:
    """Shared by workers and hosts. When Redis fails it is left alone for a second, then tried again.

    Args:
        url: redis://HOST:PORT/DB.
        ttl_s: seconds that an answer is kept.
    """

    def __init__(self, url: str, ttl_s: float) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            max_connections=64,
        )
        self._ttl_ms = int(ttl_s * 1000)
        self._paused_until = 0.0

    async def get(self, key: bytes) -> bytes | None:
        if time.monotonic() < self._paused_until:
            return None
        try:
            return await self._client.get(key)
        except (
            Exception
        ):  # redis-py passes on what asyncio raises when a connection breaks, of half a dozen types
            self._pause()
            return None

    async def put(self, key: bytes, value: bytes) -> None:
        if time.monotonic() < self._paused_until:
            return
        try:
            await self._client.set(key, value, px=self._ttl_ms)
        except Exception:
            self._pause()

    def _pause(self) -> None:
        metrics.CACHE_FAILURES.inc()
        self._paused_until = time.monotonic() + REDIS_PAUSE_S

    async def close(self) -> None:
        await self._client.aclose()


def open_cache(kind: str, size: int, ttl_s: float) -> Cache:
    """The cache that a setting names: memory, none, or a Redis URL."""
    if kind == "none":
        return NoCache()
    return MemoryCache(size, ttl_s) if kind == "memory" else RedisCache(kind, ttl_s)
