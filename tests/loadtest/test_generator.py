"""The generator against servers whose delays and failures are known."""

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from aiohttp import web

from nanorecsys.loadtest import generator
from nanorecsys.loadtest.errors import GeneratorError, PlanError, RemoteHostError, UnreachableError
from nanorecsys.loadtest.generator import Interrupted, Run, run_plan
from nanorecsys.loadtest.plan import Plan
from nanorecsys.loadtest.process import free_port
from nanorecsys.loadtest.summary import INVALID, VOID
from tests.loadtest.small_server import SmallServer, at_once, fine, serial

pytestmark = pytest.mark.timed

COLUMNS = {
    **dict.fromkeys(("intended_ns", "sent_ns", "done_ns"), pl.Int64),
    **{"user": pl.Int32, "hot": pl.Boolean, "status": pl.Int16, "source": pl.String},
    **dict.fromkeys(
        ("cache_ms", "queue_ms", "encode_ms", "retrieve_ms", "rank_ms", "total_ms"), pl.Float32
    ),
    **dict.fromkeys(("encode_cpu_ms", "retrieve_cpu_ms", "rank_cpu_ms"), pl.Float32),
    **{"worker": pl.Int32, "retries": pl.Int8, "warm_up": pl.Boolean},
}


@pytest.fixture
def plan(tmp_path: Path):
    """A plan for a server: open, 200 requests/s for 0.5 s, users 0, 1, 2 .. with ids from 1000, every third hot."""
    np.save(tmp_path / "users.npy", np.arange(5000, dtype=np.int32))
    np.save(tmp_path / "hot.npy", np.arange(5000) % 3 == 0)
    np.save(tmp_path / "ids.npy", np.arange(1000, 6000))
    files = {"users": "users.npy", "hot": "hot.npy", "user_ids": "ids.npy", "out": "out"}
    paths = {name: str(tmp_path / file) for name, file in files.items()}

    def make(url: str, **fields: object) -> Plan:
        small = {"rate": 200.0, "seconds": 0.5, "connections": 4, "minimum": 10}
        return Plan(**{"url": url, **paths, **small, **fields})

    return make


def run(answer, plan, **fields: object) -> tuple[Run, SmallServer]:
    with SmallServer(answer) as server:
        return run_plan(plan(server.url, **fields)), server


def test_rows_hold_every_request_in_order(plan) -> None:
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        timing = "cache;dur=0.02, queue;dur=1.30, rank;dur=0.2;cpu=0.1, total;dur=4.9"
        return fine(
            "cache" if number % 2 else "model", **{"Server-Timing": timing, "X-Worker": "4711"}
        )

    done, server = run(answer, plan, warm_up_s=0.25, k=7)
    rows = done.frame()
    arrivals = done.plan.due()
    assert dict(rows.schema) == COLUMNS
    assert np.array_equal(rows["intended_ns"], arrivals)
    assert np.array_equal(rows["warm_up"], arrivals < 0.25e9)
    assert (rows["sent_ns"] >= rows["intended_ns"]).all()
    assert (rows["done_ns"] > rows["sent_ns"]).all()
    assert rows["user"].to_list() == list(range(len(rows)))
    assert set(rows["source"]) == {"cache", "model"}
    told = rows.select("cache_ms", "queue_ms", "rank_ms", "rank_cpu_ms", "total_ms")
    assert np.allclose(told, [0.02, 1.3, 0.2, 0.1, 4.9])
    assert rows["encode_ms"].is_nan().all()
    assert rows["encode_cpu_ms"].is_nan().all()
    assert set(rows["worker"]) == {4711}
    assert sorted(b["user_id"] for b in server.requests) == list(range(1000, 1000 + len(rows)))
    assert server.requests[0] == {
        "user_id": server.requests[0]["user_id"],
        "k": 7,
        "include_titles": False,
    }
    assert done.summary.offered == int((arrivals >= 0.25e9).sum()) == done.summary.latency.n
    assert done.verdict.kind in ("VALID", "VOID")  # void where this machine is too busy
    assert done.server_cpu_s is None


def test_an_open_loop_shows_the_queue_that_a_closed_loop_hides(plan) -> None:
    """A server of at most 200 requests/s that is offered 400."""
    opened, _ = run(serial(0.005), plan, rate=400)
    closed, _ = run(serial(0.005), plan, mode="closed")
    assert opened.summary.latency.p99_ms > 10 * closed.summary.latency.p50_ms
    assert opened.summary.latency.p50_ms > 5 * closed.summary.latency.p50_ms
    assert opened.verdict.kind != "VALID"


def test_a_stall_counts_for_all_that_it_kept_waiting(plan) -> None:
    """The server stands still for 0.4 s: a closed loop sees that once, an open one by every request due meanwhile."""

    def late(**fields: object) -> int:
        """Requests that took more than 0.1 s."""
        begun: list[float] = []

        async def answer(request: web.Request, body: dict, number: int) -> web.Response:
            begun.append(time.monotonic())
            if 0.2 <= time.monotonic() - begun[0] < 0.6:
                await asyncio.sleep(begun[0] + 0.6 - time.monotonic())
            return fine()

        rows = run(answer, plan, seconds=0.8, **fields)[0].frame()
        return int((rows["done_ns"] - rows["intended_ns"] > 100e6).sum())

    assert late(rate=200) > 30  # 60 are due more than 0.1 s before its end
    assert late(mode="closed") <= 5  # 1, unless the machine is busy


def test_what_passes_the_bound_in_flight_is_skipped_and_counted(plan) -> None:
    async def slow(request: web.Request, body: dict, number: int) -> web.Response:
        await asyncio.sleep(0.2)
        return fine()

    done, server = run(slow, plan, rate=400, max_in_flight=5)
    rows = done.frame()
    skipped = rows.filter(pl.col("status") == -1)
    assert server.most_in_flight <= 5
    assert done.summary.skipped == len(skipped) == len(rows) - len(server.requests) > 100
    assert (skipped["sent_ns"] == -1).all()
    assert (skipped["done_ns"] == -1).all()
    assert done.verdict.kind in (INVALID, VOID)
    assert done.summary.errors == 0


def test_errors_and_fallbacks_are_no_good_answers(plan) -> None:
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        if number % 4 == 1:
            return web.json_response({"status": 503}, status=503, headers={"Retry-After": "1"})
        return fine(
            "fallback" if number % 4 == 2 else "model", status=404 if number % 4 == 3 else 200
        )

    done, server = run(answer, plan, degrade=True)
    s, n = done.summary, len(server.requests)
    assert server.requests[0]["degrade"] is True
    assert s.statuses == {200: -(-n // 4) + (n + 1) // 4, 503: (n + 2) // 4, 404: n // 4}
    assert s.errors == s.statuses[503] + s.statuses[404]
    assert (s.fallbacks, s.latency.n) == ((n + 1) // 4, -(-n // 4))
    assert s.goodput_per_s < 0.3 * s.offered_per_s
    assert any("failed" in reason for reason in done.verdict.reasons) or done.verdict.kind == VOID


def test_a_run_that_fails_fast_ends_with_the_first_measured_error(plan) -> None:
    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        return fine(status=503 if number in (3, 40) else 200)

    done, server = run(answer, plan, rate=100.0, warm_up_s=0.2, seconds=20.0, fail_fast=True)
    s = done.summary
    assert 40 < len(server.requests) < 60
    assert (s.errors, s.statuses[503]) == (1, 1)
    assert s.seconds < 2
    assert s.offered_per_s > 50
    assert not done.verdict.valid
    assert not done.finished.interrupted


def test_a_cut_connection_is_tried_again_on_a_fresh_one(plan) -> None:
    cut: set[int] = set()

    async def answer(request: web.Request, body: dict, number: int) -> web.Response:
        user = body["user_id"]
        if user % 5 == 0 and user not in cut:
            cut.add(user)
            request.transport.abort()
        return fine()

    done, server = run(answer, plan)
    rows = done.frame()
    assert (rows["status"] == 200).all()
    assert (rows["retries"] == (rows["user"] % 5 == 0)).all()
    assert done.summary.retries == len(cut) == sum(done.finished.failures.values()) > 10
    ports = {
        u: [p for p, b in zip(server.peers, server.requests, strict=True) if b["user_id"] == u]
        for u in cut
    }
    assert all(len(set(p)) == 2 for p in ports.values())


def test_retries_end(plan) -> None:
    async def cutting(request: web.Request, body: dict, number: int) -> web.Response:
        request.transport.abort()
        return fine()

    done, server = run(cutting, plan, rate=60, retries=2)
    rows = done.frame()
    assert len(server.requests) == 3 * len(rows)
    assert rows.select("status", "done_ns", "retries").unique().rows() == [(0, -1, 2)]
    assert done.summary.errors == len(rows)
    assert done.summary.latency.p99_ms is None


def test_a_timeout_is_an_error_and_not_tried_again(plan) -> None:
    async def hanging(request: web.Request, body: dict, number: int) -> web.Response:
        if number % 10 == 3:
            await asyncio.sleep(1)
        return fine()

    done, server = run(hanging, plan, timeout_s=0.25)
    rows = done.frame()
    late = rows.filter(pl.col("status") == 0)
    assert len(server.requests) == len(rows)
    assert done.finished.failures == {"TimeoutError": len(late)}
    assert len(late) >= len(rows) // 10
    assert (late["retries"] == 0).all()


def test_a_generator_that_was_held_up_makes_the_run_void(plan) -> None:
    def hold_up(_: object) -> None:
        (worker,) = [fork for process in psutil.Process().children() for fork in process.children()]
        worker.suspend()
        time.sleep(0.2)
        worker.resume()

    with SmallServer(at_once) as server:
        done = run_plan(plan(server.url, seconds=1.2), hold_up)
    assert done.verdict.kind == VOID
    assert "generator's own lag" in done.verdict.reasons[0]
    assert done.lag.max_ms > 100
    rows = done.frame()
    late = [
        int((rows["done_ns"] - rows[since] > 50e6).sum()) for since in ("intended_ns", "sent_ns")
    ]
    assert late[0] > 2 * late[1] + 10  # what it sent late is late all the same


def test_a_closed_loop_asks_no_more_at_once_than_its_clients(plan) -> None:
    done, server = run(
        serial(0.002), plan, mode="closed", concurrency=3, warm_up_s=0.2, connections=8
    )
    rows = done.frame()
    assert server.most_in_flight == 3
    assert rows["warm_up"].sum() > 10
    assert (rows["intended_ns"] <= 0.7e9).all()
    assert done.summary.latency.n == (~rows["warm_up"]).sum()


def test_offline_answers_all_as_fast_as_it_can(plan, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.arange(200, dtype=np.int32))
    np.save(tmp_path / "cold.npy", np.zeros(200, bool))
    files = {"users": str(tmp_path / "few.npy"), "hot": str(tmp_path / "cold.npy")}
    done, server = run(serial(0.001), plan, mode="offline", concurrency=10, **files)
    assert len(server.requests) == done.summary.latency.n == 200
    assert server.most_in_flight == 10
    assert (done.frame()["intended_ns"] == 0).all()
    assert done.finished.end_ns == done.frame()["done_ns"].max()
    assert done.verdict.kind == "VALID"  # no bound on latency, no schedule to be late for


def test_connections_are_opened_beforehand_and_all_used(plan) -> None:
    _, server = run(at_once, plan, rate=600, connections=20)
    ports, counts = np.unique(server.peers, return_counts=True)
    assert len(ports) >= 20
    assert np.sort(counts)[-20:].min() >= 5  # 300 requests in turn over 20


def test_ids_of_text_and_a_template_of_ones_own(plan, tmp_path: Path) -> None:
    np.save(tmp_path / "names.npy", np.array([f'user "{i}"' for i in range(5000)]))
    fields = {"user_ids": str(tmp_path / "names.npy"), "body": '{"who": {user}}', "keep_every": 10}
    done, server = run(at_once, plan, **fields)
    assert {"who": 'user "0"'} in server.requests
    kept = done.frame().with_row_index()["index", "body"]
    assert (kept["body"].is_not_null() == (kept["index"] % 10 == 0)).all()
    assert kept["body"][0].startswith(b'{"items":')


@pytest.mark.parametrize("how", ["chunked", "close"])
def test_servers_that_chunk_their_answers_or_close_connections(plan, how: str) -> None:
    async def answer(request: web.Request, body: dict, number: int) -> web.StreamResponse:
        given = fine()
        if how == "close":
            given.force_close()
            return given
        stream = web.StreamResponse(headers={"X-Worker": "7"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        await stream.write(given.body[:10])
        await asyncio.sleep(0.005)
        await stream.write(given.body[10:])
        return stream

    done, server = run(answer, plan, keep_every=1)
    rows = done.frame()
    assert rows.select("status", "source", "retries").unique().rows() == [(200, "model", 0)]
    assert rows["body"].unique().to_list() == [fine().body]
    assert (len(set(server.peers)) == len(rows)) == (how == "close")


def test_cpu_and_memory_of_processes_are_measured(plan) -> None:
    done, _ = run(at_once, plan, rate=400, warm_up_s=0.2, pids=[os.getpid()])
    assert done.server_cpu_s > 0
    assert done.server_cpu_ms_per_request == pytest.approx(
        1e3 * done.server_cpu_s / done.summary.answered_since_begin
    )
    assert min(done.server_rss_mib) > 10
    assert 0 < done.cpu_ms_per_request < 100


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_there_is(plan) -> None:
    def press(progress: object) -> None:
        if not pressed:
            pressed.append(progress)
            os.kill(os.getpid(), signal.SIGINT)

    pressed: list[object] = []
    with SmallServer(at_once) as server, pytest.raises(Interrupted) as stopped:
        run_plan(plan(server.url, rate=100, seconds=30.0), press)
    there = stopped.value.run
    assert there.finished.interrupted
    assert 10 < len(there.frame()) == len(server.requests) < 1000
    assert there.summary.seconds < 10
    assert (there.frame()["status"] == 200).all()


def test_a_generator_that_breaks_is_told(plan, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(3))
    with SmallServer(at_once) as server, pytest.raises(GeneratorError, match="IndexError"):
        run_plan(plan(server.url))


def test_libraries_are_loaded_once_and_by_a_process_that_may_fork(plan) -> None:
    with SmallServer(at_once) as server:
        run_plan(plan(server.url))
        (process,) = generator._spare
        run_plan(plan(server.url))
    assert generator._spare == [process]
    assert (
        psutil.Process(process.pid).num_threads() == 1
    )  # else a fork may wait for a lock that nobody holds
    assert not psutil.Process(process.pid).children()


def test_paths_of_a_plan_count_from_the_folder_that_this_process_is_in(
    plan, tmp_path: Path, monkeypatch
) -> None:
    with SmallServer(at_once) as server:
        run_plan(plan(server.url))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").mkdir()
        np.save("here/users.npy", np.zeros(5000, np.int32))
        run_plan(plan(server.url, users="here/users.npy", out="here/out"))
    assert (tmp_path / "here" / "out" / "rows.parquet").exists()


def test_a_process_that_died_while_it_waited_is_replaced(plan) -> None:
    with SmallServer(at_once) as server:
        run_plan(plan(server.url))
        (process,) = generator._spare
        process.kill()
        process.wait()
        assert run_plan(plan(server.url)).summary.latency.n > 0


@pytest.mark.parametrize("whom", ["the fork", "its parent"])
def test_a_generator_that_is_killed_is_told_and_the_next_runs(plan, whom: str) -> None:
    def kill(_: object) -> None:
        for process in psutil.Process().children():
            for victim in process.children() if whom == "the fork" else [process]:
                victim.kill()

    with SmallServer(at_once) as server:
        with pytest.raises(GeneratorError, match="status -9"):
            run_plan(plan(server.url, seconds=2.0), kill)
        assert run_plan(plan(server.url)).summary.latency.n > 0


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"url": "127.0.0.1:8000"}, PlanError, "expected a URL"),
        ({"url": "http://127.0.0.1:port"}, PlanError, "expected a URL"),
        ({"url": "http://example.org"}, RemoteHostError, "example.org is not this machine"),
        ({"url": "http://192.0.2.1:80"}, RemoteHostError, "not this machine"),
        ({"rate": 0.0}, PlanError, "rate above 0"),
        ({"seconds": -1.0}, PlanError, "seconds above 0"),
        ({"rate": 10_000.0}, PlanError, "requests are due, and 5,000 users"),
        ({"connections": 0}, PlanError, "connections of 1 or more"),
        ({"percentile": 0.0}, PlanError, "percentile"),
        ({"concurrency": 0}, PlanError, "concurrency of 1 or more"),
        ({}, UnreachableError, "nothing answers"),
    ],
)
def test_what_cannot_run_is_named_before_anything_is_sent(
    plan, fields: dict, error: type, message: str
) -> None:
    asked = plan(**{"url": f"http://127.0.0.1:{free_port()}"} | fields)
    with pytest.raises(error, match=message):
        run_plan(asked)
    assert not Path(asked.out).exists()
