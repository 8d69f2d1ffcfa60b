"""The front, the finalists, the rule and the claims on made-up points. 1 s."""

import msgspec
import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann import analysis, bench, chapter
from nanorecsys.ann.limits import Bandwidth, Limits
from nanorecsys.ann.result import (
    AnnResult,
    Finalist,
    Interval,
    OperatingPoint,
    Recommended,
    to_records,
)
from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.study.claims import judge
from nanorecsys.study.spread import Spread

FLOOR, BOUND = 0.99, 1500.0


def frame(*points):
    """Points of factory, search, recall, P50, and as an option P99 and bytes per vector."""
    rows = []
    for number, (factory, search, recall, p50, *more) in enumerate(points):
        p99, size = [*more, 2 * p50, 1024.0][:2] if len(more) < 2 else more
        size = size if len(more) > 1 else 1024.0
        row = {"point": number, "factory": factory, "family": "any", "search": search}
        row |= {"recall_k": recall, "bytes_a_vector": size, "times_flat": 1 / p50}
        for name, value in (("p50_ms", p50), ("p99_ms", p99)):
            row |= {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}
        rows.append(row)
    return pd.DataFrame(rows)


def names(points):
    return list(zip(points["factory"], points["search"], strict=True))


def result(times=16.0, ndcg=(0.0, -0.001, 0.001)):
    spread = Spread(middle=0.1, low=0.09, high=0.11)
    finalist = to_records(frame(("IVF256,SQ8", "nprobe=32", 0.993, 1 / times)), Finalist)[0]
    return AnnResult(
        dataset=DEFAULT_DATASET,
        n_items=27_278,
        d=256,
        real=9_066,
        generator="local",
        k=100,
        queries=2013,
        users=671,
        recall_floor=FLOOR,
        memory_bound=1.5,
        points=3,
        best=[],
        failures=[],
        limits=Limits(bandwidth=[Bandwidth(working_set_mib=1, gb_per_s=60.0)], gemm_gflops=70.0),
        tenth_p50_ms=0.1,
        finalists=[finalist],
        fastest={"0.99": finalist, "0.999": finalist},
        recommended=Recommended(
            factory="IVF256,SQ8",
            family="any",
            search="nprobe=32",
            recall_10=1.0,
            recall_k=0.993,
            worst_decile=0.98,
            p50_ms=spread,
            p99_ms=spread,
            times_flat=times,
            saved_ms=1.5,
            bytes_a_vector=273.0,
            build_s=2.0,
            hitrate_change=Interval(estimate=0.0, low=0.0, high=0.0),
            ndcg_change=Interval(estimate=ndcg[0], low=ndcg[1], high=ndcg[2]),
        ),
        seconds=100.0,
    )


def verdicts(found):
    return {claim.id: claim.verdict for claim in judge("04_ann", chapter.CLAIMS, found)}


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    recall, latency = rng.random(200).round(2), rng.random(200).round(2)
    on_front = analysis.pareto(recall, latency)
    unbeaten = {
        (r, t)
        for r, t in zip(recall, latency, strict=True)
        if not ((recall >= r) & (latency <= t) & ((recall > r) | (latency < t))).any()
    }
    assert set(zip(recall[on_front], latency[on_front], strict=True)) == unbeaten


def test_the_rule_takes_the_lowest_p99_within_floor_and_bound():
    points = frame(
        ("Flat", "", 1.0, 1.0),
        ("IVF256,SQ8", "nprobe=16", 0.98, 0.05),
        ("HNSW32", "efSearch=128", 0.995, 0.06, 0.12, 1600.0),
        ("usearch:M16", "ef=128", 0.995, 0.04),
        ("NSG32", "search_L=128", 0.995, 0.05),
        ("PQ64x4fs,RFlat", "k_factor_rf=4", 0.992, 0.09, 0.5),
        ("IVF256,SQ8", "nprobe=32", 0.992, 0.1, 0.2),
    )
    assert analysis.recommend(points, FLOOR, BOUND)["search"] == "nprobe=32"
    assert analysis.recommend(points, FLOOR, 2000.0)["factory"] == "HNSW32"
    assert analysis.recommend(points, 0.9, BOUND)["search"] == "nprobe=16"
    assert analysis.recommend(points, FLOOR, 100.0)["factory"] == "Flat"


def test_the_fastest_is_looked_for_at_each_recall():
    points = frame(("Flat", "", 1.0, 1.0), ("a", "", 0.99, 0.1), ("b", "", 0.9995, 0.2))
    found = {recall: p.factory for recall, p in analysis.fastest(points).items()}
    assert found == {"0.99": "a", "0.999": "b"}
    assert {p.factory for p in analysis.fastest(points[:1]).values()} == {"Flat"}


def test_finalists_are_flat_the_rules_choices_and_the_fastest_once_each():
    points = frame(
        ("Flat", "", 1.0, 1.0),
        ("IVF256,SQ8", "nprobe=1", 0.5, 0.01),
        ("IVF256,SQ8", "nprobe=32", 0.992, 0.1),
        ("usearch:M16", "ef=512", 0.9995, 0.2),
        ("SQ8", "", 0.993, 0.6),
    )
    chosen = names(analysis.finalists(points, FLOOR, BOUND))
    assert chosen[0] == ("Flat", "")
    assert sorted(chosen) == sorted(set(names(points)) - {("IVF256,SQ8", "nprobe=1")})


def test_a_specification_is_shown_at_its_fastest_good_setting_or_its_most_accurate():
    points = frame(
        ("a", "1", 0.5, 0.1),
        ("a", "2", 0.991, 0.3),
        ("a", "3", 0.999, 0.9),
        ("b", "1", 0.6, 0.1),
        ("b", "2", 0.8, 0.2),
    )
    assert names(analysis.best_of_each(points, FLOOR)) == [("a", "2"), ("b", "2")]


def test_percentiles_are_medians_over_rounds_with_their_range():
    ns = [np.arange(1, 101) * 10_000 * scale for scale in (1, 2, 9)]
    rows = {"point": 4, "round": np.repeat([0, 1, 2], 100), "ns": np.concatenate(ns)}
    found = bench.percentiles(pd.DataFrame(rows)).loc[4]
    middle = np.percentile(ns[1], 50) / 1e6
    assert found["p50_ms"] == pytest.approx(middle)
    assert found["p50_ms_low"] == pytest.approx(middle / 2)
    assert found["p50_ms_high"] == pytest.approx(middle * 4.5)
    assert found["p99_ms"] == pytest.approx(np.percentile(ns[1], 99) / 1e6)


def test_rows_become_records_with_spreads_and_none():
    row = frame(("Flat", "", 1.0, 1.0)).drop(columns="times_flat")
    row = row.assign(**dict.fromkeys(set(OperatingPoint.__struct_fields__) - set(row), 1.0))
    row = row.assign(on_front=True, read_mib=np.nan, floor_ms=np.nan)
    (found,) = to_records(row, OperatingPoint)
    assert (found.read_mib, found.on_front) == (None, True)
    assert found.p50_ms == Spread(middle=1.0, low=0.9, high=1.1)


@pytest.mark.parametrize(
    ("ndcg", "verdict"),
    [
        ((0.0, -0.001, 0.001), "holds"),
        ((-0.004, -0.007, -0.001), "fails"),
        ((0.004, 0.001, 0.007), "fails"),
    ],
)
def test_the_end_task_is_unchanged_if_the_interval_includes_zero(ndcg, verdict):
    assert verdicts(result(ndcg=ndcg))["ann.end_task"] == verdict


@pytest.mark.parametrize(
    ("times", "expected"),
    [(16.0, ("holds", "holds")), (9.0, ("fails", "limited")), (3.0, ("fails", "fails"))],
)
def test_speed_is_judged_against_flat(times, expected):
    found = verdicts(result(times=times))
    assert (found["ann.recall_99"], found["ann.recall_999"]) == expected


def test_claims_on_speed_need_the_studys_size():
    found = verdicts(msgspec.structs.replace(result(), n_items=9_066))
    assert found["ann.recall_99"] == found["ann.recall_999"] == "not_run"


def test_a_result_survives_its_record():
    found = result()
    assert msgspec.json.decode(msgspec.json.encode(found), type=AnnResult) == found
