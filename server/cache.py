"""Where answers are kept: in the memory of a worker, in Redis, or nowhere.

A key names everything that an answer depends on, so an entry never becomes wrong: after an event or
with another bundle the key is another.
"""

import time

import redis.asyncio
from cachetools import TTLCache

from server import metrics

REDIS_TIMEOUT_S = 0.25  # far above Redis's own time: both may wait for a busy processor
REDIS_PAUSE_S = 1.0  # pause after a failure


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
    """Shared by workers and hosts. After a failure Redis is not asked for a second.

    Args:
        url: redis://HOST:PORT/DB.
        ttl_s: Seconds for which an entry is kept.
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
        return await self._call("get", key)

    async def put(self, key: bytes, value: bytes) -> None:
        await self._call("set", key, value, px=self._ttl_ms)

    async def _call(self, command: str, *arguments: bytes, **options: int) -> bytes | None:
        if time.monotonic() < self._paused_until:
            return None
        try:
            return await getattr(self._client, command)(*arguments, **options)
        except Exception:  # redis-py passes on half a dozen of asyncio's errors too
            metrics.CACHE_FAILURES.inc()
            self._paused_until = time.monotonic() + REDIS_PAUSE_S
            return None

    async def close(self) -> None:
        await self._client.aclose()


def open_cache(kind: str, size: int, ttl_s: float) -> Cache:
    """Open the cache that a setting names: memory, none, or a Redis URL."""
    if kind == "none":
        return Cache()
    return MemoryCache(size, ttl_s) if kind == "memory" else RedisCache(kind, ttl_s)
