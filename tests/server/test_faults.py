"""Whatever the system or a file does to a running server, it says so and goes on. 12 s."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import click
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from nanorecsys.serving.bundle import EVENTS, OFFSETS, VECTORS
from nanorecsys.serving.errors import ServingError
from nanorecsys.system.processes import free_port
from server import __main__, service
from server.app import SERVICE, create_app
from server.batching import Batcher
from server.service import Rejections
from server.settings import Settings
from server.supervisor import Server
from tests.server.films import serving
from tests.server.test_batching import Slow, query

COMPILER = shutil.which("cc")
# What a strict container answers (seccomp, gVisor, systemd's @resources).
REFUSALS = """
#include <errno.h>
int setpriority(int which, unsigned who, int value) { errno = EPERM; return -1; }
int sched_setscheduler(int pid, int policy, const void *value) { errno = EPERM; return -1; }
"""


def ask(url: str, **body: object) -> tuple[int, dict]:
    """Status and JSON of a recommendation."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/recommend", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def client(small, tmp_path):
    """Run a test against the application on this event loop: `client(test)`."""

    def run(test, **settings):
        async def main():
            settings.setdefault("events", str(tmp_path / "events.sqlite"))
            app = create_app(Settings(bundle=small.bundle, **settings))
            async with TestClient(TestServer(app)) as made:
                return await test(made, app[SERVICE])

        return asyncio.run(main())

    return run


@pytest.mark.timed
@pytest.mark.skipif(COMPILER is None, reason="no C compiler is installed")
def test_refused_priorities_are_logged_and_cost_no_request(small, tmp_path):
    (tmp_path / "refuse.c").write_text(REFUSALS)
    library = str(tmp_path / "refuse.so")
    command = [COMPILER, "-shared", "-fPIC", "-o", library, tmp_path / "refuse.c"]
    subprocess.run(command, check=True)
    arguments = ("--threads", "2", "--events", str(tmp_path / "events.sqlite"))
    with serving(small.bundle, tmp_path, *arguments, LD_PRELOAD=library) as running:
        asked = [ask(running.url, user_id=user)[0] for user in range(1002, 1012)]
        log = running.log.read_text()
    assert asked == [200] * 10
    assert "Operation not permitted" in log
    assert "Traceback" not in log


def test_a_refused_thread_is_a_sentence_at_the_start(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    batcher = Batcher(2, 8, 100, 10.0)
    monkeypatch.setattr(batcher._threads, "submit", refuse)
    with pytest.raises(ServingError, match="expected 2 compute threads: can't start new thread"):
        batcher.start()


def test_a_failed_submit_fails_its_batch_and_loses_no_thread(monkeypatch):
    async def main():
        batcher = Batcher(1, 8, 100, 10.0)
        batcher.start()
        with monkeypatch.context() as broken:
            broken.setattr(batcher._threads, "submit", refuse)
            for _ in range(3):
                with pytest.raises(RuntimeError, match="no thread"):
                    await batcher.compute(Slow(), query(3))
        ranked, _ = await asyncio.wait_for(batcher.compute(Slow(), query(3)), 10)
        batcher.close()
        return len(ranked.items)

    def refuse(*arguments):
        raise RuntimeError("no thread")

    assert asyncio.run(main()) == 3


class Dead(Slow):
    """An engine that fails, or never ends."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.id, self.is_dead = "dead", True

    def __call__(self, queries):
        if self.is_dead and not self.seconds:
            raise MemoryError("no memory")
        return super().__call__(queries)


@pytest.mark.parametrize(("seconds", "reason"), [(0.0, "no memory"), (0.4, "TimeoutError")])
def test_readiness_fails_while_nothing_is_computed(client, monkeypatch, seconds, reason):
    monkeypatch.setattr(service, "CHECK_S", 0.1)

    async def check(client, service):
        assert (await client.get("/readyz")).status == 200
        engine, service.engine = service.engine, Dead(seconds)
        await asyncio.sleep(0.15)
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert reason in (await answer.json())["detail"]
        service.engine = engine
        await asyncio.sleep(0.5)
        assert (await client.get("/readyz")).status == 200

    client(check, threads=1)


def test_degraded_answers_leave_out_what_the_user_has_seen(client, small, monkeypatch):
    async def check(client, service):
        monkeypatch.setattr(service.batcher, "is_full", lambda: True)
        found = {}
        for exclude in (True, False):
            body = {"user_id": 1012, "k": 100, "degrade": True, "exclude_seen": exclude}
            answer = await (await client.post("/recommend", json=body)).json()
            assert answer["source"] == "fallback"
            found[exclude] = [item["item_id"] - 5 for item in answer["items"]]
        seen = set(small.histories[12].tolist())
        popular = service.engine.bundle.popular.tolist()
        assert seen & set(popular[:100])  # otherwise there is nothing to leave out
        assert found[True] == [item for item in popular if item not in seen][:100]
        assert found[False] == popular[:100]
        # Who has seen nearly everything gets the rest.
        body = {"user_id": 1000, "k": 100, "degrade": True}
        rest = await (await client.post("/recommend", json=body)).json()
        assert len(rest["items"]) == 5

    client(check)


def test_a_long_search_for_titles_does_not_hold_the_event_loop(client, monkeypatch):
    """A year is in a large part of a large catalogue's titles."""

    async def check(client, service):
        begun, released = threading.Event(), threading.Event()

        def find(words: str, limit: int) -> list:
            begun.set()
            assert released.wait(5)
            return []

        monkeypatch.setattr(service.engine, "find", find)
        searching = asyncio.create_task(client.get("/items/search", params={"q": "1990"}))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        assert (await client.get("/healthz")).status == 200
        assert not searching.done()
        released.set()
        assert (await searching).status == 200

    client(check)


def test_events_that_cannot_be_stored_or_read_are_503_with_the_reason(client):
    async def check(client, service):
        event = {"user_id": 1002, "item_id": 5}
        assert (await client.post("/events", json=event)).status == 201
        writer = service.events._writer
        [(pages,)] = writer.execute("PRAGMA page_count")
        for setting, reason in (
            (f"max_page_count = {pages}", "full"),
            ("query_only = 1", "readonly"),
        ):
            writer.execute(f"PRAGMA {setting}")
            statuses = [201]
            while statuses[-1] == 201 and len(statuses) < 500:
                answer = await client.post("/events", json=event)
                statuses.append(answer.status)
            problem = await answer.json()
            assert (problem["status"], reason in problem["detail"]) == (503, True), problem
            assert (await client.post("/recommend", json={"user_id": 1002})).status == 200
        writer.execute(f"PRAGMA max_page_count = {10**6}")
        writer.execute("PRAGMA query_only = 0")
        assert (await client.post("/events", json=event)).status == 201
        service.events._reader.execute("PRAGMA writable_schema = 1")
        writer.execute("DROP TABLE events")
        answer = await client.post("/recommend", json={"user_id": 1002})
        assert answer.status == 503
        assert "events" in (await answer.json())["detail"]

    client(check)


@pytest.mark.timed
def test_files_overwritten_under_a_server_do_not_reach_it(small, tmp_path):
    bundle = Path(shutil.copytree(small.bundle, tmp_path / "bundle"))
    with serving(bundle, tmp_path, "--cache", "none", "--deadline-ms", "9000") as running:
        before = [ask(running.url, user_id=user) for user in range(1002, 1012)]
        for name in (EVENTS, OFFSETS):
            (bundle / name).write_bytes(b"")
        (bundle / VECTORS).write_bytes(b"\0" * (bundle / VECTORS).stat().st_size)
        os.kill(running.pid, signal.SIGHUP)
        for _ in range(200):
            if "reload refused" in (log := running.log.read_text()):
                break
            ask(running.url, user_id=1002)
        after = [ask(running.url, user_id=user) for user in range(1002, 1012)]
    assert after == before
    assert {status for status, _ in after} == {200}
    assert "reload refused" in log


def test_a_reload_that_ends_while_its_worker_stops_is_dropped_without_a_word(client):
    async def check(client, service):
        engine = service.engine
        reload = asyncio.create_task(service.reload())
        await asyncio.sleep(0)
        service.draining = True
        service._disk.shutdown()
        await reload
        assert service.engine is engine

    client(check)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_an_ipv6_address_may_have_brackets(small, host):
    server = Server(Settings(bundle=small.bundle, host=host, port=8000))
    assert server.cfg.address == [(host.strip("[]"), 8000)]


@pytest.mark.timed
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(small, tmp_path, host):
    arguments = ("--host", host, "--events", str(tmp_path / "events.sqlite"))
    with serving(small.bundle, tmp_path, *arguments, host="[::1]") as running:
        assert ask(running.url, user_id=1002)[0] == 200


@pytest.mark.timed
def test_the_password_of_a_redis_is_nowhere(small, tmp_path):
    url = f"redis://user:s3cret@127.0.0.1:{free_port()}/0"
    arguments = ("--cache", url, "--events", str(tmp_path / "events.sqlite"))
    with serving(small.bundle, tmp_path, *arguments) as running:
        assert [ask(running.url, user_id=1002)[0] for _ in range(3)] == [200] * 3
        with urllib.request.urlopen(f"{running.url}/metrics") as answer:
            shown = answer.read().decode()
        log = running.log.read_text()
    assert log.count("Redis connection fails") == 1
    assert "s3cret" not in log + shown
    assert "nanorecsys_cache_failures_total 1.0" in shown


def test_without_a_temporary_folder_it_ends_with_a_sentence(monkeypatch, small):
    def refuse(**options):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(click.ClickException, match="No usable temporary directory"):
        __main__.serve(Settings(bundle=small.bundle))


def test_where_no_file_of_events_can_be_it_ends_with_a_sentence(small, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "events.sqlite", "/proc/none/events.sqlite"):
        with pytest.raises(click.BadParameter, match="cannot keep events there") as error:
            Server(Settings(bundle=small.bundle, events=str(place))).run()
        assert str(place) in error.value.message


def delays(number: int, gap_s: float = 0.0) -> list[float]:
    """Seconds that rejections wait which come at once, or one after the other."""

    async def main():
        rejections, loop = Rejections(), asyncio.get_running_loop()

        async def wait():
            start = loop.time()
            await rejections.wait()
            return loop.time() - start

        waiting = []
        for _ in range(number):
            waiting.append(asyncio.create_task(wait()))
            if gap_s:
                await asyncio.sleep(gap_s)
        return await asyncio.gather(*waiting)

    return asyncio.run(main())


def test_few_rejections_are_quick_and_many_are_delayed(monkeypatch):
    monkeypatch.setattr(service, "REJECTION_GAP_S", 0.01)
    monkeypatch.setattr(service, "REJECTION_DELAY_S", 0.2)
    alone = delays(5, gap_s=0.02)
    crowd = delays(60)
    assert sorted(crowd)[0] < 0.1
    assert sorted(crowd)[-30] >= 0.19  # those beyond 20 wait for the longest delay
    assert np.median(alone) < 0.5 * np.median(crowd)
