"""The front, the finalists, the rule and the findings on made-up points. 1 s."""

import json

import msgspec
import nbformat
import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann import analysis, bench
from nanorecsys.ann.chapter import FINDINGS
from nanorecsys.ann.limits import Bandwidth, Limits
from nanorecsys.ann.result import (
    AnnResult,
    Finalist,
    OperatingPoint,
    Served,
    to_records,
)
from nanorecsys.data.registry import DEFAULT_DATASET, SECOND_DATASET
from nanorecsys.evaluation import Change
from nanorecsys.serving.retrieval import library
from nanorecsys.study.layout import layout
from nanorecsys.study.parameters import read_parameters
from nanorecsys.study.spread import Interval, Spread

FLOOR, BOUND = 0.99, 1500.0


def frame(*points):
    """Points of factory, search, sure recall, P50, and as an option bytes per vector."""
    rows = []
    for number, (factory, search, sure, p50, *size) in enumerate(points):
        row = {"point": number, "factory": factory, "family": "any", "search": search}
        row |= {"sure": sure, "bytes_a_vector": size[0] if size else 1024.0, "p99_ms": np.nan}
        for name, value in (("p50_ms", p50), ("recall_k", sure + 0.001), ("times_flat", 1 / p50)):
            row |= {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}
        row |= {"saved_ms": 1.0, "build_s": 2.0}
        rows.append(row)
    return pd.DataFrame(rows)


def names(points):
    return list(zip(points["factory"], points["search"], strict=True))


def served(recall, ndcg):
    """A served catalogue with these intervals of recall and of the change of NDCG of 0.2."""
    change = Change(base=0.2, change=ndcg[0], low=ndcg[1], high=ndcg[2])
    return Served(items=100, users=50, recall=Interval(*recall), ndcg=change)


def result(**changes):
    finalist = to_records(frame(("IVF256,SQ8", "nprobe=32", 0.993, 0.05)), Finalist)[0]
    slower = msgspec.structs.replace(finalist, times_flat=Spread(middle=9, low=8, high=11))
    values = {
        "dataset": DEFAULT_DATASET,
        "n_items": 27_278,
        "d": 256,
        "real": 9_066,
        "generator": "local",
        "k": 100,
        "choosing": 268,
        "reporting": 269,
        "recall_floor": FLOOR,
        "memory_bound": 1.5,
        "points": 3,
        "best": [],
        "failures": [],
        "limits": Limits(bandwidth=[Bandwidth(working_set_mib=1, gb_per_s=60.0)]),
        "finalists": [finalist],
        "fastest": finalist,
        "fastest_999": slower,
        "recommended": finalist,
        "second_choice": finalist,
        "served": {
            DEFAULT_DATASET: served((0.995, 0.992, 0.997), (0.0, -0.001, 0.001)),
            SECOND_DATASET: served((0.98, 0.975, 0.985), (-0.002, -0.004, 0.0)),
        },
        "seconds": 100.0,
    }
    return AnnResult(**(values | changes))


def test_the_rule_takes_the_lowest_p50_within_floor_and_bound():
    points = frame(
        ("Flat", "", 1.0, 1.0),
        ("IVF256,SQ8", "nprobe=16", 0.98, 0.05),
        ("HNSW32", "efSearch=128", 0.995, 0.06, 1600.0),
        ("PQ64x4fs,RFlat", "k_factor_rf=4", 0.992, 0.12),
        ("IVF256,SQ8", "nprobe=32", 0.992, 0.1),
    )
    points["recall_k_low"] = points["sure"]
    assert analysis.fastest(points, FLOOR, BOUND).search == "nprobe=32"
    assert analysis.fastest(points, FLOOR).factory == "HNSW32"
    assert analysis.fastest(points, 0.9, BOUND).search == "nprobe=16"
    assert analysis.fastest(points, FLOOR, 100.0).factory == "Flat"


def test_both_groups_of_users_have_to_keep_the_floor():
    points = frame(("Flat", "", 1.0, 1.0), ("a", "", 0.99, 0.1), ("b", "", 0.9895, 0.05))
    points["recall_k_low"] = [1.0, 0.99, 0.995]
    assert analysis.fastest(points, FLOOR).factory == "a"
    points["recall_k_low"] = [1.0, 0.9899, 0.995]
    assert analysis.fastest(points, FLOOR).factory == "Flat"


def test_finalists_are_flat_and_the_two_fastest_of_each_library_at_each_floor():
    points = frame(
        ("Flat", "", 1.0, 1.0),
        ("IVF256,SQ8", "nprobe=1", 0.5, 0.01),
        ("IVF256,SQ8", "nprobe=32", 0.992, 0.1),
        ("IVF256,SQ8", "nprobe=64", 0.994, 0.3),
        ("SQ8", "", 0.993, 0.6),
        ("HNSW16", "efSearch=512", 0.9995, 0.2),
        ("lorann:clusters=64", "clusters=20,rerank=400", 0.991, 0.05),
        ("lorann:clusters=64", "clusters=30,rerank=600", 0.9991, 0.07),
        ("lorann:clusters=64", "clusters=64,rerank=900", 0.9999, 0.09),
    )
    chosen = analysis.finalists(points, (FLOOR, 0.999))
    assert chosen["point"].tolist() == [0, 6, 7, 2, 5, 8]
    chosen["recall_k_low"] = chosen["sure"]
    assert analysis.fastest(chosen, FLOOR).search == "clusters=20,rerank=400"
    assert analysis.fastest(chosen, 0.999).search == "clusters=30,rerank=600"
    faiss_alone = chosen[chosen["factory"].map(library) == "faiss"]
    assert analysis.fastest(faiss_alone, FLOOR).search == "nprobe=32"


def test_a_specification_is_shown_at_its_fastest_good_setting_or_its_most_accurate():
    points = frame(
        ("a", "1", 0.5, 0.1),
        ("a", "2", 0.991, 0.3),
        ("a", "3", 0.999, 0.9),
        ("b", "1", 0.6, 0.1),
        ("b", "2", 0.8, 0.2),
    )
    assert names(analysis.best_of_each(points, FLOOR)) == [("a", "2"), ("b", "2")]


def measurements(recall):
    """One Flat point, searched by as many users as there are recalls."""
    point = {"point": [0], "factory": "Flat", "family": "Flat", "search": ""}
    accuracy = {"point": 0, "query": np.arange(len(recall)), "recall_k": recall}
    latency = {"point": 0, "round": [0, 0, 1], "query": 0, "ns": [1e6, 3e6, 4e6]}
    batches = {"point": 0, "batch": [32, 1000, 1000], "threads": [1, 1, 2], "ns": [3e5, 2e5, 1e5]}
    frames = {"accuracy": accuracy, "latency": latency, "batches": batches}
    rows = {name: pd.DataFrame(frame) for name, frame in frames.items()}
    # in any order
    rows["accuracy"] = rows["accuracy"].sample(frac=1, random_state=0)
    return bench.Measurements(pd.DataFrame(point), rows, [])


def test_users_who_choose_a_setting_do_not_report_its_recall():
    recall = np.concatenate([np.tile([0.98, 1.0], 20), np.tile([0.5, 0.7], 10)])
    found = analysis.operating_points(measurements(recall), 40).iloc[0]
    assert 0.98 < found["sure"] < 0.99  # the lower end: the mean of those who choose is 0.99
    assert found["recall_k"] == pytest.approx(0.6)
    assert 0.5 < found["recall_k_low"] < 0.6 < found["recall_k_high"] < 0.7
    assert found["p50_ms"] == pytest.approx(3.0)
    assert found["queries_per_s"] == pytest.approx(1e4)


def test_p50_is_the_median_over_rounds_with_their_range():
    ns = [np.arange(1, 101) * 10_000 * scale for scale in (1, 2, 9)]
    rows = {"point": 4, "round": np.repeat([0, 1, 2], 100), "ns": np.concatenate(ns)}
    found = bench.percentiles(pd.DataFrame(rows)).loc[4]
    middle = np.percentile(ns[1], 50) / 1e6
    assert found["p50_ms"] == pytest.approx(middle)
    assert found["p50_ms_low"] == pytest.approx(middle / 2)
    assert found["p50_ms_high"] == pytest.approx(middle * 4.5)


def test_finalists_are_divided_by_flat_within_each_round():
    latency = pd.DataFrame(
        {
            "point": np.repeat([0, 1], 9),
            "round": np.tile(np.repeat([0, 1, 2], 3), 2),
            "ns": np.repeat([6e6, 9e6, 8e6, 3e6, 3e6, 8e6], 3),
        }
    )
    chosen = frame(("Flat", "", 1.0, 5.0), ("a", "", 0.99, 5.0)).drop(columns="times_flat")
    found = analysis.confirmed(chosen, latency).loc[1]
    times = [found[f"times_flat{end}"] for end in ("", "_low", "_high")]
    assert times == [2.0, 1.0, 3.0]
    assert (found["p50_ms"], found["saved_ms"]) == (3.0, 5.0)
    assert np.isnan(found["p99_ms"])


@pytest.mark.parametrize(("count", "known"), [(9_999, False), (10_000, True)])
def test_p99_needs_a_hundred_timings_above_it(count, known):
    rows = {"point": 0, "round": np.arange(count) % 7, "ns": np.arange(count) * 1e3}
    found = analysis.confirmed(frame(("Flat", "", 1.0, 1.0)), pd.DataFrame(rows))
    (record,) = to_records(found, Finalist)
    assert (record.p99_ms is not None) == known
    if known:
        assert (rows["ns"] / 1e6 > record.p99_ms).sum() == 100


def test_rows_become_records_with_spreads_intervals_and_none():
    row = frame(("Flat", "", 1.0, 1.0)).drop(columns="times_flat")
    row = row.assign(**dict.fromkeys(set(OperatingPoint.__struct_fields__) - set(row), 1.0))
    (found,) = to_records(row, OperatingPoint)
    assert (found.build_s, found.rss_mib) == (2.0, 1.0)
    assert found.p50_ms == Spread(middle=1.0, low=0.9, high=1.1)
    assert msgspec.structs.astuple(found.recall_k) == pytest.approx((1.001, 0.9009, 1.1011))


def test_a_served_catalogue_has_recall_by_users_and_the_paired_change_of_ndcg():
    rows = pd.DataFrame(
        {
            "user": range(4),
            "recall": np.array([1.0, 0.9, 1.0, 0.9], np.float32),
            "rank": [1.0, np.inf, 3.0, 20.0],
            "exact_rank": [1.0, 3.0, 3.0, 12.0],
        }
    )
    found = analysis.served(rows, items=77)
    assert (found.items, found.users) == (77, 4)
    assert found.recall.estimate == pytest.approx(0.95)
    assert found.recall.low < 0.95 < found.recall.high
    assert found.ndcg.base == pytest.approx((1 + 0.5 + 0.5) / 4)
    assert found.ndcg.change == pytest.approx(-0.5 / 4)


def test_the_findings_are_read_with_their_intervals():
    speed = FINDINGS["recall_99"](result())[DEFAULT_DATASET]
    assert msgspec.structs.astuple(speed) == pytest.approx((20.0, 18.0, 22.0))
    assert FINDINGS["recall_999"](result())[DEFAULT_DATASET] == Interval(9, 8, 11)
    recall = FINDINGS["recall_second"](result())
    assert list(recall) == [DEFAULT_DATASET, SECOND_DATASET]
    assert recall[SECOND_DATASET] == Interval(0.98, 0.975, 0.985)
    change = FINDINGS["end_task"](result())[SECOND_DATASET]
    assert msgspec.structs.astuple(change) == pytest.approx((-0.01, -0.02, 0.0))


@pytest.mark.parametrize("changes", [{"n_items": 9_066}, {"d": 32}, {"dataset": "ml-20m"}])
def test_a_run_of_another_size_has_no_findings(changes):
    assert [read(result(**changes)) for read in FINDINGS.values()] == [None] * 4


def test_findings_on_two_data_sets_need_both():
    first = dict(list(result().served.items())[:1])
    for name in ("recall_second", "end_task"):
        assert FINDINGS[name](result(served=first)) is None


def test_a_result_survives_its_record():
    found = result()
    assert msgspec.json.decode(msgspec.json.encode(found), type=AnnResult) == found


def test_the_chapter_searches_items_of_the_generator_that_chapter_05_recommends():
    folders = layout()
    notebook = nbformat.read(folders.notebooks / "04_ann.ipynb", as_version=4)
    chosen = read_parameters(notebook, "04_ann")["generator"].default
    judged = json.loads((folders.root / "book/results/05_scaleup/result.json").read_text())
    assert chosen == judged["result"]["recommended_generator"]
