"""The generator against servers with known delays and failures. 6 s."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from aiohttp import web

from nanorecsys.loadtest.generator import Load, Sent, cpu_seconds, generate, poisson
from nanorecsys.system.processes import free_port
from tests.loadtest.small_server import SmallServer, at_once, fine, serial

pytestmark = pytest.mark.timed


def send(answer, *, rate=None, seconds=0.5, **fields) -> tuple[Sent, SmallServer]:
    """Load a small server with users 1000, 1001 ..; in an open loop where there is a rate."""
    warm_up_s = fields.get("warm_up_s", 0.0)
    due_ns = None if rate is None else poisson(rate, warm_up_s + seconds, seed=0)
    user_ids = range(1000, 6000)[: None if due_ns is None else len(due_ns)]
    with SmallServer(answer) as server:
        load = Load(
            port=server.port,
            due_ns=due_ns,
            seconds=seconds,
            **{"connections": 4, "user_ids": user_ids} | fields,
        )
        return generate(load), server


def latency_ms(sent: Sent) -> np.ndarray:
    answered = sent.rows.done_ns >= 0
    return (sent.rows.done_ns - sent.rows.intended_ns)[answered] / 1e6


def test_an_open_loop_follows_its_schedule():
    sent, server = send(at_once, rate=200)
    due = poisson(200, 0.5, seed=0)
    assert sent.rows.intended_ns.tolist() == due.tolist()
    assert (sent.rows.sent_ns >= sent.rows.intended_ns).all()
    assert (sent.rows.done_ns > sent.rows.sent_ns).all()
    assert np.median(sent.rows.sent_ns - sent.rows.intended_ns) < 5e6
    assert set(sent.rows.status) == {200}
    assert set(sent.rows.source) == {"model"}
    asked = sorted(body["user_id"] for body in server.requests)
    assert asked == list(range(1000, 1000 + len(due)))
    assert server.requests[0] == server.requests[0] | {"k": 10, "include_titles": False}


def test_an_open_loop_shows_the_queue_that_a_closed_loop_hides():
    """The server answers at most 200 requests/s and is offered 400."""
    opened, _ = send(serial(0.005), rate=400)
    closed, _ = send(serial(0.005))
    assert np.percentile(latency_ms(opened), 99) > 10 * np.median(latency_ms(closed))
    assert np.median(latency_ms(opened)) > 5 * np.median(latency_ms(closed))


def test_a_stall_counts_for_every_request_that_is_due_in_it():
    """The server stalls for 0.4 s; 60 requests of an open loop are due 0.1 s before its end."""

    def late(**fields) -> int:
        begun: list[float] = []

        async def answer(request: web.Request, body: dict, number: int) -> web.Response:
            begun.append(time.monotonic())
            if 0.2 <= time.monotonic() - begun[0] < 0.6:
                await asyncio.sleep(begun[0] + 0.6 - time.monotonic())
            return fine()

        return int((latency_ms(send(answer, seconds=0.8, **fields)[0]) > 100).sum())

    assert late(rate=200) > 30
    assert late() <= 5


def test_a_request_is_skipped_when_too_many_are_in_flight():
    async def slow(request: web.Request, body: dict, number: int) -> web.Response:
        await asyncio.sleep(0.2)
        return fine()

    sent, server = send(slow, rate=400, max_in_flight=5)
    skipped = sent.rows.status == -1
    assert server.most_in_flight <= 5
    assert skipped.sum() == len(sent.rows.status) - len(server.requests) > 100
    assert (sent.rows.sent_ns[skipped] == -1).all()
    assert (sent.rows.done_ns[skipped] == -1).all()


def test_a_run_ends_when_more_of_its_measured_part_has_failed_than_may():
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        return fine(status=503 if number in (3, 30, 40) else 200)

    sent, server = send(answer, rate=100, warm_up_s=0.2, seconds=20.0, max_slow=1)
    assert 40 < len(server.requests) < 60
    assert len(sent.rows.status) == len(server.requests)
    assert (sent.rows.status == 503).sum() == 3
    assert sent.end_ns == sent.rows.done_ns.max() < 3e9


@pytest.mark.parametrize("bound_ms", [50.0, 60_000.0])
def test_a_run_ends_when_more_of_its_measured_part_is_slow_than_may_be(bound_ms):
    """The server answers at most 100 requests/s and is offered 400."""
    sent, _ = send(
        serial(0.01), rate=400, warm_up_s=0.1, seconds=0.5, bound_ms=bound_ms, max_slow=5
    )
    slow = (latency_ms(sent) > bound_ms) & (sent.rows.intended_ns >= 0.1e9)
    due = len(poisson(400, 0.6, seed=0))
    if bound_ms == 50.0:
        assert slow.sum() > 5
        assert len(sent.rows) < 0.9 * due
    else:
        assert len(sent.rows) == due


def test_a_closed_loop_runs_until_it_has_as_many_requests_as_it_needs():
    sent, _ = send(serial(0.002), seconds=0.05, warm_up_s=0.05, clients=2, min_requests=100)
    assert 100 <= (sent.rows.intended_ns >= 0.05e9).sum() <= 103
    assert sent.end_ns == sent.rows.done_ns.max() > 0.2e9


def test_an_open_loop_needs_no_second_thread():
    """A thread that slept until each request was due tripled the CPU time of the generator."""
    threads = set()

    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        threads.update(thread.name for thread in threading.enumerate())
        return fine()

    before = {thread.name for thread in threading.enumerate()}
    send(answer, rate=200)
    assert len(threads - before) == 1  # the server has one


def test_a_broken_connection_is_a_failure_and_the_run_goes_on():
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        if number % 5 == 0:
            request.transport.abort()
        return fine()

    sent, server = send(answer, rate=200)
    failed = sent.rows.status == 0
    assert failed.sum() == -(-len(server.requests) // 5) > 10
    assert (sent.rows.done_ns[failed] == -1).all()
    assert (sent.rows.status[~failed] == 200).all()


def test_a_timeout_is_a_failure():
    async def hanging(request: web.Request, body: dict, number: int) -> web.Response:
        if number % 10 == 3:
            await asyncio.sleep(3)
        return fine()

    sent, server = send(hanging, rate=200, timeout_s=0.25)
    assert len(server.requests) == len(sent.rows.status)
    assert (sent.rows.status == 0).sum() == len(range(3, len(sent.rows.status), 10))


def test_a_server_that_is_gone_fails_every_request():
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        return fine()

    with SmallServer(answer) as server:
        port = server.port
    due_ns = poisson(100, 0.2, seed=0)
    load = Load(port=port, user_ids=range(len(due_ns)), due_ns=due_ns, seconds=0.2, connections=0)
    assert set(generate(load).rows.status) == {0}


def test_a_closed_loop_ends_when_every_connection_is_refused():
    load = Load(port=free_port(), user_ids=range(50), seconds=10.0, clients=3, connections=0)
    sent = generate(load)
    assert sent.rows.status.tolist() == [0] * 50
    assert (sent.rows.sent_ns >= sent.rows.intended_ns).all()


def test_a_connection_that_is_not_opened_in_time_is_a_failure():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # the queue is full with it
            load = Load(port=port, user_ids=[1], seconds=0.1, connections=0, timeout_s=0.2)
            sent = generate(load)
    assert sent.rows.status.tolist() == [0]
    assert 0 <= sent.rows.sent_ns[0] - sent.rows.intended_ns[0] < 100e6


def test_garbage_is_not_collected_during_a_run():
    enabled = []

    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        enabled.append(gc.isenabled())
        return fine()

    send(answer, rate=100, seconds=0.2)
    assert set(enabled) == {False}
    assert gc.isenabled()


def test_a_closed_loop_has_no_more_requests_in_flight_than_clients():
    sent, server = send(serial(0.002), clients=3, warm_up_s=0.2, connections=8)
    assert server.most_in_flight == 3
    assert (sent.rows.intended_ns < 0.2e9).sum() > 10
    assert (sent.rows.intended_ns <= 0.7e9).all()
    assert (sent.rows.done_ns >= 0).all()


def test_a_closed_loop_ends_when_its_users_are_used_up():
    sent, server = send(serial(0.001), clients=10, seconds=60.0, user_ids=range(200))
    assert len(server.requests) == len(sent.rows.status) == 200
    assert sent.end_ns == sent.rows.done_ns.max()


def test_connections_are_opened_before_the_start_and_all_used():
    _, server = send(at_once, rate=600, connections=20)
    ports, counts = np.unique(server.peers, return_counts=True)
    assert len(ports) >= 20
    assert np.sort(counts)[-20:].min() >= 5


def test_user_ids_can_be_text():
    names = [f'user "{number}"' for number in range(50)]
    _, server = send(at_once, seconds=10.0, user_ids=names)
    assert [body["user_id"] for body in server.requests] == names


def test_a_connection_that_the_server_closes_is_not_used_again():
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        given = fine()
        given.force_close()
        return given

    sent, server = send(answer, rate=100)
    assert set(sent.rows.status) == {200}
    assert len(set(server.peers)) == len(sent.rows.status)


def test_a_response_may_come_in_pieces():
    pieces = (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 18\r\n\r\n{", b'"source":"cache"', b"}")

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.005)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        sent = generate(Load(port=port, user_ids=range(5), seconds=10.0, connections=1))
        thread.join()
    assert sent.rows.source.tolist() == ["cache"] * 5
    assert sent.rows["head"][0].splitlines()[1] == "Content-Length: 18"
    assert latency_ms(sent).min() >= 15


def test_cpu_time_of_the_server_is_measured():
    async def busy(request: web.Request, body: dict, number: int) -> web.Response:
        stop = time.thread_time() + 0.005
        while time.thread_time() < stop:
            pass
        return fine()

    sent, server = send(busy, clients=2, server_pid=os.getpid())
    assert sent.server_cpu_s >= 0.005 * (len(server.requests) - 2)
    assert sent.cpu_s == pytest.approx(sent.server_cpu_s, rel=0.2)  # one process is both here


def test_cpu_time_agrees_with_that_of_this_process_and_is_finer_than_a_tick():
    readings = []
    before, own = cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() < own + 0.05:
        readings.append(cpu_seconds(os.getpid()))
    assert readings[-1] - before == pytest.approx(0.05, abs=0.02)
    # A clock of hundredths of a second would repeat itself between its ticks.
    assert len(set(readings)) > 0.9 * len(readings) > 20
    assert cpu_seconds(2**22 + 1) == 0.0


@pytest.mark.parametrize("ends", [True, False], ids=["has ended", "lives"])
def test_cpu_time_counts_children_that_live_and_those_that_have_ended(ends):
    child = "import time\nwhile time.process_time() < 0.3: pass\n"
    child += "" if ends else "print(flush=True); time.sleep(60)"
    script = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
        "print(flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", f"import time\n{script}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        family = psutil.Process(parent.pid).children()
        spent = cpu_seconds(parent.pid)
        for process in (*family, parent):
            process.kill()
    assert spent > 0.3
    assert len(family) == (not ends)
