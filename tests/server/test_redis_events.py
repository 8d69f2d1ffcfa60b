"""Hosts with one Redis know each other's events. It may come, go, and refuse commands. 6 s."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable

import msgspec
import pytest
import redis as redis_py
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY

from nanorecsys.system.processes import free_port
from server import redis_calls, redis_events
from server.app import create_app
from server.events import EventLog
from server.redis_events import EVENTS_KEPT, RedisEvents, open_events
from server.schema import ProblemError
from server.settings import Settings, make_command
from tests.server.films import RedisServer

needs_redis = pytest.mark.skipif(not RedisServer.available, reason="redis-server is not installed")


def failures() -> float:
    return REGISTRY.get_sample_value("nanorecsys_event_failures_total")


def test_the_setting_chooses_the_store(tmp_path):
    async def main():
        for place, kind in (
            (str(tmp_path / "log"), EventLog),
            ("redis://127.0.0.1:1/0", RedisEvents),
            ("rediss://127.0.0.1:1/0", RedisEvents),
        ):
            opened = open_events(place)
            assert type(opened) is kind
            await opened.close()

    asyncio.run(main())


@needs_redis
def test_an_event_is_known_to_the_other_host_at_once():
    redis = RedisServer()

    async def main():
        one, other = RedisEvents(redis.url), RedisEvents(redis.url)
        assert await one.of_user(7) == []
        assert await one.append(7, "a") == 1
        assert await other.append(7, 3) == 2
        assert await one.append("seven", 4) == 1
        for host in (one, other):
            assert await host.of_user(7) == ["a", 3]
            assert await host.of_user("seven") == [4]
            assert await host.of_user("7") == []  # 7 and "7" are two users
            assert await host.failure() is None
        start = time.time()
        await one.append("é\n:", "ü")
        assert await other.of_user("é\n:") == ["ü"]
        with redis_py.Redis(port=redis.port, protocol=2) as client:
            [stored] = client.lrange('nanorecsys:events:"é\n:"'.replace("\n", "\\n"), 0, -1)
        item_id, unix_s = msgspec.json.decode(stored)
        assert item_id == "ü"
        assert start <= unix_s <= time.time()
        await one.close()
        await other.close()

    with redis:
        asyncio.run(main())


@needs_redis
def test_a_key_of_a_wrong_type_costs_only_its_own_user_the_events():
    redis = RedisServer()

    async def main():
        store, before = RedisEvents(redis.url), failures()
        await store.append(8, "a")
        with redis_py.Redis(port=redis.port, protocol=2) as client:
            client.set("nanorecsys:events:7", "no list")
        assert await store.of_user(7) is None
        assert await store.of_user(8) == ["a"]
        with pytest.raises(ProblemError, match="WRONGTYPE"):
            await store.append(7, "b")
        assert await store.append(8, "b") == 2
        together = await asyncio.gather(store.of_user(7), store.of_user(8))
        assert together == [None, ["a", "b"]]
        assert failures() == before + 3
        await store.close()

    with redis:
        asyncio.run(main())


@needs_redis
def test_redis_keeps_the_latest_events_of_each_user(monkeypatch):
    monkeypatch.setattr(redis_events, "EVENTS_KEPT", 3)
    redis = RedisServer()

    async def main():
        one = RedisEvents(redis.url)
        assert [await one.append(7, item) for item in range(5)] == [1, 2, 3, 3, 3]
        await asyncio.gather(*(one.append(8, item) for item in range(50)))
        assert await one.of_user(7) == [2, 3, 4]
        assert await one.of_user(8) == [47, 48, 49]
        with redis_py.Redis(port=redis.port, protocol=2) as client:
            assert {client.llen(key) for key in client.scan_iter()} == {3}
        await one.close()

    with redis:
        asyncio.run(main())


def test_the_help_says_how_many_events_are_kept():
    [option] = [p for p in make_command(print).params if p.name == "events"]
    assert f"latest {EVENTS_KEPT:,} of each user count" in " ".join(option.help.split())


@needs_redis
def test_a_redis_that_appends_to_a_file_loses_no_event_when_it_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.02)
    redis = RedisServer("--appendonly", "yes", "--dir", str(tmp_path))

    async def main():
        one = RedisEvents(redis.url)
        with redis:
            for item in range(200):
                await one.append(7, item)
        with redis:
            other = RedisEvents(redis.url)
            while (found := await other.of_user(7)) is None:  # it reads its file first
                await asyncio.sleep(0.02)
            await other.close()
        await one.close()
        return found

    assert asyncio.run(main()) == list(range(200))


def full(client: redis_py.Redis) -> None:
    """Let the memory be full."""
    client.config_set("maxmemory", 1)


def replica(client: redis_py.Redis) -> None:
    """Make a read-only replica, of a server that does not answer."""
    client.replicaof("127.0.0.1", 1)


@needs_redis
@pytest.mark.parametrize(("refuse", "reason"), [(full, "maxmemory"), (replica, "read only")])
def test_events_are_read_while_redis_refuses_to_write(refuse, reason, monkeypatch, caplog):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.05)
    redis = RedisServer("--maxmemory-policy", "noeviction")

    async def main():
        one = RedisEvents(redis.url)
        await one.append(7, 1)
        with redis_py.Redis(port=redis.port, protocol=2) as client:
            refuse(client)
            for _ in range(3):
                with pytest.raises(ProblemError, match=reason):
                    await one.append(7, 2)
                assert reason in await one.failure()
                assert await one.of_user(7) == [1]
                await asyncio.sleep(0.06)
            client.config_set("maxmemory", 0)
            client.replicaof("NO", "ONE")
        assert await one.append(7, 3) == 2
        assert await one.failure() is None
        await one.close()

    with redis:
        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]  # RPUSH, SET


@needs_redis
def test_a_wrong_password_is_said_without_it(monkeypatch, caplog):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.05)
    caplog.set_level(logging.INFO)
    redis = RedisServer("--requirepass", "right")

    async def main():
        one = RedisEvents(redis.url.replace("//", "//:s3cret@"))
        with pytest.raises(ProblemError) as raised:
            await one.append(7, 1)
        said = raised.value.detail + await one.failure()
        assert await one.of_user(7) is None
        with redis_py.Redis.from_url(redis.url.replace("//", "//:right@"), protocol=2) as client:
            client.config_set("requirepass", "s3cret")
        await asyncio.sleep(0.06)
        assert await one.append(7, 1) == 1
        await one.close()
        return said

    with redis:
        said = asyncio.run(main())
    assert said.count("invalid username-password pair") == 2
    assert "s3cret" not in said + caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_an_event_without_an_answer_is_sent_once_and_costs_one_timeout(monkeypatch):
    monkeypatch.setattr(redis_events, "REDIS_TIMEOUT_S", 0.2)
    monkeypatch.setattr(redis_calls, "PAUSE_S", 30)
    received = bytearray()

    def listen(silent: socket.socket) -> None:
        while True:
            try:
                connection, _ = silent.accept()
            except OSError:
                return
            with connection:
                while got := connection.recv(4096):
                    received.extend(got)
                    if b"CLIENT" in got:  # the driver names itself first
                        connection.sendall(b"+OK\r\n" * got.count(b"SETINFO"))

    async def main(port: int):
        before = failures()
        one = RedisEvents(f"redis://127.0.0.1:{port}/0")
        for _ in range(20):
            with pytest.raises(ProblemError):
                await one.append(7, 1)
            assert await one.of_user(7) is None
        await one.close()
        return failures() - before

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        thread = threading.Thread(target=listen, args=(silent,), daemon=True)
        thread.start()
        assert asyncio.run(main(silent.getsockname()[1])) == 1
        silent.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert received.count(b"RPUSH") == 1


def on_hosts(bundle, test: Callable, *settings: dict) -> None:
    """Run a test with a client for each host, in this process."""

    async def main():
        apps = [create_app(Settings(bundle=bundle, **each)) for each in settings]
        clients = [TestClient(TestServer(app)) for app in apps]
        for client in clients:
            await client.start_server()
        try:
            await test(*clients)
        finally:
            for client in clients:
                await client.close()

    asyncio.run(main())


async def ask(client: TestClient, user_id: int) -> dict:
    answer = await client.post("/recommend", json={"user_id": user_id, "k": 100})
    assert answer.status == 200
    return await answer.json()


async def post(client: TestClient, user_id: int, item_id: int) -> tuple[int, dict]:
    answer = await client.post("/events", json={"user_id": user_id, "item_id": item_id})
    return answer.status, await answer.json()


@needs_redis
@pytest.mark.parametrize("in_redis", [False, True], ids=["cache in memory", "cache in Redis"])
def test_no_host_answers_from_the_cache_what_an_event_has_changed(small, in_redis):
    redis = RedisServer()

    async def check(one, other):
        for client in (one, other, other):
            before = await ask(client, 1002)
        assert before["source"] == "cache"
        shown = [item["item_id"] for item in before["items"]]
        for number, client in enumerate((one, other, one)):
            assert await post(client, 1002, shown[number]) == (
                201,
                {"user_id": 1002, "events": number + 1},
            )
            answers = [await ask(host, 1002) for host in (other, one)]
            # The first one cannot come from a cache, and the second one can if hosts share it.
            assert [a["source"] for a in answers] == ["model", "cache" if in_redis else "model"]
            for answer in answers:
                found = {item["item_id"] for item in answer["items"]}
                assert not found & set(shown[: number + 1])
            assert answers[0]["items"] == answers[1]["items"]

    with redis:
        cache = redis.url if in_redis else "memory"
        on_hosts(small.bundle, check, *[{"events": redis.url, "cache": cache}] * 2)


@needs_redis
def test_without_redis_events_are_503_and_recommendations_say_what_they_lack(small, monkeypatch):
    monkeypatch.setattr(redis_calls, "PAUSE_S", 0.05)
    redis = RedisServer()

    async def check(one):
        assert "onnect" in (await (await one.get("/readyz")).json())["events_failure"]
        with redis:
            await asyncio.sleep(0.1)
            assert (await post(one, 1002, 5))[0] == 201
            known = await ask(one, 1002)
            assert "events_unread" not in known
            assert "events_failure" not in await (await one.get("/readyz")).json()
        status, problem = await post(one, 1002, 6)
        assert status == 503
        assert "onnect" in problem["detail"]
        unknown = await ask(one, 1002)
        assert unknown["events_unread"] is True
        assert unknown["items"] != known["items"]
        of_a_history = await one.post("/recommend", json={"history": [5]})
        assert "events_unread" not in await of_a_history.json()  # events do not count here
        ready = await one.get("/readyz")
        assert ready.status == 200
        assert "onnect" in (await ready.json())["events_failure"]
        with redis:
            await asyncio.sleep(0.1)
            assert (await post(one, 1002, 5))[0] == 201
            assert (await ask(one, 1002))["items"] == known["items"]
            assert "events_failure" not in await (await one.get("/readyz")).json()

    on_hosts(small.bundle, check, {"events": redis.url})


@needs_redis
def test_what_is_no_event_in_redis_is_no_fault_of_the_client(small):
    redis = RedisServer()

    async def check(one):
        with redis_py.Redis(port=redis.port, protocol=2) as client:
            client.rpush("nanorecsys:events:1002", b"{", b"[1]")
        assert (await ask(one, 1002))["events_unread"] is True
        assert "events_unread" not in await ask(one, 1003)

    with redis:
        on_hosts(small.bundle, check, {"events": redis.url})


def test_a_server_starts_without_its_redis(small):
    async def check(one):
        assert (await ask(one, 1002))["events_unread"] is True

    on_hosts(small.bundle, check, {"events": f"redis://127.0.0.1:{free_port()}/0"})
