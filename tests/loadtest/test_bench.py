"""The bench, on real servers with small models and on simulated ones. 20 s."""

import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from nanorecsys.loadtest import bench as bench_module
from nanorecsys.loadtest.bench import (
    LoadedServer,
    LoadRun,
    arrivals,
    compare,
    find_highest,
    first_rate,
    measure_rung,
    median_run,
)
from nanorecsys.loadtest.errors import LoadTestError, PopulationError
from nanorecsys.loadtest.generator import Load
from nanorecsys.loadtest.ladder import BASELINE, FINAL, RUNGS, STEP
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
    assert set(frame[frame.hot].source) == {"cache"}  # the cache is warm
    cold = frame[~frame.hot]
    assert len(cold) > 20
    assert set(cold.source) == {"model"}
    assert (cold.encode_ms > 0).all()
    assert runs[0].row.server_cpu_ms > 0.05
    assert runs[2].row.hit_share == 0


def test_the_baseline_serves_too(bench):
    with bench.start(RUNGS[0]) as server:
        run = server.closed_loop("single stream", 1, 0.3)
    assert run.row.verdict == VALID
    assert run.row.hit_share == 0  # it has no cache


def test_too_few_cold_users_are_an_error(bench):
    with bench.start(FINAL) as server, pytest.raises(PopulationError, match="cold users"):
        server.open_loop("cold", 1000, 1, cold_share=1.0)


def test_baseline_and_optimized_get_the_same_schedules_and_users(bench):
    with bench.start(BASELINE) as one, bench.start(FINAL) as other:
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
    monkeypatch.setattr(bench_module, "first_rate", lambda row, rung: 100.0)
    rung = measure_rung(bench, FINAL, rate=60, seconds=0.5, tries=1, try_s=0.3)
    assert [row.scenario for row in bench.rows()] == ["ladder, common load", "ladder, search"]
    assert rung.cpu_ms == bench.rows()[0].server_cpu_ms


class SimulatedServer:
    """A fake server on which a rate is valid up to a capacity, lower in long runs."""

    def __init__(self, capacity, confirmed=None, void_above=np.inf):
        self.capacity, self.confirmed, self.void_above = capacity, confirmed or capacity, void_above
        self.bench = SimpleNamespace(runs=[])

    def open_loop(self, scenario, rate, seconds, stop_on_error=False):
        assert stop_on_error or scenario == "ladder, common load"
        capacity = self.confirmed if scenario == "confirming" else self.capacity
        verdict = "VALID" if rate <= capacity else "INVALID"
        verdict = "VOID" if rate > self.void_above else verdict
        row = load_row(
            scenario=scenario,
            offered_per_s=rate,
            seconds=seconds,
            verdict=verdict,
            reason=f"{verdict} at {rate:.0f}",
        )
        self.bench.runs.append(LoadRun(row, rows(1)))
        return self.bench.runs[-1]


@pytest.mark.parametrize("capacity", [1000.0, 100.0])
def test_a_rung_has_the_highest_rate_that_its_search_found(capacity):
    server = SimulatedServer(capacity)
    bench = SimpleNamespace(start=lambda rung: nullcontext(server))
    rung = measure_rung(bench, FINAL, rate=60, seconds=0.5, tries=6, try_s=0.3)
    assert capacity / STEP < rung.highest_per_s <= capacity
    assert (rung.cpu_ms, rung.cpu_at_highest_ms, rung.p99_ms) == (2.0, 2.0, 10.0)


def test_a_rung_without_a_valid_rate_has_none():
    bench = SimpleNamespace(start=lambda rung: nullcontext(SimulatedServer(100.0, void_above=0)))
    rung = measure_rung(bench, FINAL, rate=60, seconds=0.5, tries=3, try_s=0.3)
    assert (rung.highest_per_s, rung.cpu_at_highest_ms, rung.p99_ms) == (None, None, None)


class ScriptedServer:
    """A fake server with the verdict and P99 of each run given."""

    def __init__(self, bench, *runs):
        self.bench, self.runs, self.cold_used = bench, iter(runs), 0

    def open_loop(self, scenario, rate, seconds, cold_share, due_ns, attempts):
        verdict, p99_ms = next(self.runs)
        run = LoadRun(load_row(verdict=verdict, p99_ms=p99_ms), rows(1))
        self.bench.runs.append(run)
        return run


def scripted_comparison(baseline, optimized, repeats):
    bench = SimpleNamespace(runs=[], seed=0)
    servers = [ScriptedServer(bench, *runs) for runs in (baseline, optimized)]
    found = compare(*servers, rate=50, cold_share=0.5, seconds=0.5, repeats=repeats)
    assert len(bench.runs) == 2 * repeats
    return found


def test_a_pair_with_a_void_run_is_repeated_once():
    fine = ("VALID", 10.0)
    found = scripted_comparison([("VOID", 500.0), fine], [("VALID", 70.0), fine], repeats=1)
    assert (found.void, found.baseline_p99_ms.high, found.optimized_p99_ms.high) == (0, 10.0, 10.0)


def test_p99_is_compared_over_the_pairs_without_a_void_run():
    fine, void = ("VALID", 10.0), ("VOID", 500.0)
    found = scripted_comparison([void, void, fine], [fine] * 3, repeats=2)
    assert (found.void, found.baseline_p99_ms.high, found.times.middle) == (1, 10.0, 1.0)
    found = scripted_comparison([void, void], [fine] * 2, repeats=1)
    assert (found.void, found.baseline_p99_ms, found.optimized_p99_ms) == (1, None, None)


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


@pytest.mark.parametrize("capacity", [1234.0, 100.0, 37.0])
def test_the_highest_rate_is_found_and_confirmed(capacity):
    server = SimulatedServer(capacity)
    run, limit = find_highest(server, 100.0, seconds=1.0, precision=0.05, confirm_s=60.0)
    assert (run.row.scenario, run.row.seconds) == ("confirming", 60.0)
    assert run.row.offered_per_s <= capacity <= 1.05 * run.row.offered_per_s
    assert "INVALID" in limit


def test_a_rate_that_is_not_confirmed_is_lowered():
    server = SimulatedServer(400, confirmed=330)
    run, _ = find_highest(server, 100.0, seconds=1.0, precision=0.05, confirm_s=60.0)
    tried = [r.row for r in server.bench.runs if r.row.scenario == "confirming"]
    assert [row.verdict for row in tried] == ["INVALID"] * (len(tried) - 1) + ["VALID"]
    assert 0.88 * 330 <= run.row.offered_per_s <= 330


def test_there_is_no_highest_rate_where_none_is_valid_or_confirmed():
    for server in (SimulatedServer(0.0), SimulatedServer(400, confirmed=1.0)):
        run, limit = find_highest(server, 100.0, seconds=1.0, precision=0.05, confirm_s=60.0)
        assert run is None
        assert "INVALID" in limit


def test_a_generator_that_is_late_is_the_limit():
    server = SimulatedServer(1000, void_above=300)
    run, limit = find_highest(server, 100.0, seconds=1.0, precision=0.05, confirm_s=60.0)
    assert run.row.offered_per_s <= 300
    assert "VOID" in limit


def test_a_search_starts_below_what_the_cpu_time_allows():
    row = load_row(server_cpu_ms=2.0)
    assert first_rate(row, RUNGS[0]) == pytest.approx(0.6 * 500)
    assert first_rate(row, FINAL) == pytest.approx(0.6 * 500 * 1.6)


def test_of_several_rounds_the_run_with_the_median_p99_counts():
    def runs(*found):
        return [LoadRun(load_row(p99_ms=p99, verdict=verdict), rows(1)) for p99, verdict in found]

    fine = runs((30.0, "VALID"), (90.0, "INVALID"), (20.0, "VALID"))
    assert median_run(fine) == fine[0]
    assert median_run(fine[:2]) == fine[0]
    void = runs((10.0, "VOID"), (90.0, "VALID"), (None, "INVALID"))
    assert median_run(void) == void[1]
    assert median_run(void[::2]) == void[0]


def test_arrivals_follow_the_phases():
    due = arrivals([(100, 2), (400, 3), (50, 2)], seed=0) / 1e9
    assert (np.diff(due) >= 0).all()
    counts = [((due >= a) & (due < b)).sum() for a, b in ((0, 2), (2, 5), (5, 7))]
    assert counts == pytest.approx([200, 1200, 100], rel=0.25)
