"""The chapter's findings, each of which can fail or be undecided, and its estimate. 2 s."""

import msgspec
import pytest
from msgspec.structs import replace

from nanorecsys.data.registry import DEFAULT_DATASET
from nanorecsys.loadtest.chapter import FINDINGS, estimate, inputs
from nanorecsys.loadtest.result import (
    BASELINE,
    LAST,
    Band,
    Floor,
    LoadtestResult,
    MeasuredServer,
    Operated,
    Original,
    Overload,
    Percentiles,
    Round,
    Search,
    ServedScale,
)
from nanorecsys.loadtest.summary import PARTS
from nanorecsys.scaleup.result import ScalePoint
from nanorecsys.study.layout import layout
from nanorecsys.study.spread import Interval, Spread
from tests.loadtest.test_summary import load_row

HIGHEST = load_row(scenario="confirming", offered_per_s=1100.0, seconds=60.0, p99_ms=90.0)


def server(name, cpu_ms, rates=(90.0,), before="", workers=1, threads=1):
    rounds = [
        Round(cpu_ms=cpu, busy_per_s=2000.0, highest_per_s=rate, limit="P99 at 1,200/s: 1.2%")
        for cpu, rate in zip(cpu_ms, rates, strict=True)
    ]
    told = {"change": "a", "before": before, "findings": (), "workers": workers, "threads": threads}
    return MeasuredServer(name=name, rounds=rounds, **told)


def overload_round(computed_share, p99_ms, verdict="VALID"):
    return Overload(
        computed_share=computed_share,
        cached_share=1.1,
        p99_ms=p99_ms,
        refused_cold=0.5,
        refused_hot=0.0,
        lost_share=0.0,
        verdict=verdict,
    )


FINAL = server(LAST, [2.0, 2.0, 2.0], [1150.0, 1100.0, 1200.0], workers=2)
BEST = server(BASELINE, [4.4, 5.0, 4.8], [400.0, 420.0, 410.0], workers=2)
VALUES = {str: "x", int: 3_000_000, float: 1.0}
POINT = ScalePoint(
    **{
        field.name: Spread(middle=1.0, low=1.0, high=1.0)
        if field.name == "p50_ms"
        else VALUES.get(field.type, 1.0)
        for field in msgspec.structs.fields(ScalePoint)
    }
)
COST = Operated(start_s=2.0, reload_s=1.0, memory_mib=900.0, reload_mib=1400.0)
SCALED = ServedScale(
    generator="x",
    index=POINT,
    real=FINAL,
    large=server("large", [3.0] * 3, [690.0, 770.0, 600.0]),
    real_p99_ms=[],
    large_p99_ms=[],
    real_cost=COST,
    large_cost=COST,
)
GRID = [
    server("1 x 0", [2.0], [1000.0], threads=0),
    server("index", [2.0], [1500.0]),
    FINAL,
]


GOOD = LoadtestResult(
    dataset=DEFAULT_DATASET,
    is_study_shape=True,
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
    search=Search(),
    ladder=[BEST, FINAL],
    grid=GRID,
    final=FINAL,
    whole_window=server("whole", [9.0], [300.0]),
    in_kind_stages={},
    highest=HIGHEST,
    all_cold=load_row(offered_per_s=500.0),
    busy_cold=load_row(offered_per_s=None),
    floor=Floor(
        length=20.0, macs=1, gmacs=200.0, read_mib=0.5, floor_ms={"encode": 0.1}, measured_ms={}
    ),
    served_scale=SCALED,
    stages_alone={"embedding": Percentiles(p50=3.0, p95=6.0, p99=None)},
    stages_loaded={},
    bands=[
        Band(
            low=0.99,
            high=1.0,
            mean_ms=60.0,
            parts_ms=dict.fromkeys(PARTS, 1.0) | {"queue": 53.0},
        )
    ],
    original=[Original(offered_per_s=80.0, load=0.6, hits_wait=True, p99_ms=190.0)],
    overload_times=1.5,
    overload=[overload_round(0.9, 150.0), overload_round(0.85, 180.0), overload_round(0.95, 120.0)],
    void_runs=0,
)


def read(name, found):
    values = FINDINGS[name](found)
    return values and values[DEFAULT_DATASET]


def changed(**values):
    return msgspec.structs.replace(GOOD, **values)


def test_each_finding_is_the_median_of_its_rounds_with_their_range():
    assert {name: read(name, GOOD) for name in FINDINGS} == {
        "rate": Interval(1150.0, 1100.0, 1200.0),
        "baseline": Interval(2.4, 2.2, 2.5),
        "computed_goodput": Interval(0.9, 0.85, 0.95),
        "overload_p99": Interval(1.5, 1.2, 1.8),
        "served_scale": Interval(0.6, 0.5, 0.7),
    }


def scaled(**values):
    return replace(SCALED, **values)


LOW = (pytest.approx(345 / 1200), pytest.approx(345 / 1100))


@pytest.mark.parametrize(
    ("finding", "values", "low", "high"),
    [
        ("rate", {"final": server(LAST, [2.0] * 3, [450.0, 300.0, 400.0])}, 300.0, 450.0),
        ("rate", {"final": server(LAST, [2.0] * 4, [600.0, 0.0, 500.0, None])}, 0.0, 600.0),
        ("rate", {"final": server(LAST, [2.0] * 3, [None] * 3)}, 0.0, 0.0),  # none confirmed
        ("baseline", {"ladder": [server(BASELINE, [3.0, 3.2, 3.6], [1.0] * 3), FINAL]}, 1.5, 1.8),
        ("computed_goodput", {"overload": [overload_round(0.4, 90.0)]}, 0.4, 0.4),
        ("overload_p99", {"overload": [overload_round(0.9, 400.0)]}, 4.0, 4.0),
        ("served_scale", {"served_scale": scaled(large=server("x", [1.0] * 3, [345.0] * 3))}, *LOW),
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
        *[(name, {"dataset": "own"}) for name in FINDINGS],
        *[(name, {"final": server(LAST, [2.0], [1.0])}) for name in FINDINGS],
        *[(name, {"p99_bound_ms": 200.0}) for name in FINDINGS],
        *[(name, {"refused_share": 0.01}) for name in FINDINGS],
        ("rate", {"search": Search(try_s=2.0)}),
        ("rate", {"search": Search(min_requests=500)}),
        ("rate", {"search": Search(precision=0.1)}),
        ("rate", {"final": server(LAST, [2.0] * 2, [1.0] * 2)}),
        ("baseline", {"ladder": [FINAL]}),
        ("served_scale", {"search": Search(try_s=2.0)}),
        ("served_scale", {"served_scale": scaled(index=replace(POINT, n=200_000))}),
        ("served_scale", {"served_scale": scaled(large=server("x", [1.0] * 3, [None] * 3))}),
        ("served_scale", {"served_scale": scaled(large=server("x", [1.0] * 3, [1.0, 1.0, None]))}),
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


def test_a_server_shows_the_spread_of_its_rounds():
    assert FINAL.highest_per_s.middle == 1150.0
    assert FINAL.relative_spread == pytest.approx(100 / 1150)
    late = server("late", [2.0, 4.0], [None, 800.0])
    assert (late.rates, late.cpu_ms.high) == ([800.0], 4.0)
    assert server("late", [2.0], [None]).highest_per_s is None


def test_cpu_times_are_compared_round_by_round():
    times = GOOD.times_cpu(BASELINE, LAST)
    assert (times.middle, times.low, times.high) == (2.4, 2.2, 2.5)
    assert GOOD.times_cpu("lost", LAST) is None


def test_the_gain_of_a_thread_is_between_servers_with_one_worker():
    assert GOOD.thread_gain == 1.5
    assert changed(grid=GRID[1:]).thread_gain is None


def test_the_generators_share_is_its_cpu_time_a_second():
    assert load_row(generator_cpu_ms=0.05, goodput_per_s=4000.0).generator_share == 0.2


def test_figures_are_derived_from_the_record():
    assert GOOD.bands[0].waiting_share == 0.9
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
