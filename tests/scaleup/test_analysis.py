"""The chapter's rules on made-up rows. Below a second."""

import msgspec
import pandas as pd
import pytest

from nanorecsys.scaleup import analysis
from nanorecsys.scaleup.chapter import CLAIMS, estimate


def row(n=1000, factory="IVF16,SQ8", family="IVF, SQ8", p50=1.0, recall=0.97, size=260.0, **more):
    values = {"generator": "local", "n": n, "factory": factory, "family": family}
    values |= {"search": "nprobe=4", "recall": recall, "p50_ms": p50, "bytes_a_vector": size}
    return values | more


def test_the_best_index_passes_floor_and_bound():
    flat = row(factory="Flat", p50=9.0, recall=1.0, size=1024.0)
    slow, large, blunt = row(p50=2.0), row(p50=0.1, size=1168.0), row(p50=0.05, recall=0.9)
    rows = pd.DataFrame([flat, slow, large, blunt])
    assert analysis.best_index(rows, 0.95, 256)["p50_ms"] == 2.0
    rows = pd.DataFrame([flat, blunt, row(recall=0.8)])
    assert analysis.best_index(rows, 0.95, 256)["recall"] == 0.9


def test_laws_are_fitted_on_the_fastest_indexes_that_reach_the_floor():
    rows = [row(n=n, p50=0.001 * n**0.5) for n in (1000, 10_000, 100_000)]
    others = [row(n=10, p50=99.0, recall=0.5), row(n=1000, p50=50.0), row(family="HNSW")]
    law = analysis.growth(pd.DataFrame(rows + others), 0.95)
    assert law["family"].tolist() == ["IVF, SQ8"]
    assert law["power"].tolist() == pytest.approx([0.5])
    assert law["factor"].tolist() == pytest.approx([0.001])
    assert law["points"].tolist() == [3]
    assert analysis.growth(pd.DataFrame([row()]), 0.95).empty


def test_the_build_time_of_a_graph_is_expected_from_the_largest_so_far():
    assert analysis.expected_graph_seconds({}, 10**9) == 0
    assert 10 < analysis.expected_graph_seconds({1000: 1.0}, 10_000) < 20
    assert analysis.expected_graph_seconds({10: 9.0, 1000: 1.0}, 1000) == 1


def test_the_same_setting_is_looked_up_elsewhere():
    rows = [row(), row(factory="Flat", search=""), row(factory="HNSW8")]
    recalls = [("IVF16,SQ8", "nprobe=4", 0.5), ("IVF16,SQ8", "nprobe=8", 0.6), ("Flat", "", 1.0)]
    other = pd.DataFrame(recalls, columns=["factory", "search", "recall"])
    moved = analysis.moved_settings(pd.DataFrame(rows), other)
    assert moved.to_dict("records") == [
        {
            "generator": "local",
            "n": 1000,
            "factory": "IVF16,SQ8",
            "search": "nprobe=4",
            "promised": 0.97,
            "found": 0.5,
        }
    ]


def test_estimates_grow_with_the_catalogue_and_flat_is_mapped_where_it_must_be():
    parameters = {"n_items": 3_000_000, "memory_gib": 8.0}
    parameters |= {"indexes_tried": ["a"], "curve_indexes": ["b"]}
    small = estimate(parameters | {"n_items": 300_000})
    large = estimate(parameters)
    mapped = estimate(parameters | {"memory_gib": 1.0})
    assert small.disk_gib < large.disk_gib
    assert mapped.memory_gib < large.memory_gib <= 14
    assert large.memory_gib > 3_000_000 * 1024 / 2**30


def test_claims_on_speed_need_the_studys_size():
    assert [c.id for c in CLAIMS] == ["scaleup.speed", "scaleup.memory", "scaleup.fidelity"]

    class Small(msgspec.Struct):
        n_items: int = 300_000
        d: int = 256
        generator: str = "local"
        recommended_generator: str = "local"

    assert CLAIMS[0].value(Small()) is None
