"""Caches keep what they are given. Redis may come, go, and refuse commands. 5 s."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
import redis as redis_py
from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY

from server import cache, redis_calls
from server.app import create_app
from server.cache import Cache, MemoryCache, RedisCache, open_cache
from server.settings import Settings
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


needs_redis = pytest.mark.skipif(not RedisServer.available, reason="redis-server is not installed")


@needs_redis
def test_redis_is_shared_and_may_come_and_go(monkeypatch):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.1)
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


@contextmanager
def started(*options: str) -> Iterator[tuple[str, redis_py.Redis]]:
    """A Redis server: its URL, and a client that may configure it."""
    server = RedisServer(*options)
    with server, redis_py.Redis(port=server.port, protocol=2) as client:
        yield server.url, client


@needs_redis
def test_a_redis_without_hello_is_used():
    with started("--rename-command", "HELLO", "") as (url, _):

        async def main():
            kept = RedisCache(url, ttl_s=60)
            await kept.put(b"a", b"1")
            found = await kept.get(b"a")
            await kept.close()
            return found

        assert asyncio.run(main()) == b"1"


@needs_redis
def test_any_number_of_clients_hit_over_one_connection():
    with started() as (url, client):

        async def main():
            kept, before = RedisCache(url, ttl_s=60), failures()
            await kept.put(b"a", b"1")
            found = await asyncio.gather(*(kept.get(b"a") for _ in range(200)))
            connections = len(client.client_list()) - 1  # without this client
            await kept.close()
            return found, connections, failures() - before

        assert asyncio.run(main()) == ([b"1"] * 200, 1, 0)


@needs_redis
def test_two_hundred_connections_of_one_worker_are_answered_from_redis(small, tmp_path):
    settings = {"bundle": small.bundle, "events": str(tmp_path / "events.sqlite")}

    async def ask(session, address):
        async with session.post(address, json={"user_id": 1002}) as answer:
            return (await answer.json())["source"]

    async def main(url):
        async with TestServer(create_app(Settings(cache=url, **settings))) as server:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:
                address, before = server.make_url("/recommend"), failures()
                first = await ask(session, address)
                found = [
                    source
                    for _ in range(3)
                    for source in await asyncio.gather(*(ask(session, address) for _ in range(200)))
                ]
                return first, found, failures() - before

    with started() as (url, _):
        assert asyncio.run(main(url)) == ("model", ["cache"] * 600, 0)


@needs_redis
def test_a_wrong_password_is_one_line_and_so_is_the_right_one(monkeypatch, caplog):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.05)
    caplog.set_level(logging.INFO)
    with started("--requirepass", "right") as (url, _):

        async def main():
            kept = RedisCache(url.replace("//", "//:s3cret@"), ttl_s=60)
            for _ in range(5):
                assert await kept.get(b"a") is None
                await kept.put(b"a", b"1")
                await asyncio.sleep(0.06)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            with redis_py.Redis.from_url(url.replace("//", "//:right@"), protocol=2) as client:
                client.config_set("requirepass", "s3cret")
            for _ in range(5):
                await asyncio.sleep(0.06)
                await kept.put(b"a", b"1")
            assert await kept.get(b"a") == b"1"
            await kept.close()

        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "invalid username-password pair" in caplog.text
    assert "works again" in caplog.text
    assert "s3cret" not in caplog.text


@needs_redis
def test_calls_together_to_a_database_that_is_not_there_fail(monkeypatch):
    """Redis refuses the connection's SELECT once, whatever the number of calls."""
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.0)
    with started("--databases", "1") as (url, _):

        async def main():
            kept = RedisCache(url.replace("/0", "/5"), ttl_s=60)
            for _ in range(2):
                together = asyncio.gather(*(kept.get(b"a") for _ in range(3)))
                assert await asyncio.wait_for(together, 10) == [None] * 3
            await kept.close()

        asyncio.run(main())


def fill(client: redis_py.Redis) -> None:
    """Let the memory be full."""
    client.config_set("maxmemory", 1)


def follow(client: redis_py.Redis) -> None:
    """Make a read-only replica, of a server that does not answer."""
    client.replicaof("127.0.0.1", 1)


@needs_redis
@pytest.mark.parametrize("refuse", [fill, follow])
def test_hits_go_on_while_redis_refuses_to_write(refuse, monkeypatch, caplog):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.05)
    with started("--maxmemory-policy", "noeviction") as (url, client):

        async def main():
            kept = RedisCache(url, ttl_s=60)
            await kept.put(b"a", b"1")
            refuse(client)
            for _ in range(5):
                await kept.put(b"b", b"2")
                assert await kept.get(b"a") == b"1"
                await asyncio.sleep(0.06)
            together = (kept.put(b"b", b"2"), kept.get(b"a"), kept.get(b"b"))
            assert await asyncio.gather(*together) == [None, b"1", None]
            await kept.close()

        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "SET" in caplog.text


def test_calls_that_wait_for_a_failing_redis_fail_with_it(monkeypatch):
    """Otherwise each would wait for its own timeout."""
    monkeypatch.setattr(cache, "REDIS_TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        async def main():
            kept, before = (
                RedisCache(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", 60),
                failures(),
            )
            first = asyncio.create_task(kept.get(b"a"))
            await asyncio.sleep(0.01)
            others = [asyncio.create_task(kept.get(b"a")) for _ in range(20)]
            assert await asyncio.gather(first, *others) == [None] * 21
            await kept.close()
            return failures() - before

        assert asyncio.run(main()) == 1
