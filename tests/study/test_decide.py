"""The table for someone who has to decide: measured rows as they are, others by the cost model."""

from types import SimpleNamespace as Fake

import pytest

from nanorecsys.evaluation.bootstrap import Change
from nanorecsys.study import decide


def point(n, p50_ms, recall_low, generator="local"):
    return Fake(
        n=n,
        family=f"family of {p50_ms} ms",
        generator=generator,
        recall=recall_low + 0.01,
        recall_low=recall_low,
        p50_ms=Fake(middle=p50_ms),
    )


@pytest.fixture
def records():
    recommended = Fake(
        family="inverted file", p50_ms=Fake(middle=0.1), recall_k=Fake(estimate=0.992)
    )
    rows = [
        point(3_000_000, 0.5, 0.96),
        point(3_000_000, 0.3, 0.5),  # too low a recall
        point(3_000_000, 0.2, 0.99, "independent"),  # another generator
        point(3_000_000, 9.0, 1.0),
    ]
    load = Fake(
        n_items=9_000,
        cold_share=0.3,
        final=Fake(cpu_ms=Fake(middle=0.5), busy_per_s=Fake(middle=3_000)),
        busy_cold=Fake(server_cpu_ms=1.2, goodput_per_s=1_200),
    )
    return {
        "04_ann": Fake(result=Fake(recommended=recommended, n_items=27_278, k=100)),
        "05_scaleup": Fake(result=Fake(rows=rows, generator="local", recall_floor=0.95, k=10)),
        "06_loadtest": Fake(result=load),
    }


def test_rates_follow_from_cpu_time_and_measured_rows_stay(records):
    found = decide.expected(records).set_index(["items", "cold"])
    assert found["requests/s"][9_000, "30%"] == "3,000, measured"
    assert found["requests/s"][9_000, "100%"] == "1,200, measured"
    # a millisecond more of CPU for each computed request, 0.2 ms for a cached one
    assert found["CPU ms a request"][9_000, "5%"] == "0.25"
    assert found["requests/s"][9_000, "5%"] == "6,000, estimated"
    assert found["CPU ms a request"][3_000_000, "100%"] == "1.60"


def test_each_size_has_the_fastest_index_that_keeps_the_recall(records):
    found = decide.expected(records)
    assert list(found["items"].unique()) == [9_000, 27_278, 3_000_000]
    assert set(found["index"][found["items"] == 3_000_000]) == {"family of 0.5 ms"}


def test_without_a_load_test_there_is_no_table(records):
    del records["06_loadtest"]
    assert decide.expected(records).empty


@pytest.mark.parametrize(
    ("base", "told"), [(0.1, "+1.0% (-2.0% to +4.0%)"), (0.0, "not known, nothing found")]
)
def test_a_choice_has_its_relative_cost_where_there_is_one(base, told):
    ndcg = Change(base=base, change=0.001, low=-0.002, high=0.004)
    best = Fake(family="ScaNN", times_flat=Fake(middle=20.0))
    ann = Fake(dataset="films", served={"films": Fake(ndcg=ndcg)}, recommended=best, n_items=9_000)
    assert decide.choices({"04_ann": Fake(result=ann)})["change of NDCG@10"].tolist() == [told]


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (9_000_000, "in the process up to 9,000,000 items on a host of 8 GiB, estimated"),
        (None, "in the process; memory sets no limit near 3,000,000 items"),
    ],
)
def test_the_point_of_change_is_told_where_a_milvus_was_measured(items, told):
    limits = [Fake(host_gib=8, items=items), Fake(host_gib=16, items=None)]
    hops = [Fake(n=9_000, exact=False, hop_ms=1.5), Fake(n=9_000, exact=True, hop_ms=7.0)]
    found = Fake(n_items=3_000_000, remote=Fake(limits=limits, hops=hops))
    [row] = decide.choices({"05_scaleup": Fake(result=found)}).to_dict("records")
    assert row["choice"] == told
    assert row["saves"] == "1.50 ms a search, at 9,000 items"
    assert decide.choices({"05_scaleup": Fake(result=Fake(remote=None))}).empty
