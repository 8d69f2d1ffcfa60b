"""Caches keep what they are given; Redis may come and go. 3 s."""

import asyncio
import socket
import time

import pytest
from prometheus_client import REGISTRY

from server import cache
from server.cache import Cache, MemoryCache, RedisCache, open_cache
from tests.server.films import RedisServer


def failures() -> float:
    return REGISTRY.get_sample_value("nanorecsys_cache_failures_total")


def test_memory_forgets_the_least_recently_used_and_the_old():
    async def main():
        kept = MemoryCache(2, ttl_s=0.2)
        await kept.put(b"a", b"1")
        await kept.put(b"b", b"2")
        assert await kept.get(b"a") == b"1"
        await kept.put(b"c", b"3")
        assert [await kept.get(k) for k in (b"a", b"b", b"c")] == [b"1", None, b"3"]
        await asyncio.sleep(0.25)
        assert await kept.get(b"c") is None

    asyncio.run(main())


def test_the_setting_chooses_the_cache():
    assert type(open_cache("none", 1, 1)) is Cache
    assert isinstance(open_cache("memory", 1, 1), MemoryCache)
    assert isinstance(open_cache("redis://127.0.0.1:1/0", 1, 1), RedisCache)


@pytest.mark.skipif(not RedisServer.available, reason="redis-server is not installed")
def test_redis_is_shared_and_may_come_and_go(monkeypatch):
    monkeypatch.setattr(cache, "REDIS_PAUSE_S", 0.1)
    redis = RedisServer()

    async def main():
        one, other = (RedisCache(redis.url, ttl_s=60) for _ in range(2))
        before = failures()
        assert await one.get(b"a") is None  # it does not run yet: no error
        assert failures() == before + 1
        with redis:
            await asyncio.sleep(0.15)
            await one.put(b"a", b"1")
            assert await other.get(b"a") == b"1"
        assert await one.get(b"a") is None
        before, start = failures(), time.monotonic()
        for _ in range(100):
            await one.get(b"a")
            await one.put(b"a", b"1")
        assert failures() - before <= 1 + (time.monotonic() - start) / 0.1  # not asked 200 times
        with redis:
            await asyncio.sleep(0.15)
            await one.put(b"a", b"2")
            assert await one.get(b"a") == b"2"
        await one.close()
        await other.close()

    asyncio.run(main())


def test_a_redis_that_does_not_answer_costs_its_timeout_once(monkeypatch):
    monkeypatch.setattr(cache, "REDIS_TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        async def main():
            before = failures()
            kept = RedisCache(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", ttl_s=60)
            for _ in range(50):
                assert await kept.get(b"a") is None
            await kept.close()
            return failures() - before

        assert asyncio.run(main()) == 1
