"""The chapter's claims, each of which can fail, and its estimate. 2 s."""

import msgspec
import numpy as np
import pytest

from nanorecsys.loadtest.chapter import CLAIMS, estimate, inputs
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
from nanorecsys.study.claims import judge
from nanorecsys.study.layout import layout
from nanorecsys.study.spread import spread
from tests.loadtest.test_summary import load_row

HIGHEST = load_row(scenario="confirming", offered_per_s=1100.0, seconds=60.0, p99_ms=90.0)


def compared(times, cold_share):
    figures = {
        "baseline_cpu_ms": 2.0 * times,
        "optimized_cpu_ms": 2.0,
        "baseline_p99_ms": 90.0,
        "optimized_p99_ms": 9.0,
        "baseline_per_s": 50.0,
        "optimized_per_s": 800.0,
        "times": times,
    }
    spreads = {name: spread(np.array([value])) for name, value in figures.items()}
    return ServerComparison(offered_per_s=30.0, cold_share=cold_share, repeats=1, void=0, **spreads)


GOOD = LoadtestResult(
    dataset="d",
    is_study_shape=True,
    is_full=True,
    n_users=100,
    bootstrapped=True,
    mean_length=50.0,
    window=200,
    cold_share=0.3,
    p99_bound_ms=100.0,
    mixed=compared(8.0, 0.3),
    busy=compared(30.0, 0.3),
    busy_cold=compared(11.0, 1.0),
    ladder=[
        MeasuredRung(
            name="torch",
            change="a",
            cpu_ms=30.0,
            p99_ms=90.0,
            highest_per_s=20.0,
            cpu_at_highest_ms=29.0,
        )
    ],
    highest=HIGHEST,
    limited_by="at 1200/s: P99 is 120 ms",
    loads=[HIGHEST],
    stages_alone={"embedding": Percentiles(p50=3.0, p95=6.0, p99=9.0)},
    stages_loaded={},
    baseline_stages={},
    bands=[
        Band(
            low=0.99,
            high=1.0,
            requests=1,
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
    original=[
        Original(
            offered_per_s=80.0, load=0.6, hits_wait=True, p50_ms=35.0, p95_ms=100.0, p99_ms=190.0
        )
    ],
    overload=Overload(
        times_highest=2.0,
        offered_per_s=2200.0,
        goodput_per_s=1050.0,
        goodput_share=0.95,
        p99_ms=120.0,
        refused_share=0.5,
        not_deliberate=0,
        recovery_s=0.5,
        lag_p99_ms=1.0,
        verdict="VALID",
    ),
    void_runs=0,
)


def verdicts(found):
    return {row.id: row.verdict for row in judge("06_loadtest", CLAIMS, found)}


def changed(**values):
    """The good result with fields replaced, those of a part as `overload__p99_ms`."""
    made = GOOD
    for name, value in values.items():
        outer, _, inner = name.partition("__")
        part = msgspec.structs.replace(getattr(made, outer), **{inner: value}) if inner else value
        made = msgspec.structs.replace(made, **{outer: part})
    return made


def test_every_claim_holds_of_a_good_result():
    claims = ("loadtest.rate", "loadtest.goodput", "loadtest.overload_p99")
    assert verdicts(GOOD) == dict.fromkeys(claims, "holds")


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("rate", {"highest": None}),
        ("rate", {"highest__offered_per_s": 200.0}),
        ("goodput", {"overload__goodput_share": 0.5}),
        ("overload_p99", {"overload__p99_ms": 400.0}),
    ],
)
def test_every_claim_can_fail(claim, values):
    assert verdicts(changed(**values))[f"loadtest.{claim}"] == "fails"


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("rate", {"is_full": False}),
        ("rate", {"is_study_shape": False}),
        ("rate", {"highest": None, "loads": [load_row(scenario="confirming", verdict="VOID")]}),
        ("goodput", {"is_study_shape": False}),
        ("goodput", {"overload": None}),
        ("overload_p99", {"overload__verdict": "VOID"}),
    ],
)
def test_a_claim_is_not_judged_of_another_shape_a_short_run_or_a_late_generator(claim, values):
    assert verdicts(changed(**values))[f"loadtest.{claim}"] == "not_run"


def test_figures_are_derived_from_the_record():
    assert GOOD.bands[0].waiting_share == 0.9
    assert GOOD.predicted[0].p99_error == pytest.approx(-0.2)
    assert msgspec.json.decode(msgspec.json.encode(GOOD), type=LoadtestResult) == GOOD


def test_the_estimate_grows_with_the_users():
    few, many = (estimate({"n_users": n}) for n in (1000, 138_493))
    assert many.disk_gib > few.disk_gib + 0.5


def test_the_server_and_what_it_imports_are_inputs():
    found = {str(path.relative_to(layout().root)) for path in inputs({})}
    assert found >= {
        "server/app.py",
        "server/settings.py",
        "nanorecsys/serving/candidates.py",
        "nanorecsys/models/ranker.py",
    }
    assert not any(name.startswith("nanorecsys/training") for name in found)
