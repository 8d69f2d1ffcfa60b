"""Rungs, the search among rates, and both on real servers. 20 s."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from nanorecsys.loadtest import ladder, measure, scenarios
from nanorecsys.loadtest.ladder import BASELINE, FINAL, RUNGS, climb
from nanorecsys.system.errors import NanorecsysError

pytestmark = pytest.mark.timed

# a second worker and a second thread are two ways from the same rung
STEPS = [*itertools.pairwise(RUNGS[:-1]), (RUNGS[-3], RUNGS[-1])]


@pytest.mark.parametrize(("before", "after"), STEPS, ids=lambda r: r.name)
def test_each_rung_changes_exactly_one_thing(before, after):
    told = ("name", "change")
    changed = [
        f.name
        for f in dataclasses.fields(before)
        if f.name not in told and getattr(before, f.name) != getattr(after, f.name)
    ]
    assert len(changed) == 1


def test_the_ladder_leads_from_the_baseline_to_the_final_server():
    assert RUNGS[0].engine == "torch"
    assert dataclasses.replace(BASELINE, name="", change="", cache="none") == dataclasses.replace(
        RUNGS[0], name="", change=""
    )
    assert FINAL is RUNGS[-1]
    assert FINAL.engine == "onnx"
    assert FINAL.threads > 1


def test_a_rung_serves_the_next_bundle_where_its_own_was_not_made(served):
    some = dataclasses.replace(
        served, folders={n: f for n, f in served.folders.items() if n == "indexed"}
    )
    assert str(served.folders["indexed"]) in RUNGS[1].arguments(some)
    assert str(served.folders["every position"]) in RUNGS[1].arguments(served)


def test_what_is_read_of_a_history_is_a_window_up_to_the_rung_that_says_otherwise(served):
    told = [rung.arguments(served) for rung in RUNGS]
    read = [int(arguments[arguments.index("--read-events") + 1]) for arguments in told]
    fewer = [rung.name for rung in RUNGS].index("last events")
    assert read == [served.parts.window] * fewer + [0] * (
        len(RUNGS) - fewer
    )  # 0: as many as the bundle says


def test_rungs_are_chosen_by_name_in_order():
    assert [r.name for r in ladder.choose(["chosen tower", "torch"])] == ["torch", "chosen tower"]
    assert ladder.choose([]) == list(RUNGS)
    with pytest.raises(NanorecsysError, match="no rung 'int9'"):
        ladder.choose(["int9"])


@pytest.mark.parametrize("first", [10, 100, 1000])
def test_the_search_finds_the_highest_rate(first):
    tried = []

    def attempt(rate):
        tried.append(rate)
        return rate <= 120

    found = climb(attempt, first, tries=14)
    assert 110 < found <= 120
    assert found in tried


def test_the_search_finds_nothing_where_nothing_holds():
    assert climb(lambda rate: False, 100, tries=5) is None


def test_of_several_rounds_the_run_with_the_median_p99_counts():
    def rounds(*found):
        return [
            (SimpleNamespace(p99_ms=p99, verdict=verdict), n)
            for n, (p99, verdict) in enumerate(found)
        ]

    fine = rounds((30.0, "VALID"), (90.0, "INVALID"), (20.0, "VALID"))
    assert measure.middle(fine) == fine[0]
    assert measure.middle(fine[:2]) == fine[0]
    assert measure.middle(rounds((10.0, "VOID"), (90.0, "VALID")))[1] == 1
    assert measure.middle(rounds((10.0, "VOID"), (None, "VOID")))[1] == 0


def test_every_rate_of_the_sweep_has_its_turn_in_every_round(bench):
    lengths = SimpleNamespace(sweep=(0.5, 1.0), sweep_s=0.4, sweep_rounds=3)
    with bench.serve(FINAL) as target:
        swept, idle, busy = measure.sweep(target, 100.0, lengths)
    assert [row.offered_per_s for row in bench.rows] == [50.0, None, 50.0, 100.0] * 3
    assert [row.scenario for row in bench.rows] == [
        "few requests",
        "busy cores",
        "sweep",
        "sweep",
    ] * 3
    assert [row.seconds for row in bench.rows if row.scenario == "sweep"] == pytest.approx(
        [0.8, 0.4] * 3
    )
    assert (idle, busy) == (bench.runs[::4], bench.runs[1::4])
    workload = bench.workload
    place, used = np.argsort(workload.order) - workload.hot_users, 0
    for run in (
        bench.runs
    ):  # each has the next users that are cold, so that nobody is twice before all have been once
        cold = place[run.frame().filter(~pl.col("hot"))["user"].to_numpy()]
        assert sorted(cold) == sorted((used + np.arange(len(cold))) % workload.n_cold)
        used += len(cold)
    assert [[row.offered_per_s for row, _ in rounds] for rounds in swept] == [
        [50.0] * 3,
        [100.0] * 3,
    ]
    assert all(bench.rows[bench.runs.index(run)] == row for rounds in swept for row, run in rounds)


def test_a_run_in_which_all_is_due_at_once_has_no_latency(bench):
    with bench.serve(FINAL, warm=False) as target:
        load = target.load()
        target.measure("offline", lambda: scenarios.offline(load, 20))
    (row,) = bench.rows
    assert (row.answered, row.p50_ms, row.p99_ms) == (20, None, None)


def test_arrivals_follow_the_phases():
    due = measure.arrivals([(100, 2), (400, 3), (50, 2)], seed=0) / 1e9
    assert (np.diff(due) >= 0).all()
    counts = [((due >= a) & (due < b)).sum() for a, b in ((0, 2), (2, 5), (5, 7))]
    assert counts == pytest.approx([200, 1200, 100], rel=0.25)


def test_a_rung_is_measured_and_its_rows_are_kept(bench, monkeypatch):
    monkeypatch.setattr(
        measure, "first_rate", lambda cpu_ms, rung: 100.0
    )  # the small population has few cold users
    rung = measure.measure_rung(bench, FINAL, rate=60, seconds=0.6, tries=1, try_s=0.4)
    assert rung.cpu_ms > 0
    assert [r.scenario for r in bench.rows] == ["ladder, common load", "ladder, search"]
    frame = bench.frame()
    assert set(frame["run"]) == {0, 1}
    assert frame.filter(frame["run"] == 0)["status"].to_list().count(200) == len(
        frame.filter(frame["run"] == 0)
    )
    hot = frame.filter(frame["hot"])
    assert set(hot["source"]) == {"cache"}  # warm before anything is measured
    assert "model" in set(frame.filter(~frame["hot"])["source"])


def test_baseline_and_optimized_get_the_same_schedule_and_users(bench):
    with bench.serve(BASELINE) as one, bench.serve(FINAL) as other:
        found = measure.compare(one, other, rate=50, cold_share=0.5, seconds=0.5, repeats=2)
    assert found.times.low <= found.times.middle <= found.times.high
    frames = [run.frame() for run in bench.runs]
    assert len(frames) == 4
    for a, b in (frames[:2], frames[2:]):
        assert a["intended_ns"].to_list() == b["intended_ns"].to_list()
        assert a["user"].to_list() == b["user"].to_list()
    cold = [set(f.filter(~f["hot"])["user"]) for f in (frames[0], frames[2])]
    assert cold[0].isdisjoint(cold[1])


def test_kept_busy_both_answer_as_much_as_they_can(bench):
    with bench.serve(BASELINE) as one, bench.serve(FINAL) as other:
        found = measure.compare(one, other, rate=None, cold_share=0.1, seconds=0.5, repeats=1)
    assert found.offered_per_s is None
    assert {row.scenario for row in bench.rows} == {"kept busy, 10% cold"}
    assert [found.baseline_per_s.middle, found.optimized_per_s.middle] == [
        row.goodput_per_s for row in bench.rows
    ]
    users, others = (run.frame()["user"].to_list() for run in bench.runs)
    both = min(len(users), len(others))
    assert users[:both] == others[:both]
