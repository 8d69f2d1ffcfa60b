"""The chapter's claims, each of which can fail, its sentences, and its figures. 4 s."""

import matplotlib.pyplot as plt
import msgspec
import polars as pl
import pytest

from nanorecsys.loadtest import analysis, figures
from nanorecsys.loadtest.chapter import CLAIMS, estimate, headline, inputs
from nanorecsys.loadtest.result import (
    Band,
    Compared,
    CpuTimes,
    Faults,
    LoadtestResult,
    Original,
    Overload,
    Percentiles,
    Predicted,
    Rung,
    ServiceTimes,
    Spread,
)
from nanorecsys.study.claims import judge
from tests.loadtest.test_analysis import load_row

HIGHEST = load_row(
    scenario="confirming", offered_per_s=1100.0, goodput_per_s=1100.0, seconds=60.0, p99_ms=90.0
)


def spread(value):
    return Spread(middle=value, low=value, high=value)


def compared(times, cold_share):
    return Compared(
        offered_per_s=30.0,
        cold_share=cold_share,
        repeats=2,
        baseline_cpu_ms=spread(2.0 * times),
        optimized_cpu_ms=spread(2.0),
        baseline_p99_ms=spread(90.0),
        optimized_p99_ms=spread(9.0),
        times=spread(times),
        void=0,
        baseline_per_s=spread(50.0),
        optimized_per_s=spread(800.0),
    )


def stage(value):
    return Percentiles(p50=value, p95=2 * value, p99=3 * value)


PARTS_MS = dict.fromkeys(analysis.PARTS, 1.0)
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
    cold=compared(7.0, 1.0),
    busy=compared(30.0, 0.3),
    busy_cold=compared(11.0, 1.0),
    ladder=[
        Rung(
            name="torch",
            change="a",
            cpu_ms=30.0,
            p99_ms=90.0,
            highest_per_s=20.0,
            cpu_at_highest_ms=29.0,
        ),
        Rung(
            name="cache",
            change="b",
            cpu_ms=3.0,
            p99_ms=9.0,
            highest_per_s=None,
            cpu_at_highest_ms=None,
        ),
    ],
    highest=HIGHEST,
    limited_by="the cores",
    loads=[
        HIGHEST,
        load_row(scenario="closed loop", p99_ms=3.0),
        load_row(scenario="open loop at that rate"),
    ],
    stages_alone={"embedding": stage(3.0), "total": stage(4.0)},
    stages_loaded={"embedding": stage(4.0), "total": stage(9.0)},
    bands=[
        Band(low=0.0, high=0.5, requests=50, mean_ms=7.0, computed_share=0.0, parts_ms=PARTS_MS),
        Band(
            low=0.99,
            high=1.0,
            requests=1,
            mean_ms=60.0,
            computed_share=1.0,
            parts_ms=PARTS_MS | {"queue": 54.0},
        ),
    ],
    service=ServiceTimes(
        busy=CpuTimes(compute_p50=3.0, compute_p95=7.0, loop_hot=0.1, loop_cold=0.3, generator=0.1),
        idle=CpuTimes(compute_p50=4.0, compute_p95=8.0, loop_hot=0.3, loop_cold=0.7, generator=0.2),
        wire=0.1,
        batch_cost=[1.0, 0.9],
    ),
    predicted=[
        Predicted(
            offered_per_s=500.0,
            load=0.5,
            predicted_p50_ms=1.0,
            predicted_p95_ms=10.0,
            predicted_p99_ms=20.0,
            measured_p50_ms=1.0,
            measured_p95_ms=10.0,
            measured_p99_ms=21.0,
            measured_p99_low_ms=19.0,
            measured_p99_high_ms=25.0,
        )
    ],
    prediction_error=0.05,
    original=[
        Original(
            offered_per_s=rate,
            load=rate / 130,
            hits_wait=waits,
            p50_ms=p50,
            p95_ms=100.0,
            p99_ms=p99,
        )
        for waits, p50 in ((False, 1.5), (True, 35.0))
        for rate, p99 in ((80.0, 190.0), (120.0, 700.0))
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
    faults=Faults(
        requests=200_000,
        answered=199_000,
        refused=1000,
        retried=9,
        lost=0,
        server_errors=0,
        compared=1500,
        wrong=0,
        reasons={},
        events_acknowledged=900,
        events_missing=0,
        cache="redis",
        workers_killed=4,
        reloads=4,
        cache_stops=4,
        clients_cut=3000,
        rss_before_mib=500.0,
        rss_mib=[800.0, 790.0, 810.0, 820.0],
        rss_growth=0.025,
        tracebacks=0,
        seconds=200.0,
    ),
    void_runs=0,
    baseline_stages={"embedding": stage(26.0)},
    seconds=800.0,
    seconds_limit=840.0,
)


def verdicts(found):
    return {row.id: row.verdict for row in judge("06_loadtest", CLAIMS, found)}


def changed(**values):
    """The good result with fields replaced, those of a part as `overload.p99_ms`."""
    made = GOOD
    for name, value in values.items():
        outer, _, inner = name.partition("__")
        own = msgspec.structs.replace(getattr(made, outer), **{inner: value}) if inner else value
        made = msgspec.structs.replace(made, **{outer: own})
    return made


def test_every_claim_holds_of_a_good_result():
    assert set(verdicts(GOOD).values()) == {"holds"}


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("cpu_mixed", {"busy__times": spread(3.0)}),
        ("cpu_mixed_aim", {"busy__times": spread(5.0)}),
        ("cpu_cold", {"busy_cold__times": spread(3.0)}),
        ("cpu_cold_aim", {"busy_cold__times": spread(5.0)}),
        ("cpu_light", {"mixed__times": spread(3.0)}),
        ("cpu_light_cold", {"cold__times": spread(3.0)}),
        ("rate", {"highest": None}),
        ("rate", {"highest__offered_per_s": 200.0}),
        ("rate_aim", {"highest__offered_per_s": 400.0}),
        ("goodput", {"overload__goodput_share": 0.5}),
        ("overload_p99", {"overload__p99_ms": 400.0}),
        ("deliberate", {"overload__not_deliberate": 1}),
        ("recovery", {"overload__recovery_s": 7.5}),
        ("wrong", {"faults__wrong": 1}),
        ("lost", {"faults__lost": 1}),
        ("lost", {"faults__events_missing": 1}),
        ("lost", {"faults__server_errors": 1}),
        ("fault_requests", {"faults__requests": 199_999}),
        ("memory", {"faults__rss_growth": 0.4}),
        ("prediction", {"prediction_error": 0.6}),
        ("original_throughput", {"busy__optimized_per_s": spread(160.0)}),
        ("original_embedding", {"baseline_stages": {"embedding": stage(4.0)}}),
        ("original_efficiency", {"busy__times": spread(9.0)}),
        ("original_tail", {"bands": GOOD.bands[:1]}),
        ("time", {"seconds": 1200.0}),
    ],
)
def test_every_claim_can_fail(claim, values):
    assert verdicts(changed(**values))[f"loadtest.{claim}"] == "fails"


def test_a_claim_is_not_judged_of_another_shape_or_a_short_run():
    small, short = verdicts(changed(is_study_shape=False)), verdicts(changed(is_full=False))
    assert small["loadtest.cpu_mixed"] == "not_run"
    assert (
        short["loadtest.rate"]
        == short["loadtest.prediction"]
        == short["loadtest.memory"]
        == "not_run"
    )
    assert short["loadtest.cpu_mixed"] == small["loadtest.wrong"] == "holds"
    assert (
        verdicts(changed(faults__rss_growth=None))["loadtest.memory"] == "not_run"
    )  # nothing to compare it with
    nothing = verdicts(changed(overload=None, busy=None, prediction_error=None, bands=[]))
    absent = ("goodput", "cpu_mixed", "original_throughput", "original_tail")
    assert {nothing[f"loadtest.{n}"] for n in absent} == {"not_run"}
    stalled = verdicts(changed(busy__baseline_per_s=spread(0.0)))
    assert stalled["loadtest.original_throughput"] == "not_run"  # nothing to divide by


def test_sentences_follow_the_numbers():
    told = analysis.story(GOOD)
    assert all(sentence for sentence in told.values())
    assert "1,100 requests a second" in told["answer"]
    assert "the tail is queueing" in told["tail_sentence"]
    outside = changed(
        bands=[msgspec.structs.replace(GOOD.bands[0], parts_ms=PARTS_MS | {"outside": 4.0})]
    )
    assert "not queueing alone" in analysis.story(outside)["tail_sentence"]
    assert "3.3 times" in told["closed_sentence"]
    assert "below the measured one" in told["prediction_sentence"]
    assert "120 requests a second" in told["original_sentence"]
    assert "none was lost" in told["faults_sentence"]
    assert "from 500 MiB before that to 800, 790, 810, 820 MiB" in told["faults_sentence"]
    assert "(+2.5% from the first to the last)" in told["faults_sentence"]
    assert "to the last" not in analysis.story(changed(faults__rss_growth=None))["faults_sentence"]
    assert "3 were lost" in analysis.story(changed(faults__lost=3))["faults_sentence"]
    wrong = changed(faults__wrong=2, faults__reasons={"an item 0.50 below the last place": 2})
    assert (
        "2 differed: an item 0.50 below the last place (2)"
        in analysis.story(wrong)["faults_sentence"]
    )
    hits = [load_row(scenario=s, server_cpu_ms=0.25) for s in ("cold share 0%", "closed loop, hot")]
    rates = analysis.story(changed(loads=[*GOOD.loads, *hits]))["rate_sentence"]
    assert "a hit 0.25 ms" in rates
    assert (
        "PyTorch takes 8.0 times as much at 30 requests a second, and 7.0 times at 30 where each"
        in rates
    )
    two = [
        msgspec.structs.replace(GOOD.ladder[0], name=n, highest_per_s=9.0)
        for n in ("second worker", "second thread")
    ]
    assert "in its place 9" in analysis.story(changed(ladder=two))["ladder_sentence"]
    three = analysis.story(changed(overload__rounds_p99_ms=[120.0, 90.0, 140.0]))[
        "overload_sentence"
    ]
    assert "120 ms (the median of 3 rounds, 90 to 140)" in three
    assert "rounds" not in told["overload_sentence"]  # of one alone
    assert "late itself" in analysis.story(changed(overload__verdict="VOID"))["overload_sentence"]
    assert "VOID" in analysis.story(changed(void_runs=2))["void_sentence"]
    for empty in (
        changed(
            highest=None, overload=None, bands=[], predicted=[], prediction_error=None, original=[]
        ),
    ):
        assert "no rate" in analysis.story(empty)["answer"]


def test_of_several_rounds_of_overload_the_one_with_the_median_p99_is_told():
    def round_of(p99, verdict="VALID", not_deliberate=0):
        return msgspec.structs.replace(
            GOOD.overload,
            p99_ms=p99,
            verdict=verdict,
            not_deliberate=not_deliberate,
            recovery_s=p99 / 100,
        )

    place, found = analysis.middle_overload(
        [round_of(300.0), round_of(150.0, not_deliberate=2), round_of(200.0)]
    )
    assert (place, found.p99_ms, found.recovery_s) == (2, 200.0, 2.0)
    assert found.rounds_p99_ms == [300.0, 150.0, 200.0]
    assert found.not_deliberate == 2  # in whichever round
    place, found = analysis.middle_overload(
        [round_of(1.0, "VOID"), round_of(300.0), round_of(150.0)]
    )
    assert (place, found.rounds_p99_ms) == (2, [300.0, 150.0])  # the lower of two
    place, found = analysis.middle_overload([round_of(9.0, "VOID"), round_of(8.0, "VOID")])
    assert (place, found.verdict, found.rounds_p99_ms) == (0, "VOID", [])


@pytest.mark.parametrize(("other", "expected"), [("VOID", "not_run"), ("INVALID", "fails")])
def test_a_rate_that_no_generator_offered_is_not_judged(other, expected):
    loads = [load_row(scenario="confirming", verdict=verdict) for verdict in ("VOID", other)]
    assert verdicts(changed(highest=None, loads=loads))["loadtest.rate"] == expected


def test_headlines_and_needs_follow_the_parameters():
    assert headline(GOOD)[0][1] == "1,100 requests/s"
    assert len(headline(changed(highest=None))) == 2
    small, large = (estimate({"n_users": n, "fault_rounds": 1}).disk_gib for n in (1000, 138_493))
    assert small < large < 5
    assert {"engine.py", "worker.py"} <= {path.name for path in inputs({}) if path.is_file()}


def test_figures_are_drawn():
    rows = [
        load_row(offered_per_s=r, p99_ms=p, verdict=v)
        for r, p, v in ((100, 9, "VALID"), (200, 30, "VOID"), (300, 400, "INVALID"))
    ]
    seconds = pl.DataFrame(
        {
            "second": [0, 1, 2],
            "offered": [10, 20, 10],
            "good": [10, 10, 10],
            "refused": [0, 10, 0],
            "p99_ms": [5.0, 90.0, None],
        }
    )
    drawn = [
        figures.knee(rows, 100.0, "t"),
        figures.overload(seconds, [(10, 1), (20, 1), (10, 1)], 100.0, "t"),
        figures.ladder(GOOD.ladder, "t"),
        figures.breakdown(GOOD.bands, "t"),
        figures.prediction(GOOD.predicted, "t"),
        figures.original(GOOD.original, 580.0, 80.0, "t"),
        figures.cold_shares(rows, "t"),
        figures.stages(GOOD.stages_alone, GOOD.stages_loaded, "t"),
    ]
    for figure in drawn:
        figure.canvas.draw()
        assert figure.axes
        plt.close(figure)
