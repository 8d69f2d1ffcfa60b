"""The chapter's findings, each of which can fail or be undecided, and its estimate. 2 s."""

import msgspec
import numpy as np
import pytest

from nanorecsys.loadtest.chapter import FINDINGS, estimate, inputs
from nanorecsys.loadtest.ladder import RUNGS
from nanorecsys.loadtest.result import (
    Band,
    LoadtestResult,
    MeasuredRung,
    Original,
    Overload,
    Percentiles,
    Predicted,
    ServerComparison,
)
from nanorecsys.loadtest.summary import PARTS
from nanorecsys.study.layout import layout
from nanorecsys.study.spread import Interval, spread
from tests.loadtest.test_summary import load_row

HIGHEST = load_row(scenario="confirming", offered_per_s=1100.0, seconds=60.0, p99_ms=90.0)


def compared(times, cold_share):
    figures = {
        "baseline_cpu_ms": 2.0 * times,
        "optimized_cpu_ms": [2.0],
        "baseline_per_s": [50.0],
        "optimized_per_s": [800.0],
        "times": times,
    }
    spreads = {name: spread(np.array(values)) for name, values in figures.items()}
    return ServerComparison(offered_per_s=30.0, cold_share=cold_share, **spreads)


def overload_round(computed_share, p99_ms, verdict="VALID"):
    return Overload(
        offered_per_s=2200.0,
        computed_per_s=400.0,
        cached_per_s=800.0,
        computed_share=computed_share,
        cached_share=1.1,
        p99_ms=p99_ms,
        refused_cold=0.5,
        refused_hot=0.0,
        lost_share=0.0,
        verdict=verdict,
    )


def rung(name, cpu_ms, before=""):
    return MeasuredRung(
        name=name, change="a", before=before, cpu_ms=cpu_ms, busy_per_s=90.0, highest_per_s=20.0
    )


GOOD = LoadtestResult(
    dataset="d",
    is_study_shape=True,
    is_full=True,
    n_users=100,
    n_items=10,
    bootstrapped=True,
    mean_length=50.0,
    window=200,
    events_read=16,
    cold_share=0.3,
    p99_bound_ms=100.0,
    refused_share=0.001,
    deadline_ms=75.0,
    in_kind=compared(np.array([1.9, 2.0, 2.1]), 0.3),
    in_kind_stages={},
    is_compiled=True,
    busy=compared(np.array([2.2, 2.5, 2.4]), 0.3),
    busy_cold=compared(np.array([2.0]), 1.0),
    mixed=compared(np.array([2.0]), 0.3),
    ladder=[rung("a", 30.0), rung("b", 10.0, "a"), rung("c", 6.0, "a"), rung("d", 2.0, "lost")],
    highest_rates=[1150.0, 1100.0, 1200.0],
    highest=HIGHEST,
    limited_by="P99 at 1,200/s: 1.2% slower than 100 ms or not answered",
    all_cold=load_row(offered_per_s=500.0),
    capacity_per_s=1500.0,
    loads=[HIGHEST],
    stages_alone={"embedding": Percentiles(p50=3.0, p95=6.0, p99=None)},
    stages_loaded={},
    bands=[
        Band(
            low=0.99,
            high=1.0,
            requests=100,
            mean_ms=60.0,
            computed_share=1.0,
            parts_ms=dict.fromkeys(PARTS, 1.0) | {"queue": 53.0},
        )
    ],
    predicted=[
        Predicted(
            offered_per_s=500.0,
            load=0.5,
            predicted_p50_ms=1.0,
            predicted_p99_ms=20.0,
            measured_p50_ms=1.0,
            measured_p99_ms=25.0,
        )
    ],
    original=[Original(offered_per_s=80.0, load=0.6, hits_wait=True, p99_ms=190.0)],
    overload_times=1.5,
    overload=[overload_round(0.9, 150.0), overload_round(0.85, 180.0), overload_round(0.95, 120.0)],
    void_runs=0,
)


def read(name, found):
    values = FINDINGS[name](found)
    return values and values["d"]


def changed(**values):
    return msgspec.structs.replace(GOOD, **values)


def test_each_finding_is_the_median_of_its_rounds_with_their_range():
    assert {name: read(name, GOOD) for name in FINDINGS} == {
        "rate": Interval(1150.0, 1100.0, 1200.0),
        "baseline": Interval(2.4, 2.2, 2.5),
        "computed_goodput": Interval(0.9, 0.85, 0.95),
        "overload_p99": Interval(1.5, 1.2, 1.8),
    }


@pytest.mark.parametrize(
    ("finding", "values", "low", "high"),
    [
        ("rate", {"highest_rates": [450.0, 300.0]}, 300.0, 450.0),
        ("rate", {"highest_rates": [600.0, 0.0], "highest": None}, 0.0, 600.0),
        ("baseline", {"busy": compared(np.array([1.5, 1.8]), 0.3)}, 1.5, 1.8),
        ("computed_goodput", {"overload": [overload_round(0.4, 90.0)]}, 0.4, 0.4),
        ("overload_p99", {"overload": [overload_round(0.9, 400.0)]}, 4.0, 4.0),
    ],
)
def test_every_finding_can_fail(finding, values, low, high):
    found = read(finding, changed(**values))
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize(
    ("finding", "values"),
    [
        *[(name, {"is_study_shape": False}) for name in FINDINGS],
        *[(name, {"cold_share": 0.1}) for name in FINDINGS],
        *[(name, {"p99_bound_ms": 200.0}) for name in FINDINGS],
        *[(name, {"refused_share": 0.01}) for name in FINDINGS],
        ("rate", {"is_full": False}),
        ("rate", {"highest_rates": []}),
        ("computed_goodput", {"overload": []}),
        ("computed_goodput", {"overload": [overload_round(0.9, 90.0, "VOID")]}),
        ("computed_goodput", {"overload_times": 1.1}),
        ("overload_p99", {"overload": [overload_round(0.9, 90.0), overload_round(0.9, None)]}),
        ("overload_p99", {"overload_times": 1.1}),
    ],
)
def test_a_finding_is_not_read_of_another_shape_or_load_or_of_late_or_small_runs(finding, values):
    assert read(finding, changed(**values)) is None


def test_a_round_in_which_the_generator_was_late_is_left_out():
    found = changed(overload=[*GOOD.overload, overload_round(0.1, 900.0, "VOID")])
    assert [read(n, found) for n in FINDINGS] == [read(n, GOOD) for n in FINDINGS]
    assert [round_.computed_share for round_ in found.overload_rounds] == [0.85, 0.9, 0.95]


def test_a_rung_is_compared_with_the_neighbour_that_it_names():
    before, after = GOOD.neighbours("c")
    assert (before.name, after.name, before.cpu_ms / after.cpu_ms) == ("a", "c", 5.0)
    assert [GOOD.neighbours(name) for name in ("a", "d", "none")] == [None] * 3


def test_the_comparisons_of_the_original_name_neighbours():
    before = {rung.name: rung.before for rung in RUNGS}
    assert before["original, ONNX"] == "original, PyTorch"
    assert before["pool"] == "last events"


def test_figures_are_derived_from_the_record():
    assert GOOD.bands[0].waiting_share == 0.9
    assert GOOD.predicted[0].p99_error == pytest.approx(-0.2)
    assert msgspec.json.decode(msgspec.json.encode(GOOD), type=LoadtestResult) == GOOD


def test_the_estimate_grows_with_the_users():
    few, many = (estimate({"n_users": n}) for n in (1000, 138_493))
    assert many.disk_gib > few.disk_gib + 0.4


def test_the_server_and_what_it_imports_are_inputs():
    found = {str(path.relative_to(layout().root)) for path in inputs({})}
    assert found >= {
        "server/app.py",
        "server/settings.py",
        "nanorecsys/serving/candidates.py",
        "nanorecsys/models/ranker.py",
    }
    assert not any(name.startswith("nanorecsys/training") for name in found)
