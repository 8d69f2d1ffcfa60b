"""The bench, on real servers with small models and on simulated ones. 15 s."""

import os
import signal
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from nanorecsys.loadtest import bench as bench_module
from nanorecsys.loadtest import summary
from nanorecsys.loadtest.bench import (
    CONFIRM,
    LONG_RUNS,
    SEARCH,
    LoadedServer,
    LoadRun,
    arrivals,
    find_highest,
    measure,
    measure_round,
    rate_of,
)
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.generator import Load
from nanorecsys.loadtest.ladder import FINAL, INDEX, ORIGINAL_ONNX, ORIGINAL_PYTORCH
from nanorecsys.loadtest.result import Round, Search
from nanorecsys.loadtest.server_process import ServerProcess
from nanorecsys.loadtest.summary import VALID
from nanorecsys.system.processes import free_port
from tests.loadtest.small_server import SmallServer, at_once
from tests.loadtest.test_summary import load_row, rows

pytestmark = pytest.mark.timed


def test_runs_have_their_own_cold_users_and_are_kept(bench):
    server = bench.start(FINAL)
    runs = [
        server.open_loop("steady", 60, 0.6),
        server.closed_loop("single stream", 1, 0.2, cold_share=0.1),
        server.open_loop("cold", 60, 0.5, cold_share=1.0),
    ]
    bench.close()
    assert server.process.process.poll() == 0
    assert bench.runs == runs
    assert [row.offered_per_s for row in bench.rows()] == [60, None, 60]
    assert {row.failed for row in bench.rows()} == {0}
    frame = bench.frame()
    assert frame.run.unique().tolist() == [0, 1, 2]
    assert frame[~frame.hot].user.is_unique
    frame = frame[frame.status == 200]  # a busy machine may refuse some
    assert (frame[frame.hot].source == "cache").mean() > 0.9  # the caches are warm
    cold = frame[~frame.hot]
    assert len(cold) > 20
    assert set(cold.source) == {"model"}
    assert (cold.encode_ms > 0).all()
    assert runs[0].row.server_cpu_ms > 0.05
    assert runs[2].row.hit_share == 0


@pytest.mark.parametrize("rung", [ORIGINAL_PYTORCH, ORIGINAL_ONNX])
def test_the_originals_servers_in_kind_refuse_nothing_and_their_ranker_has_a_stage(bench, rung):
    with bench.start(rung) as server:
        busy = server.closed_loop("busy", 24, 0.2, cold_share=1.0).row
        run = server.closed_loop("single stream", 1, 0.0, cold_share=1.0, min_requests=250)
    assert busy.refused == 0
    assert busy.answered > 0
    assert run.row.verdict == VALID
    assert (run.row.requests, run.row.hit_share) == (250, 0)
    assert summary.stages(run.rows)["ranking"].p50 > 0


def test_cold_users_who_return_after_all_others_are_cold_again(bench):
    """With one worker: of two, one with few of the connections would keep its answers longer."""
    n_cold = bench.workload.n_users - bench.workload.hot_users
    with bench.start(INDEX) as server:
        for cold_used in (0, n_cold // 2, n_cold):
            server.cold_used = cold_used
            run = server.closed_loop("cold", 1, 0.0, cold_share=1.0, min_requests=n_cold // 2)
            assert run.row.hit_share == 0


def test_a_round_keeps_a_server_busy_then_searches_and_keeps_the_requests_that_confirm(
    bench, monkeypatch
):
    monkeypatch.setattr(summary, "LAG_MS", 100.0)  # a busy machine delays the generator too
    monkeypatch.setattr(bench_module, "climb", lambda holds, first, precision: first * holds(first))
    said = "the PyTorch encoder is not compiled: there is no compiler"
    monkeypatch.setattr(ServerProcess, "printed", lambda _: said)
    search = Search(try_s=0.2, min_requests=100, confirm_s=0.3, precision=0.5)
    found = measure_round(bench, INDEX, search, first=40.0)
    assert found.is_eager
    busy, *tried = bench.rows()
    assert busy.requests >= 50
    assert (found.cpu_ms, found.busy_per_s) == (busy.server_cpu_ms, busy.goodput_per_s)
    assert [row.scenario for row in tried[:2]] == [SEARCH, CONFIRM]
    assert found.highest_per_s == tried[-1].rate > 0
    kept = [n for n, row in enumerate(bench.rows()) if row.scenario != SEARCH]
    assert bench.frame().run.unique().tolist() == kept
    assert (bench.frame().run == kept[-1]).sum() == len(bench.runs[-1].rows) > 0


def test_servers_take_turns_and_rounds_of_a_killed_run_are_kept(bench, monkeypatch, tmp_path):
    asked = []

    def measure_round(bench, rung, search, first):
        asked.append((rung, first))
        n = float(len(asked))
        bench.runs.append(LoadRun(load_row(server=rung.name, goodput_per_s=n), rows()))
        return Round(cpu_ms=n, busy_per_s=n, highest_per_s=n, limit="")

    monkeypatch.setattr(bench_module, "measure_round", measure_round)
    turns = [INDEX, FINAL, INDEX]
    measure(bench, turns, Search(), rounds=1, kept=tmp_path)  # killed after a round
    bench.runs.clear()
    found = measure(bench, turns, Search(), rounds=2, kept=tmp_path)
    assert asked == [(INDEX, None), (FINAL, None), (FINAL, 2.0), (INDEX, 1.0)]
    assert found[INDEX].rates == [1.0, 4.0]
    assert found[FINAL].rates == [2.0, 3.0]
    assert [run.row.goodput_per_s for run in bench.runs] == [1.0, 2.0, 3.0, 4.0]
    measure(bench, turns, Search(precision=0.1), rounds=1, kept=tmp_path)
    measure(bench, [FINAL], Search(), rounds=1, kept=tmp_path)
    assert len(asked) == 7
    for rung, server in found.items():
        assert (server.name, server.before) == (rung.name, rung.before)
        assert (server.workers, server.threads) == (rung.workers, rung.threads)


class SimulatedServer:
    """A fake server on which a rate is valid up to a capacity, lower in long runs.

    `confirmed` may give the capacity in the long runs of each round.
    """

    rung = FINAL

    def __init__(self, capacity, *confirmed, void_above=np.inf):
        self.capacity, self.confirmed, self.void_above = capacity, confirmed, void_above
        self.bench = SimpleNamespace(runs=[])
        self.round, self.confirming = -1, True

    def open_loop(self, scenario, rate, seconds, *, cold_share=None, stop_early):
        assert stop_early
        if self.confirming and CONFIRM not in scenario:
            self.round += 1  # a search begins
        self.confirming = CONFIRM in scenario
        capacity = self.capacity
        if self.confirming and self.confirmed:
            capacity = self.confirmed[self.round % len(self.confirmed)]
        verdict = "VALID" if rate <= capacity else "INVALID"
        verdict = "VOID" if rate > self.void_above else verdict
        limit = {"VALID": "", "INVALID": "refusals", "VOID": "generator"}[verdict]
        row = load_row(
            scenario=scenario,
            offered_per_s=rate,
            seconds=seconds,
            verdict=verdict,
            limit=limit,
            reason=f"failed at {rate:.0f}",
        )
        self.bench.runs.append(LoadRun(row, rows(1)))
        return self.bench.runs[-1]


def test_a_generator_that_fails_or_dies_is_a_named_error(bench):
    load = Load(port=free_port(), user_ids=[1], seconds=0.1)
    with pytest.raises(LoadTestError, match=r"generator failed: .*refused"):
        bench.send(load)
    with SmallServer(at_once) as server:
        sent = bench.send(Load(port=server.port, user_ids=[1], seconds=0.1))
    assert sent.rows.status.tolist() == [200]
    os.kill(bench.generator.submit(os.getpid).result(), signal.SIGKILL)
    with pytest.raises(LoadTestError, match="generator failed: A process"):
        bench.send(load)


def test_a_server_whose_cache_does_not_fill_is_stopped(bench, monkeypatch):
    process, cold = Mock(), SimpleNamespace(rows=pd.DataFrame({"source": ["model"]}))
    monkeypatch.setattr(bench_module, "ServerProcess", Mock(return_value=process))
    monkeypatch.setattr(LoadedServer, "_send", lambda self, users, **load: cold)
    with pytest.raises(LoadTestError, match="does not hold the hot set"):
        bench.start(FINAL)
    process.stop.assert_called_once_with()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that the bench asks for, in seconds; none is made."""
    asked = []
    monkeypatch.setattr(bench_module, "time", SimpleNamespace(sleep=asked.append))
    return asked


def tried(server, scenario):
    return [run.row for run in server.bench.runs if run.row.scenario == scenario]


@pytest.mark.parametrize("capacity", [12_345.0, 100.0, 37.0])
def test_the_highest_rate_is_bracketed_and_confirmed(capacity):
    server, search = SimulatedServer(capacity), Search()
    run, rate, limit = find_highest(server, search, 100.0)
    assert (run.row.scenario, run.row.seconds, rate_of(run)) == (CONFIRM, search.confirm_s, rate)
    assert rate <= capacity <= 1.05 * rate
    failed = [row.rate for row in tried(server, SEARCH) if row.verdict != VALID]
    assert limit == f"refusals at {min(failed):,.0f}/s: failed at {min(failed):.0f}"
    assert min(failed) <= 1.05 * rate


def test_every_try_has_its_seconds_and_requests_unless_it_would_outlast_the_confirmation():
    for capacity in (5000.0, 300.0, 20.0):
        server, search = SimulatedServer(capacity), Search()
        find_highest(server, search, capacity)
        for row in tried(server, SEARCH):
            assert row.seconds >= search.try_s
            assert row.seconds * row.rate >= search.min_requests or row.seconds == 15.0


def test_a_rate_that_is_not_confirmed_is_lowered_by_the_precision(pauses):
    server = SimulatedServer(400, 350)
    _, rate, limit = find_highest(server, Search(), 100.0)
    verdicts = [row.verdict for row in tried(server, CONFIRM)]
    assert verdicts == ["INVALID"] * (len(verdicts) - 1) + ["VALID"]
    assert rate <= 350 < 1.05 * rate
    assert len(verdicts) > 1
    assert pauses == [3.0] * (len(verdicts) - 1)
    assert limit.startswith(f"refusals at {1.05 * rate:,.0f}/s")


def test_the_highest_rate_is_zero_where_no_try_held_and_unknown_where_no_long_run_did(pauses):
    """A machine that stalls fails long runs whatever the server can do."""
    for server, expected in ((SimulatedServer(0.0), 0.0), (SimulatedServer(400, 1.0), None)):
        run, rate, limit = find_highest(server, Search(), 100.0)
        assert (run, rate) == (None, expected)
        assert limit.startswith("refusals at")
    assert len(tried(server, CONFIRM)) == LONG_RUNS


def test_a_generator_that_is_late_is_the_limit_and_never_a_rate_of_zero():
    _, rate, limit = find_highest(SimulatedServer(1000, void_above=300), Search(), 100.0)
    assert 0 < rate <= 300
    assert limit.startswith("generator at")
    server = SimulatedServer(1000, void_above=0)
    assert find_highest(server, Search(), 100.0)[:2] == (None, None)


def test_arrivals_follow_the_phases():
    due = arrivals([(100, 2), (400, 3), (50, 2)], seed=0) / 1e9
    assert (np.diff(due) >= 0).all()
    counts = [((due >= a) & (due < b)).sum() for a, b in ((0, 2), (2, 5), (5, 7))]
    assert counts == pytest.approx([200, 1200, 100], rel=0.25)
