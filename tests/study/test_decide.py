"""The table for someone who has to decide: measured rows as they are, others by the cost model."""

from types import SimpleNamespace as Fake

import pytest

from nanorecsys.evaluation.bootstrap import Change
from nanorecsys.study import decide


def spread(middle):
    return Fake(middle=middle, low=middle - 10, high=middle + 10)


@pytest.fixture
def records():
    best = Fake(family="inverted file", times_flat=Fake(middle=20.0))
    served = {"films": Fake(recall=Fake(estimate=0.992))}
    server = Fake(cpu_ms=Fake(middle=0.5), busy_per_s=spread(3_000))
    large = Fake(cpu_ms=Fake(middle=0.62), busy_per_s=spread(2_500))
    load = Fake(
        n_items=9_000,
        cold_share=0.3,
        busy_cold=Fake(server_cpu_ms=1.2, goodput_per_s=1_200, generator_cpu_ms=0.1),
        served_scale=Fake(
            real=server,
            large=large,
            index=Fake(n=3_000_000, family="graph", recall=0.991),
        ),
    )
    return {
        "04_ann": Fake(result=Fake(recommended=best, served=served, dataset="films")),
        "06_loadtest": Fake(result=load),
    }


def test_rates_follow_from_cpu_time_and_measured_rows_stay(records):
    found = decide.expected(records).set_index(["items", "cold"])
    assert found["requests/s"][9_000, "30%"] == "3,000 (2,990 to 3,010), measured"
    assert found["requests/s"][9_000, "100%"] == "1,200, measured"
    # a millisecond more of CPU for each computed request, 0.2 ms for a cached one
    assert found["CPU ms a request"][9_000, "5%"] == "0.25"
    # the load generator takes its 0.1 ms of each request: 3,000 * 0.6 / 0.35
    assert found["requests/s"][9_000, "5%"] == "5,143, estimated"


def test_what_a_large_catalogue_takes_more_is_spent_in_computed_requests(records):
    found = decide.expected(records).set_index(["items", "cold"])
    assert found["requests/s"][3_000_000, "30%"] == "2,500 (2,490 to 2,510), measured"
    assert found["CPU ms a request"][3_000_000, "30%"] == "0.62"
    # 0.12 ms more at 30 % are 0.4 ms for each computed request
    assert found["CPU ms a request"][3_000_000, "100%"] == "1.60"
    assert found["index"][3_000_000, "100%"] == "graph"
    assert found["recall@100"][9_000, "100%"] == "0.992"


def test_the_verdict_on_the_generator_stands_below_the_tables():
    by_set = {
        "books": Fake(worst=Fake(estimate=0.05, low=0.02, high=0.07)),
        "films": Fake(worst=Fake(estimate=0.101, low=0.08, high=0.12)),
    }
    judged = [Fake(generator="recombined", verdict="not believable", by_set=by_set)]
    found = Fake(dataset="films", generator="recombined", judged=judged, bound=0.03)
    told = decide.large_catalogue({"05_scaleup": Fake(result=found)})
    assert (
        "recombined, is not believable: recall is off by up to 0.10 (0.08 to 0.12); "
        "0.05 (0.02 to 0.07), where 0.03" in told
    )
    assert not decide.large_catalogue({})


def test_without_a_load_test_there_is_no_table(records):
    del records["06_loadtest"]
    assert decide.expected(records).empty


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_both_kinds_of_requests_there_is_no_table(records, share):
    records["06_loadtest"].result.cold_share = share
    assert decide.expected(records).empty


@pytest.mark.parametrize(
    ("base", "told"), [(0.1, "+1.0% (-2.0% to +4.0%)"), (0.0, "not known, nothing found")]
)
def test_a_choice_has_its_relative_cost_where_there_is_one(base, told):
    ndcg = Change(base=base, change=0.001, low=-0.002, high=0.004)
    best = Fake(family="ScaNN", times_flat=Fake(middle=20.0))
    ann = Fake(dataset="films", served={"films": Fake(ndcg=ndcg)}, recommended=best, n_items=9_000)
    assert decide.choices({"04_ann": Fake(result=ann)})["change of NDCG@10"].tolist() == [told]


def test_the_encoder_has_its_factor_for_a_request_beside_that_for_an_encode():
    ndcg = Change(base=0.1, change=0.001, low=-0.002, high=0.004)
    variant = Fake(parity=Fake(ndcg=ndcg))
    exported = Fake(times_torch=Fake(middle=4.0), chosen="int8", variants={"int8": variant})
    exported.dataset, exported.int8_change = "films", {"films": None}
    records = {"03_export": Fake(result=exported)}
    assert decide.choices(records).saves.tolist() == ["4.0x as fast as the best PyTorch"]
    records["06_loadtest"] = Fake(result=Fake(times_baseline=Fake(middle=1.5)))
    [told] = decide.choices(records).saves
    assert told.endswith("PyTorch, which takes 1.5x the CPU time of a whole request")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (9_012_345, "in the process up to 9,000,000 items on a host of 8 GiB, estimated"),
        (None, "in the process; memory sets no limit near 3,000,000 items"),
    ],
)
def test_the_point_of_change_is_told_where_a_milvus_was_measured(items, told):
    limits = [Fake(host_gib=8, items=items), Fake(host_gib=16, items=None)]
    hops = [Fake(n=9_000, exact=False, hop_ms=1.5), Fake(n=9_000, exact=True, hop_ms=7.0)]
    found = Fake(n_items=3_000_000, remote=Fake(limits=limits, hops=hops))
    [row] = decide.choices({"05_scaleup": Fake(result=found)}).to_dict("records")
    assert row["choice"] == told
    assert row["saves"] == "1.5 ms a search of 9,000 items, against Milvus here"
    assert decide.choices({"05_scaleup": Fake(result=Fake(remote=None))}).empty


def test_a_cost_is_told_of_each_data_set_the_first_before_the_others():
    ndcg = [Change(base=0.1, change=c, low=c, high=c) for c in (0.001, -0.002)]
    best = Fake(family="ScaNN", times_flat=Fake(middle=20.0))
    served = {"books": Fake(ndcg=ndcg[1]), "films": Fake(ndcg=ndcg[0])}
    ann = Fake(dataset="films", served=served, recommended=best, n_items=9_000)
    [told] = decide.choices({"04_ann": Fake(result=ann)})["change of NDCG@10"]
    assert told == "+1.0% (+1.0% to +1.0%); -2.0% (-2.0% to -2.0%)"


def test_the_share_of_cached_answers_is_told_beside_the_rate():
    load = Fake(cold_share=0.3, all_cold=Fake(rate=924.4))
    told = decide.cached({"06_loadtest": Fake(result=load)})
    assert "answers of 70% of these" in told
    assert "With new users alone the server keeps 924 a second." in told
    load.all_cold = None
    assert "alone" not in decide.cached({"06_loadtest": Fake(result=load)})
    assert decide.cached({}) == ""
