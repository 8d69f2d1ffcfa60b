"""The bench, on real servers with small models and on simulated ones. 30 s."""

import os
import signal
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from nanorecsys.loadtest import bench as bench_module
from nanorecsys.loadtest import summary
from nanorecsys.loadtest.bench import (
    LoadedServer,
    LoadRun,
    arrivals,
    compare,
    find_highest,
    measure_rung,
    rate_of,
)
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.generator import Load
from nanorecsys.loadtest.ladder import FINAL, ORIGINAL_ONNX, ORIGINAL_PYTORCH, STEP
from nanorecsys.loadtest.server_process import free_port
from nanorecsys.loadtest.summary import VALID
from tests.loadtest.small_server import SmallServer, at_once
from tests.loadtest.test_summary import load_row, rows

pytestmark = pytest.mark.timed


def test_runs_have_their_own_cold_users_and_are_kept(bench):
    with bench.start(FINAL) as server:
        runs = [
            server.open_loop("steady", 60, 0.6),
            server.closed_loop("single stream", 1, 0.2, cold_share=0.1),
            server.open_loop("cold", 60, 0.5, cold_share=1.0),
        ]
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


def test_the_originals_server_in_kind_serves_and_its_ranker_has_a_stage(bench):
    with bench.start(ORIGINAL_PYTORCH) as server:
        run = server.closed_loop("single stream", 1, 60.0, cold_share=1.0, requests=250)
    assert run.row.verdict == VALID
    assert (run.row.requests, run.row.hit_share) == (250, 0)
    assert summary.stages(run.rows)["ranking"].p50 > 0


@pytest.mark.parametrize("rung", [ORIGINAL_ONNX, FINAL.then("other", "patient")])
def test_clients_keep_a_compared_server_busy_with_answers(bench, rung):
    with bench.start(rung) as server:
        busy = server.closed_loop("busy", 24, 0.5, cold_share=1.0).row
    assert busy.refused == 0
    assert busy.answered > 0


def test_cold_users_who_return_after_all_others_are_cold_again(bench):
    n_cold = bench.workload.n_cold
    with bench.start(FINAL) as server:
        for cold_used in (0, n_cold // 2, n_cold):
            server.cold_used = cold_used
            run = server.closed_loop("cold", 1, 60.0, cold_share=1.0, requests=n_cold // 2)
            assert run.row.hit_share < 0.1


def test_baseline_and_optimized_get_the_same_schedules_and_users(bench):
    with bench.start(ORIGINAL_PYTORCH) as one, bench.start(FINAL) as other:
        found = compare(one, other, rate=50, cold_share=0.5, seconds=0.5, repeats=2)
        busy = compare(one, other, rate=None, cold_share=0.1, seconds=0.3, repeats=1)
    cpu_ms = [row.server_cpu_ms for row in bench.rows()]
    times = cpu_ms[0] / cpu_ms[1], cpu_ms[2] / cpu_ms[3]
    assert (found.times.low, found.times.high) == (min(times), max(times))
    *pairs, first, second = [run.rows for run in bench.runs]
    assert len(pairs) == 4
    for a, b in (pairs[:2], pairs[2:]):
        assert a.intended_ns.tolist() == b.intended_ns.tolist()
        assert a.user.tolist() == b.user.tolist()
    assert not set(pairs[0][~pairs[0].hot].user) & set(pairs[2][~pairs[2].hot].user)
    assert (busy.offered_per_s, busy.cold_share) == (None, 0.1)
    per_s = [row.goodput_per_s for row in bench.rows()[-2:]]
    assert [busy.baseline_per_s.middle, busy.optimized_per_s.middle] == per_s
    shared = min(len(first), len(second))
    assert first.user.tolist()[:shared] == second.user.tolist()[:shared]


def test_the_runs_of_a_rung_are_kept(bench, monkeypatch):
    monkeypatch.setattr(bench_module, "BUSY_SHARE", 0.1)
    with bench.start(FINAL) as server:
        rung = measure_rung(server, seconds=0.5, tries=1, try_s=0.3)
    assert [row.scenario for row in bench.rows()] == ["ladder, kept busy", "ladder, search"]
    busy = bench.rows()[0]
    assert (rung.cpu_ms, rung.busy_per_s) == (busy.server_cpu_ms, busy.goodput_per_s)


class SimulatedServer:
    """A fake server on which a rate is valid up to a capacity, lower in long runs.

    `confirmed` may give the capacity in the long runs of each round.
    """

    rung = FINAL

    def __init__(self, capacity, *confirmed, void_above=np.inf):
        self.capacity, self.confirmed, self.void_above = capacity, confirmed, void_above
        self.bench = SimpleNamespace(runs=[])
        self.round, self.confirming = -1, True

    def closed_loop(self, scenario, clients, seconds):
        return LoadRun(load_row(goodput_per_s=self.capacity), rows(1))

    def open_loop(self, scenario, rate, seconds, *, cold_share=None, stop_early):
        assert stop_early
        if self.confirming and "confirming" not in scenario:
            self.round += 1  # a search begins
        self.confirming = "confirming" in scenario
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


@pytest.mark.parametrize("capacity", [1000.0, 100.0])
def test_a_rung_has_the_highest_rate_that_its_search_found(capacity):
    rung = measure_rung(SimulatedServer(capacity), seconds=0.5, tries=6, try_s=0.3)
    assert capacity / STEP < rung.highest_per_s <= capacity
    assert (rung.name, rung.before) == (FINAL.name, FINAL.before)
    assert (rung.cpu_ms, rung.busy_per_s) == (2.0, capacity)


def test_a_rung_without_a_valid_rate_has_none():
    server = SimulatedServer(100.0, void_above=0)
    assert measure_rung(server, seconds=0.5, tries=3, try_s=0.3).highest_per_s is None
    assert measure_rung(server, seconds=0.5, tries=0, try_s=0.3).highest_per_s is None


def test_a_generator_that_died_is_a_named_error_and_is_replaced(bench):
    os.kill(bench.generator.submit(os.getpid).result(), signal.SIGKILL)
    load = Load(port=free_port(), user_ids=[1], seconds=0.1)
    with pytest.raises(LoadTestError, match="generator failed: A process"):
        bench.send(load)
    with pytest.raises(LoadTestError, match=r"generator failed: .*refused"):
        bench.send(load)
    with SmallServer(at_once) as server:
        sent = bench.send(Load(port=server.port, user_ids=[1], seconds=0.1))
    assert sent.status.tolist() == [200]


def test_a_server_whose_cache_does_not_fill_is_stopped(bench, monkeypatch):
    process, cold = Mock(), SimpleNamespace(sources=["model"])
    monkeypatch.setattr(bench_module, "ServerProcess", Mock(return_value=process))
    monkeypatch.setattr(LoadedServer, "_send", lambda self, users, **load: cold)
    with pytest.raises(LoadTestError, match="does not hold the hot set"):
        bench.start(FINAL)
    process.stop.assert_called_once_with()


def test_a_closed_bench_leaves_no_server(bench):
    processes = [bench.start(FINAL).process.process for _ in range(2)]
    bench.close()
    assert [process.poll() for process in processes] == [0, 0]


def highest(server, confirmations=1):
    rounds, limited_by = find_highest(server, 100.0, 1.0, 0.05, 60.0, confirmations)
    return rounds, [rate_of(run) for run in rounds], limited_by


@pytest.mark.parametrize("capacity", [1234.0, 100.0, 37.0])
def test_the_highest_rate_is_found_and_confirmed(capacity):
    [run], [rate], _ = highest(SimulatedServer(capacity))
    assert (run.row.scenario, run.row.seconds) == ("confirming", 60.0)
    assert rate <= capacity <= 1.05 * rate


def test_a_rate_that_is_not_confirmed_is_lowered():
    server = SimulatedServer(400, 330)
    _, [rate], _ = highest(server)
    tried = [r.row for r in server.bench.runs if r.row.scenario == "confirming"]
    assert [row.verdict for row in tried] == ["INVALID"] * (len(tried) - 1) + ["VALID"]
    assert 0.88 * 330 <= rate <= 330


def test_every_round_searches_and_confirms_a_rate():
    server = SimulatedServer(400, 390, 300, 350)
    _, rates, limited_by = highest(server, confirmations=3)
    assert len(rates) == 3
    assert min(rates) <= 300 < max(rates) <= 390
    failed = [rate_of(run) for run in server.bench.runs if run.row.verdict == "INVALID"]
    above = min(rate for rate in failed if rate > min(rates))
    assert limited_by == f"refusals at {above:,.0f}/s: failed at {above:.0f}"


def test_a_round_that_confirms_no_rate_counts():
    rounds, rates, _ = highest(SimulatedServer(400, 390, 1.0), confirmations=2)
    assert rounds[1] is None
    assert rates[1] == 0 < rates[0]


def test_there_is_no_highest_rate_where_none_is_valid_or_confirmed():
    for server in (SimulatedServer(0.0), SimulatedServer(400, 1.0)):
        rounds, _, limited_by = highest(server)
        assert rounds == [None]
        assert limited_by.startswith("refusals at")


def test_a_generator_that_is_late_is_the_limit_and_never_a_rate_of_zero():
    _, [rate], limited_by = highest(SimulatedServer(1000, void_above=300))
    assert 0 < rate <= 300
    assert limited_by.startswith("generator at")
    assert highest(SimulatedServer(1000, void_above=0))[0] == []


def test_arrivals_follow_the_phases():
    due = arrivals([(100, 2), (400, 3), (50, 2)], seed=0) / 1e9
    assert (np.diff(due) >= 0).all()
    counts = [((due >= a) & (due < b)).sum() for a, b in ((0, 2), (2, 5), (5, 7))]
    assert counts == pytest.approx([200, 1200, 100], rel=0.25)
