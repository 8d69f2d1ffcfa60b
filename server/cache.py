"""Where answers are kept: in the memory of a worker, in Redis, or nowhere.

A key names everything that an answer depends on, so an entry never becomes wrong: after an event or
with another bundle the key is another.
"""

from contextlib import suppress

from cachetools import TTLCache

from server import metrics
from server.redis_calls import RedisCalls, RedisFailedError

REDIS_TIMEOUT_S = 0.25


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
    """Shared by workers and hosts.

    Args:
        url: redis://HOST:PORT/DB.
        ttl_s: Seconds for which an entry is kept.
    """

    def __init__(self, url: str, ttl_s: float) -> None:
        failures = metrics.CACHE_FAILURES
        self._redis = RedisCalls(url, REDIS_TIMEOUT_S, "answers are computed", failures)
        self._ttl_ms = int(ttl_s * 1000)

    async def get(self, key: bytes) -> bytes | None:
        with suppress(RedisFailedError):
            return await self._redis.call("GET", key)
        return None

    async def put(self, key: bytes, value: bytes) -> None:
        with suppress(RedisFailedError):
            await self._redis.call("SET", key, value, "PX", self._ttl_ms)

    async def close(self) -> None:
        await self._redis.close()


def open_cache(kind: str, size: int, ttl_s: float) -> Cache:
    """Open the cache that a setting names: memory, none, or a Redis URL."""
    if kind == "none":
        return Cache()
    return MemoryCache(size, ttl_s) if kind == "memory" else RedisCache(kind, ttl_s)
