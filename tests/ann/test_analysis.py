"""The front, the rule, and the sentences for either outcome. 2 s."""

import msgspec
import numpy as np
import polars as pl
import pytest

from nanorecsys.ann import analysis, chapter, figures
from nanorecsys.ann.limits import Bandwidth, Limits
from nanorecsys.ann.result import (
    AnnResult,
    Build,
    Confirmed,
    Difference,
    Failure,
    Operating,
    Recommended,
    Spread,
)
from nanorecsys.ann.specs import FAMILIES
from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.study import plots
from nanorecsys.study.claims import judge

FLOOR, BOUND = 0.99, 1500.0


def spread(middle):
    return Spread(middle=middle, low=0.9 * middle, high=1.1 * middle)


def point(
    factory="Flat", search="", recall=1.0, p50=1.0, p99=None, size=1024.0, read=None, family="Flat"
):
    return Operating(
        factory=factory,
        family=family,
        search=search,
        recall_10=recall,
        recall_k=recall,
        worst_decile=recall,
        p50_ms=spread(p50),
        p99_ms=spread(p99 or 2 * p50),
        batch_32_ms=p50,
        batch_1000_ms=p50 / 2,
        queries_per_s=2000.0,
        hitrate=0.1,
        ndcg=0.05,
        bytes_a_vector=size,
        read_mib=read,
        floor_ms=p50 / 2 if read else None,
        on_front=False,
    )


def confirmed(factory="Flat", search="", recall=1.0, p50=1.0, p99=None, size=1024.0, flat=1.0):
    return Confirmed(
        factory=factory,
        family="any",
        search=search,
        recall_k=recall,
        bytes_a_vector=size,
        p50_ms=spread(p50),
        p99_ms=spread(p99 or 2 * p50),
        times_flat=flat / p50,
    )


def result(
    chosen="IVF256,SQ8",
    times=16.0,
    saved=1.5,
    ndcg=(0.0, -0.001, 0.001),
    tenth=0.1,
    missing=(),
    other=0.1,
    failures=(),
):
    flat, own = saved * times / (times - 1), saved / (times - 1)
    change = Difference(estimate=ndcg[0], low=ndcg[1], high=ndcg[2])
    none = Difference(estimate=0.0, low=0.0, high=0.0)
    fast = confirmed(chosen, "nprobe=32", 0.993, own, flat=flat)
    best = [
        point("Flat", p50=flat, read=26.0),
        point("HNSW32", "efSearch=128", 0.995, 0.2, family="HNSW"),
        point("usearch:M16", "ef=128", 0.995, other, family="usearch"),
    ]
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
        families=list(FAMILIES),
        families_missing=list(missing),
        whole_table=True,
        points=3,
        builds=[
            Build(
                factory="Flat",
                family="Flat",
                build_s=0.1,
                save_s=0.1,
                load_ms=1.0,
                bytes_a_vector=1024.0,
                peak_rss_mib=30.0,
            )
        ],
        best=best,
        front=best[:1],
        failures=list(failures),
        limits=Limits(
            bandwidth=[
                Bandwidth(working_set_mib=1, gb_per_s=60.0),
                Bandwidth(working_set_mib=256, gb_per_s=15.0),
            ],
            gemm_gflops={"1": 70.0, "2": 130.0},
        ),
        flat_p50_ms=spread(flat),
        flat_p99_ms=spread(2 * flat),
        tenth_p50_ms=tenth,
        confirmed=[confirmed(p50=flat, flat=flat), fast],
        fastest={"0.99": fast, "0.999": fast},
        recommended=Recommended(
            factory=chosen,
            family="any",
            search="" if chosen == "Flat" else "nprobe=32",
            recall_10=1.0,
            recall_k=0.993,
            worst_decile=0.98,
            p50_ms=spread(own),
            p99_ms=spread(2 * own),
            times_flat=times,
            saved_ms=saved,
            bytes_a_vector=273.0,
            build_s=2.0,
            hitrate_change=none,
            ndcg_change=change,
        ),
        seconds=100.0,
        seconds_limit=120.0,
    )


def test_parts_are_differences_of_medians_from_the_whole_inwards():
    rows = pl.DataFrame(
        [
            (point, adds, ns)
            for point, medians in ((3, (90_000, 50_000, 20_000)), (4, (10_000, 9_000, 8_000)))
            for adds, median in zip(
                ("refinement", "further lists", "centroids"), medians, strict=True
            )
            for ns in (median, median // 2, median * 9)
        ],
        schema=["point", "adds", "ns"],
        orient="row",
    )
    found = analysis.parts(rows, 3)
    assert list(found) == ["refinement", "further lists", "centroids"]
    assert list(found.values()) == pytest.approx([0.04, 0.03, 0.02])


def test_the_page_says_what_of_the_time_no_narrower_search_would_save():
    found = result()
    assert "no" in analysis.story(found)["parts_sentence"].lower()
    fast = msgspec.structs.replace(
        found.fastest["0.99"],
        parts_ms={"refinement": 0.03, "further lists": 0.02, "centroids": 0.05},
    )
    found = msgspec.structs.replace(
        found, fastest={"0.99": fast, "0.999": fast}, flat_p50_ms=spread(1.0)
    )
    assert analysis.story(found)["parts_sentence"] == (
        "Of the 100 µs of IVF256,SQ8 with nprobe=32, 50 are spent however narrow the search is: at 20 times as fast "
        "as Flat nothing is left for it."
    )
    assert not figures.parts([], 1.0, "title").legends
    (axis,) = figures.parts([fast], 1.0, "title").axes
    assert sum(bar.get_width() for bar in axis.patches) == pytest.approx(100)


def test_names_in_a_figure_cover_no_name_and_no_point():
    rng = np.random.default_rng(0)
    points = [(*10 ** rng.uniform(-1, 1, 2), f"IVF{i},PQ64x4fs,RFlat") for i in range(40)]
    figure, (axis,) = plots.axes()
    axis.loglog([x for x, *_ in points], [y for _, y, _ in points], "o", label="points")
    axis.set(title="title", xlabel="x", ylabel="y")
    axis.legend()
    figures.label_places(axis, points)
    figure.draw_without_rendering()
    names = [text.get_window_extent() for text in axis.texts]
    assert 10 < len(names) < len(points)
    places = axis.transData.transform([point[:2] for point in points])
    for i, name in enumerate(names):
        assert not name.count_overlaps([*names[:i], axis.get_legend().get_window_extent()])
        assert not any(name.contains(*place) for place in places)
        assert axis.bbox.x0 <= name.x0 < name.x1 <= axis.bbox.x1


def test_the_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(0)
    recall, latency = rng.random(200).round(2), rng.random(200).round(2)
    for on, r, t in zip(analysis.pareto(recall, latency), recall, latency, strict=True):
        beaten = ((recall >= r) & (latency <= t) & ((recall > r) | (latency < t))).any()
        assert not (on and beaten)
    front = {
        (r, t)
        for on, r, t in zip(analysis.pareto(recall, latency), recall, latency, strict=True)
        if on
    }
    unbeaten = {
        (r, t)
        for r, t in zip(recall, latency, strict=True)
        if not ((recall >= r) & (latency <= t) & ((recall > r) | (latency < t))).any()
    }
    assert front == unbeaten


def test_the_rule_takes_the_lowest_p99_within_floor_and_bound():
    points = [
        confirmed(),
        confirmed("IVF256,SQ8", "nprobe=16", 0.98, 0.05),
        confirmed("HNSW32", "efSearch=128", 0.995, 0.06, size=1600.0),
        confirmed("usearch:M16", "ef=128", 0.995, 0.04),
        confirmed("NSG32", "search_L=128", 0.995, 0.05),
        confirmed("PQ64x4fs,RFlat", "k_factor_rf=4", 0.992, 0.09, p99=0.5),
        confirmed("IVF256,SQ8", "nprobe=32", 0.992, 0.1, p99=0.2),
    ]
    assert analysis.recommend(points, FLOOR, BOUND).search == "nprobe=32"
    assert analysis.recommend(points, FLOOR, 2000.0).factory == "HNSW32"
    assert analysis.recommend(points, 0.9, BOUND).search == "nprobe=16"
    assert analysis.recommend(points, FLOOR, 100.0).factory == "Flat"


def test_the_fastest_is_looked_for_at_each_recall():
    points = [
        confirmed(),
        confirmed("a", recall=0.99, p50=0.1),
        confirmed("b", recall=0.9995, p50=0.2),
    ]
    assert {r: p.factory for r, p in analysis.fastest(points).items()} == {
        "0.99": "a",
        "0.999": "b",
    }
    assert {p.factory for p in analysis.fastest(points[:1]).values()} == {"Flat"}


def test_finalists_hold_flat_the_rules_choices_and_the_fastest_once_each():
    points = [
        point(),
        point("IVF256,SQ8", "nprobe=1", 0.5, 0.01),
        point("IVF256,SQ8", "nprobe=32", 0.992, 0.1),
        point("usearch:M16", "ef=512", 0.9995, 0.2),
        point("SQ8", "", 0.993, 0.6),
    ]
    chosen = [(p.factory, p.search) for p in analysis.finalists(points, FLOOR, BOUND)]
    assert chosen[0] == ("Flat", "")
    assert set(chosen) == {
        ("Flat", ""),
        ("IVF256,SQ8", "nprobe=32"),
        ("SQ8", ""),
        ("usearch:M16", "ef=512"),
    }
    assert len(chosen) == len(set(chosen))


def test_a_specification_is_shown_at_its_fastest_good_setting_or_its_most_exact():
    points = [
        point("a", "1", 0.5, 0.1),
        point("a", "2", 0.991, 0.3),
        point("a", "3", 0.999, 0.9),
        point("b", "1", 0.6, 0.1),
        point("b", "2", 0.8, 0.2),
    ]
    assert [(p.factory, p.search) for p in analysis.best_of_each(points, FLOOR)] == [
        ("a", "2"),
        ("b", "2"),
    ]


def test_percentiles_are_medians_over_rounds_with_their_range():
    ns = [np.arange(1, 101) * 10_000 * scale for scale in (1, 2, 9)]
    rows = pl.DataFrame(
        {"point": 4, "round": np.repeat([0, 1, 2], 100), "ns": np.concatenate(ns).astype(np.int32)}
    )
    found = analysis.latencies(rows)[4]
    middle = float(np.percentile(ns[1], 50)) / 1e6
    assert found["p50_ms"].middle == pytest.approx(middle)
    assert found["p50_ms"].low == pytest.approx(middle / 2)
    assert found["p50_ms"].high == pytest.approx(middle * 4.5)
    assert found["p99_ms"].middle == pytest.approx(float(np.percentile(ns[1], 99)) / 1e6)


@pytest.mark.parametrize(
    ("ndcg", "told", "verdict"),
    [
        ((0.0, -0.001, 0.001), "does not show", "holds"),
        ((-0.004, -0.007, -0.001), "costs something", "fails"),
        ((0.004, 0.001, 0.007), "ahead of exact search", "fails"),
    ],
)
def test_what_the_end_task_says_follows_the_interval(ndcg, told, verdict):
    found = result(ndcg=ndcg)
    assert told in analysis.story(found)["answer"]
    assert f"{ndcg[0]:+.4f}" in analysis.story(found)["end_task_sentence"]
    assert verdicts(found)["ann.end_task"] == verdict


@pytest.mark.parametrize(
    ("saved", "told", "verdict"),
    [(1.5, "does not hold here", "fails"), (0.7, "less than the millisecond", "holds")],
)
def test_whether_flat_stays_the_default_follows_what_is_saved(saved, told, verdict):
    found = result(saved=saved)
    assert told in analysis.story(found)["flat_sentence"]
    assert verdicts(found)["ann.flat_default"] == verdict


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (21.0, ("holds", "holds", "holds")),
        (16.0, ("holds", "holds", "limited")),
        (9.0, ("fails", "limited", "fails")),
        (3.0, ("fails", "fails", "fails")),
    ],
)
def test_speed_is_judged_against_flat(times, expected):
    found = verdicts(result(times=times))
    assert tuple(found[f"ann.{name}"] for name in ("recall_99", "recall_999", "aim")) == expected


def test_what_was_not_measured_at_the_studys_size_is_not_judged():
    found = msgspec.structs.replace(result(), n_items=9_066, whole_table=False)
    for name in ("recall_99", "recall_999", "aim", "flat_default", "families"):
        assert verdicts(found)[f"ann.{name}"] == "not_run"
    assert verdicts(result(missing=["NSG"]))["ann.families"] == "fails"
    assert verdicts(result())["ann.families"] == "holds"


def test_the_story_says_so_where_flat_is_chosen():
    found = msgspec.structs.replace(
        result(),
        recommended=msgspec.structs.replace(
            result().recommended, factory="Flat", search="", saved_ms=0.0
        ),
    )
    story = analysis.story(found)
    assert "is faster at P99 than Flat" in story["answer"]
    assert "Flat is exact" in story["answer"]
    assert "holds in this run" in story["flat_sentence"]


def test_sentences_on_sizes_and_libraries_follow_the_numbers():
    assert "take Flat and be exact" in analysis.story(result(tenth=0.1))["size_sentence"]
    assert "still more than the recommended" in analysis.story(result(tenth=0.9))["size_sentence"]
    assert analysis.story(result(tenth=None))["size_sentence"].startswith("With ten times as many")
    assert "no longer a choice" in analysis.story(result())["size_sentence"]
    small = msgspec.structs.replace(result(), d=32)
    assert "soon enough" in analysis.story(small)["size_sentence"]
    assert "2.0 times as fast as" in analysis.story(result(other=0.1))["second_opinion_sentence"]
    assert (
        "takes 2.0 times as long as" in analysis.story(result(other=0.4))["second_opinion_sentence"]
    )
    assert "Every specification" in analysis.story(result())["failure_sentence"]
    failed = result(failures=[Failure("PQ7np", "DivisibilityError", "7 parts")])
    assert "1 of them failed" in analysis.story(failed)["failure_sentence"]


def test_a_result_survives_its_record():
    found = result()
    assert msgspec.json.decode(msgspec.json.encode(found), type=AnnResult) == found
    assert chapter.headline(found)[0][1] == "IVF256,SQ8 nprobe=32"


def verdicts(found):
    return {claim.id: claim.verdict for claim in judge("04_ann", chapter.CLAIMS, found)}


def test_the_control_of_a_projection_is_told_beside_it():
    found = result()
    assert analysis.story(found)["projection_sentence"].startswith(
        "No index of this run was fitted on users"
    )
    pair = [point("Users8,PQ8x4fs", "", 0.99, 0.2), point("Items8,PQ8x4fs", "", 0.98, 0.3)]
    told = analysis.story(msgspec.structs.replace(found, best=[*found.best, *pair]))[
        "projection_sentence"
    ]
    assert "Users8,PQ8x4fs reaches a recall of 0.9900 in 0.200 ms" in told
    assert "on items reaches a recall of 0.9800 in 0.300 ms" in told
