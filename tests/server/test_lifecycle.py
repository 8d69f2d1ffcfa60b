"""Workers drain, reload, die and are replaced; overload is rejected early. 25 s."""

import asyncio
import os
import re
import signal
import socket
import statistics
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp import web

from nanorecsys.models.retriever import RetrieverConfig
from nanorecsys.serving.bundle import MANIFEST, RANKER, TOWER, Manifest, _write_manifest
from server.service import REJECTION_DELAY_S, REJECTION_GAP_S
from server.settings import Settings
from server.supervisor import Worker
from tests.server.conftest import N_USERS, build_small, export_bundle
from tests.server.films import RedisServer, Running, serving

pytestmark = pytest.mark.timed

RETRY_S = 0.05  # pause of a client after a rejection; at once it would take cores from computing
USERS = range(1002, 1000 + N_USERS)
PATIENT = ("--deadline-ms", "9000")  # On a slow machine too no request is rejected.


@dataclass
class Seen:
    """Statuses, sources, bundles and workers of all responses, and errors by kind."""

    statuses: Counter = field(default_factory=Counter)
    sources: Counter = field(default_factory=Counter)
    bundles: list[str] = field(default_factory=list)
    workers: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)


async def clients(
    url: str,
    number: int,
    until: Callable[[], bool],
    make_body: Callable[[int], dict],
    keep: bool = True,
) -> Seen:
    """Run clients that send one request after the other, over connections that they keep or not."""
    seen = Seen()
    count = iter(range(10**9))

    async def client() -> None:
        connector = aiohttp.TCPConnector(force_close=not keep)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(10)
        ) as session:
            while not until():
                try:
                    async with session.post(
                        f"{url}/recommend", json=make_body(next(count))
                    ) as answer:
                        body = await answer.json(content_type=None)
                        seen.statuses[answer.status] += 1
                        seen.workers[int(answer.headers["X-Worker"])] += 1
                        if answer.status == 200:
                            seen.sources[body["source"]] += 1
                            seen.bundles.append(body["bundle"])
                        else:
                            assert int(answer.headers["Retry-After"]) >= 1
                            await asyncio.sleep(RETRY_S)
                except aiohttp.ClientError as error:
                    seen.errors[type(error)] += 1
                    await asyncio.sleep(0.01)

    await asyncio.gather(*(client() for _ in range(number)))
    return seen


def under_load(
    url: str,
    act: Callable[[], Awaitable[None]],
    body: Callable[[int], dict],
    number: int = 8,
    keep: bool = True,
) -> Seen:
    """Act while clients send requests, return what they saw."""

    async def main() -> Seen:
        done = asyncio.Event()
        load = asyncio.create_task(clients(url, number, done.is_set, body, keep))
        await asyncio.sleep(0.3)
        await act()
        done.set()
        return await load

    return asyncio.run(main())


async def a_moment() -> None:
    """Do nothing for half a second."""
    await asyncio.sleep(0.5)


async def two_seconds() -> None:
    """Do nothing for two seconds."""
    await asyncio.sleep(2)


async def logged(running: Running, words: str, times: int) -> None:
    """Wait until the server's log has some words so many times."""
    start = time.monotonic()
    while running.log.read_text().count(words) < times:
        assert time.monotonic() - start < 60, running.log.read_text()
        await asyncio.sleep(0.05)


def any_user(number: int) -> dict:
    return {"user_id": USERS[number % len(USERS)], "k": 5}


@pytest.fixture(scope="module")
def single(small, tmp_path_factory):
    """A server with one worker and one compute thread, whose environment names no thread pool."""
    folder = tmp_path_factory.mktemp("single")
    arguments = ("--threads", "1", "--cache", "none", "--events", str(folder / "events.sqlite"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        with serving(small.bundle, folder, *PATIENT, *arguments) as running:
            yield running


def workers_of(running: Running) -> set[int]:
    found = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    return {int(pid) for pid in found}


def ask_all_workers(running: Running, body: Callable[[int], dict]) -> Seen:
    """Send requests until every worker has answered: one that was just started may not accept yet.

    The responses of the last half second count.
    """
    asked, start = set(), time.monotonic()
    while time.monotonic() - start < 60:
        seen = under_load(running.url, a_moment, body, keep=False)
        asked |= set(seen.workers)
        if asked >= workers_of(running):
            return seen
    raise AssertionError(f"of {workers_of(running)} only {asked} answered")


def asking(running: Running, number: int) -> list[socket.socket]:
    """Open connections and send a request on each. The backlog holds them at first."""
    address = urllib.parse.urlsplit(running.url)
    made = [socket.create_connection((address.hostname, address.port), 0.9) for _ in range(number)]
    for connection in made:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return made


def answers(connections: list[socket.socket]) -> set[bytes]:
    """Read how the responses begin."""
    begun = set()
    for connection in connections:
        with connection:
            connection.settimeout(10)
            begun.add(connection.recv(12))
    return begun


@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "new connections"])
def test_sigterm_loses_no_request_behind_a_load_balancer(own, tmp_path, keep):
    """The balancer polls /readyz, and sends requests until it fails."""
    arguments = ("--workers", "2", "--lame-duck-s", "1", "--cache", "none")
    with serving(own, tmp_path, *PATIENT, *arguments) as running:

        async def balance() -> None:
            os.kill(running.pid, signal.SIGTERM)
            async with aiohttp.ClientSession() as session:
                ready = 200
                while ready == 200:
                    await asyncio.sleep(0.1)
                    async with session.get(f"{running.url}/readyz") as response:
                        ready = response.status
            assert ready == 503
            await asyncio.sleep(0.6)  # a balancer goes on sending until its next poll

        seen = under_load(running.url, balance, any_user, keep=keep)
        assert seen.statuses[200] > 8
        assert set(seen.statuses) == {200}
        assert not seen.errors
        start = time.monotonic()
        while running.poll() is None and time.monotonic() - start < 10:
            time.sleep(0.05)
        assert running.poll() == 0


def test_a_burst_of_new_connections_waits_and_is_not_dropped(single):
    [worker] = workers_of(single)
    os.kill(worker, signal.SIGSTOP)
    try:
        # One that finds no room would be tried again after a second.
        waiting = asking(single, 400)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert answers(waiting) == {b"HTTP/1.1 200"}


def test_sighup_opens_a_new_bundle_without_a_failed_request(own, tmp_path):
    with serving(own, tmp_path, *PATIENT, "--workers", "2", "--cache", "none") as running:

        async def reload() -> None:
            await asyncio.to_thread(build_small, tmp_path / "new", 1, own)
            os.kill(running.pid, signal.SIGHUP)
            await logged(running, "takes over from", times=2)

        before = workers_of(running)
        seen = under_load(running.url, reload, any_user)
        after = ask_all_workers(running, any_user)
        assert workers_of(running) == before
    assert set(seen.statuses) == {200}
    assert not seen.errors
    old, new = seen.bundles[0], after.bundles[0]
    assert set(after.bundles) == {new} != {old}
    assert set(seen.bundles) <= {old, new}


def test_a_broken_bundle_is_refused_and_the_old_one_stays(own, tmp_path):
    with serving(own, tmp_path, *PATIENT, "--cache", "none") as running:

        async def reload() -> None:
            (own / "ranker.onnx").write_bytes(b"broken")
            os.kill(running.pid, signal.SIGHUP)
            await logged(running, "reload refused", times=1)

        seen = under_load(running.url, reload, any_user)
        log = running.log.read_text()
    assert set(seen.statuses) == {200}
    assert len(set(seen.bundles)) == 1
    assert "reload refused" in log
    assert "ranker.onnx" in log
    assert "Traceback" not in log


def test_a_broken_bundle_at_the_start_is_one_sentence(own, tmp_path):
    (own / "ranker.onnx").write_bytes(b"broken")
    with pytest.raises(AssertionError) as raised, serving(own, tmp_path):
        pass
    assert "error: " in str(raised.value)
    assert "ranker.onnx" in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_worker_that_finds_a_broken_bundle_is_replaced_once_it_is_repaired(own, tmp_path):
    with serving(own, tmp_path, *PATIENT, "--workers", "2", "--cache", "none") as running:
        ask_all_workers(running, any_user)  # both have to start
        whole = (own / "tower.onnx").read_bytes()
        (own / "tower.onnx").write_bytes(b"broken")
        victim = min(workers_of(running))
        os.kill(victim, signal.SIGKILL)
        asyncio.run(logged(running, "exited with code 1", times=1))
        (own / "tower.onnx").write_bytes(whole)
        start = time.monotonic()
        while len(workers_of(running) - {victim}) < 2 and time.monotonic() - start < 20:
            time.sleep(0.1)
        time.sleep(2)  # a worker that cannot start would be gone again
        seen = under_load(running.url, a_moment, any_user)
        assert set(seen.statuses) == {200}
        assert len(workers_of(running)) == 2


def test_a_bundle_whose_tower_does_not_run_ends_no_server(own, tmp_path):
    """ONNX Runtime loads it and fails with an error of its own."""
    with serving(own, tmp_path, *PATIENT, "--workers", "2", "--cache", "none") as running:
        ask_all_workers(running, any_user)  # both have to start
        (own / TOWER).write_bytes((own / RANKER).read_bytes())
        manifest = msgspec.json.decode((own / MANIFEST).read_bytes(), type=Manifest)
        files = manifest.files | {TOWER: manifest.files[RANKER]}
        _write_manifest(own.resolve(), msgspec.structs.replace(manifest, files=files))
        os.kill(running.pid, signal.SIGHUP)
        asyncio.run(logged(running, "reload refused", times=2))
        os.kill(min(workers_of(running)), signal.SIGKILL)
        asyncio.run(logged(running, "exited with code", times=2))
        seen = under_load(running.url, a_moment, any_user)
        assert running.poll() is None
    assert set(seen.statuses) == {200}


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no shared memory")
def test_metrics_are_in_memory_where_no_disk_is_full_and_failures_leave_none(own, tmp_path):
    """A mapped file on a full disk ends the worker that writes to it, with SIGBUS."""
    with serving(own, tmp_path, *PATIENT, "--workers", "2", "--cache", "none") as running:
        ask_all_workers(running, any_user)  # both have to start
        started = workers_of(running)
        maps = Path(f"/proc/{min(started)}/maps").read_text()
        folder = Path(re.search(r"(/\S+)/counter_\d+\.db", maps)[1])
        assert folder.parent == Path("/dev/shm")
        (own / "tower.onnx").write_bytes(b"broken")
        os.kill(min(started), signal.SIGKILL)
        asyncio.run(logged(running, "exited with code 1", times=2))
        counting = {int(file.stem.rpartition("_")[2]) for file in folder.glob("counter_*")}
        assert started <= counting <= started | workers_of(running)
    assert not folder.exists()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no shared memory")
def test_the_heartbeat_is_in_memory_where_no_disk_holds_it_up(single):
    [worker] = workers_of(single)
    opened = [os.readlink(file) for file in Path(f"/proc/{worker}/fd").iterdir()]
    [heartbeat] = [name for name in opened if "/wgunicorn-" in name]
    assert heartbeat.startswith("/dev/shm/nanorecsys-metrics-")


def test_a_killed_worker_is_replaced_while_the_other_answers_and_both_know_every_event(
    own, tmp_path
):
    with serving(own, tmp_path, *PATIENT, "--workers", "2", "--cache", "none") as running:
        for item in (5, 6):
            assert post_event(running.url, 1001, item) == item - 4
        posted = ask_all_workers(running, lambda _: {"user_id": 1001, "k": 3})
        victim, other = sorted(workers_of(running))
        answered = []

        async def kill() -> None:
            os.kill(victim, signal.SIGKILL)
            async with aiohttp.ClientSession() as session:
                start = time.monotonic()
                while len(workers_of(running) - {victim}) < 2 and time.monotonic() - start < 10:
                    async with session.get(f"{running.url}/healthz") as answer:
                        answered.append(answer.status)
            await asyncio.sleep(1)

        seen = under_load(running.url, kill, any_user)
        now = workers_of(running)
        assert len(now - {victim}) == 2
        later = ask_all_workers(running, lambda _: {"user_id": 1001, "k": 3})
        assert workers_of(running) == now
    for known in (posted, later):
        assert set(known.statuses) == {200}
        assert set(known.sources) == {"model"}  # without an event there is only the fallback
    assert set(seen.statuses) == {200}
    assert set(answered) <= {200}
    assert seen.workers[other] > 0
    # The dead worker loses at most one request of each client.
    assert sum(seen.errors.values()) <= 8


def post_event(url: str, user_id: int, item_id: int) -> int:
    """Post an event; the number of the user's events."""
    event = msgspec.json.encode({"user_id": user_id, "item_id": item_id})
    request = urllib.request.Request(f"{url}/events", event, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
        return msgspec.json.decode(answer.read())["events"]


@pytest.mark.skipif(not RedisServer.available, reason="redis-server is not installed")
def test_redis_may_go_and_come_back_in_mid_run(own, tmp_path):
    redis = RedisServer()
    with serving(own, tmp_path, *PATIENT, "--workers", "2", "--cache", redis.url) as running:

        async def come_and_go() -> None:
            with redis:
                await asyncio.sleep(1)
            await asyncio.sleep(0.5)
            with redis:
                await asyncio.sleep(1.5)

        seen = under_load(running.url, come_and_go, any_user)
        assert "Traceback" not in running.log.read_text()
    assert set(seen.statuses) == {200}
    assert not seen.errors
    assert min(seen.sources["cache"], seen.sources["model"]) > 0


@pytest.fixture(scope="module")
def heavy(tmp_path_factory):
    """A bundle whose histories all take as long as the study's longest."""
    folder, n_items, window = tmp_path_factory.mktemp("heavy"), 300, 100
    config = RetrieverConfig(
        d=256, layers=3, heads=8, hidden=1024, window=window, dropout=0.0, content=False
    )
    histories = list(np.random.default_rng(0).integers(n_items, size=(200, window)))
    export_bundle(folder, folder / "bundle", config, n_items, histories)
    return folder / "bundle"


def test_accepted_requests_are_answered_after_the_listener_closes(heavy, tmp_path):
    one_by_one = ("--cache", "none", "--threads", "1", "--max-batch", "1")
    with serving(heavy, tmp_path, *PATIENT, *one_by_one) as running:
        address = urllib.parse.urlsplit(running.url)

        def listens() -> bool:
            try:
                socket.create_connection((address.hostname, address.port)).close()
            except ConnectionRefusedError:
                return False
            return True

        async def ask(session: aiohttp.ClientSession, user: int) -> int:
            async with session.post(f"{running.url}/recommend", json={"user_id": user}) as response:
                return response.status

        async def stop_while_asking() -> list[int]:
            async with aiohttp.ClientSession() as session:
                requests = [asyncio.create_task(ask(session, user)) for user in range(60)]
                accepted = 0.0
                while accepted < len(requests):
                    shown = await asyncio.to_thread(metrics_of, running)
                    done = sum(request.done() for request in requests)
                    # One is computed, the others wait.
                    accepted = done + 1 + shown.get("nanorecsys_queue_depth", 0)
                os.kill(running.pid, signal.SIGTERM)
                while listens():
                    await asyncio.sleep(0.01)
                assert not all(request.done() for request in requests)
                return await asyncio.gather(*requests)

        assert asyncio.run(stop_while_asking()) == [200] * 60


def test_a_request_without_end_delays_the_end_by_the_time_to_drain(small, tmp_path):
    """gunicorn kills a worker that takes much longer."""
    drain_s = 2.0
    settings = Settings(
        bundle=small.bundle, events=str(tmp_path / "events.sqlite"), drain_s=drain_s
    )

    async def never_ends(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> float:
        worker = SimpleNamespace(
            app=SimpleNamespace(settings=settings), loop=asyncio.get_running_loop()
        )
        runner = await Worker._make_runner(worker)
        runner.app.router.add_get("/never", never_ends)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        [(host, port)] = runner.addresses
        async with aiohttp.ClientSession() as session:
            asked = asyncio.create_task(session.get(f"http://{host}:{port}/never"))
            await asyncio.sleep(0.2)
            start = time.monotonic()
            await runner.cleanup()
            took_s = time.monotonic() - start
            assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], OSError)
        return took_s

    assert 0.9 < asyncio.run(main()) / drain_s < 1.5


def health_latencies(url: str, seconds: float) -> list[float]:
    """Latencies of /healthz in seconds while clients keep the server busy."""
    times: list[float] = []

    async def probe() -> None:
        async with aiohttp.ClientSession() as session:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                start = time.perf_counter()
                async with session.get(f"{url}/healthz") as answer:
                    assert answer.status == 200
                times.append(time.perf_counter() - start)
                await asyncio.sleep(0.005)

    under_load(url, probe, new_history, number=3)
    return times


def test_the_onnx_engine_loads_no_torch_and_starts_no_thread_under_load(single):
    [worker] = workers_of(single)
    before = set(os.listdir(f"/proc/{worker}/task"))
    seen = under_load(single.url, a_moment, any_user)
    started = set(os.listdir(f"/proc/{worker}/task")) - before
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert set(seen.statuses) == {200}
    assert not started  # one that the system refuses then would cost requests
    assert "onnxruntime" in maps
    assert "torch" not in maps


def test_two_workers_serve_with_pytorch(own, small, tmp_path):
    arguments = ("--engine", "torch", "--models", str(small.models), "--workers", "2")
    with serving(own, tmp_path, *PATIENT, *arguments, "--cache", "none") as running:
        seen = ask_all_workers(running, any_user)
        assert "Traceback" not in running.log.read_text()
    assert set(seen.statuses) == {200}
    assert not seen.errors


@pytest.fixture(scope="module")
def crowded(heavy, tmp_path_factory):
    """A server that computes one request at a time and lets four wait."""
    arguments = ("--threads", "1", "--max-batch", "1", "--max-queue", "4")
    with serving(heavy, tmp_path_factory.mktemp("crowded"), *PATIENT, *arguments) as running:
        yield running


def new_history(number: int) -> dict:
    """A request that no cache has an answer to."""
    return {"history": np.random.default_rng().integers(300, size=100).tolist(), "k": 5}


def test_computing_does_not_block_the_event_loop(crowded, heavy, tmp_path):
    threaded_s = statistics.median(health_latencies(crowded.url, 1.0))
    arguments = ("--threads", "0", "--cache", "none", "--max-batch", "1")
    with serving(heavy, tmp_path, *arguments) as running:
        blocked_s = statistics.median(health_latencies(running.url, 1.0))
    assert threaded_s < 0.5 * blocked_s


def test_overload_is_rejected_early_or_degraded_on_request(crowded):
    capacity = under_load(crowded.url, a_moment, new_history, number=3)
    crowd = under_load(crowded.url, a_moment, new_history, number=16)
    degraded = under_load(
        crowded.url, a_moment, lambda n: new_history(n) | {"degrade": True}, number=16
    )
    assert set(capacity.statuses) == {200}
    assert set(crowd.statuses) == {200, 503}
    assert crowd.statuses[200] > 0.5 * capacity.statuses[200]
    assert set(degraded.statuses) == {200}
    assert set(degraded.sources) == {"model", "fallback"}
    assert not capacity.errors + crowd.errors + degraded.errors


def test_clients_that_retry_at_once_get_few_rejections(crowded, monkeypatch):
    """Rejecting them as fast as they come takes the processor from computing."""
    monkeypatch.setattr("tests.server.test_lifecycle.RETRY_S", 0)
    number = 64
    start = time.monotonic()
    crowd = under_load(crowded.url, a_moment, new_history, number=number)
    took_s = time.monotonic() - start
    assert set(crowd.statuses) == {200, 503}
    assert number * REJECTION_GAP_S < REJECTION_DELAY_S  # so each one waits for its turn
    assert crowd.statuses[503] < took_s / REJECTION_GAP_S + number
    assert not crowd.errors


def test_overload_rejects_cached_and_new_requests_alike(crowded):
    """A request is cached or new with the same probability."""
    rng = np.random.default_rng(0)
    hot = {"user_id": 0, "k": 5}

    def hot_or_new(number: int) -> dict:
        return hot if rng.random() < 0.5 else new_history(number)

    under_load(crowded.url, a_moment, lambda _: hot, number=1)
    before = metrics_of(crowded)
    seen = under_load(crowded.url, two_seconds, hot_or_new, number=32)
    counted = {name: count - before.get(name, 0) for name, count in metrics_of(crowded).items()}
    assert set(seen.statuses) == {200, 503}
    assert seen.statuses[503] > 0.5 * seen.statuses[200]
    # Where only new ones are rejected, nearly all cached ones are answered.
    assert seen.sources["cache"] < 1.5 * seen.sources["model"]
    early = counted['nanorecsys_shed_total{reason="early"}']
    assert early > 0.5 * seen.statuses[503]
    assert counted['nanorecsys_requests_total{route="/recommend",status="503"}'] == sum(
        count for name, count in counted.items() if name.startswith("nanorecsys_shed_total")
    )
    assert not seen.errors


def metrics_of(running: Running) -> dict[str, float]:
    """Read the metrics by name and labels."""
    with urllib.request.urlopen(f"{running.url}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if line[:1] != "#"]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
