"""The chapter's rules on made-up rows. Below a second."""

from types import SimpleNamespace

import pandas as pd
import pytest

from nanorecsys.data.registry import DEFAULT_DATASET, SECOND_DATASET
from nanorecsys.scaleup import analysis
from nanorecsys.scaleup.chapter import FINDINGS, estimate
from nanorecsys.study.spread import Interval, Spread


def row(n=1000, factory="IVF16,SQ8", family="IVF, SQ8", p50=1.0, low=0.96, size=260.0):
    values = {"generator": "local", "n": n, "factory": factory, "family": family}
    values |= {"search": "nprobe=4", "recall": low + 0.01, "recall_low": low}
    return values | {"p50_ms": p50, "bytes_a_vector": size}


def test_the_best_index_passes_floor_and_bound():
    flat = row(factory="Flat", p50=9.0, low=1.0, size=1024.0)
    slow, large, blunt = (
        row(p50=2.0, size=660.0),
        row(p50=0.1, size=670.0),
        row(p50=0.05, low=0.945),
    )
    rows = pd.DataFrame([flat, slow, large, blunt])
    assert blunt["recall"] > 0.95  # its mean passes, the lower end of its interval does not
    assert analysis.best_index(rows, 0.95, 256)["p50_ms"] == 2.0
    rows = pd.DataFrame([flat, blunt, row(low=0.8)])
    assert analysis.best_index(rows, 0.95, 256)["recall_low"] == 0.945


def test_estimates_grow_with_the_catalogue_and_fit_the_machine():
    small, large = (estimate({"n_items": n, "indexes": ["a", "b"]}) for n in (300_000, 3_000_000))
    assert small.disk_gib < large.disk_gib
    assert small.memory_gib < large.memory_gib <= 14
    assert large.memory_gib > 3 * 3_000_000 * 1024 / 2**30  # LoRANN holds the vectors so often


def test_points_of_another_recall_are_not_compared():
    rows = pd.DataFrame({"recall": [0.962, 0.965, 0.968, 0.99]})
    assert analysis.equal_recall(rows).tolist() == [True, True, True, False]


def record(**changes):
    """A result of the study's size: 400 times as fast as Flat, fidelity .02 and .04."""
    worst = {
        SECOND_DATASET: Interval(0.04, 0.031, 0.05),
        DEFAULT_DATASET: Interval(0.02, 0.01, 0.029),
    }
    by_set = {name: SimpleNamespace(worst=own) for name, own in worst.items()}
    best = SimpleNamespace(
        family="IVF, SQ8", recall_low=0.951, p50_ms=Spread(middle=0.5, low=0.4, high=0.8)
    )
    values = {
        "dataset": DEFAULT_DATASET,
        "n_items": 3_000_000,
        "d": 256,
        "k": 10,
        "recall_floor": 0.95,
        "generator": "local",
        "recommended_generator": "local",
        "families": ["IVF, SQ8"],
        "judged": [SimpleNamespace(generator="local", by_set=by_set)],
        "best": best,
        "flat": SimpleNamespace(p50_ms=Spread(middle=200.0, low=180.0, high=240.0)),
        "speedup": 400.0,
        "memory_share": 0.65,
        "memory_bound": 0.65,
    }
    return SimpleNamespace(**values | changes)


def test_the_speed_ranges_over_rounds_of_both_sides():
    (times,) = FINDINGS["speed"](record()).values()
    assert (times.estimate, times.low, times.high) == pytest.approx((400, 225, 600))


def test_an_index_whose_lower_end_misses_the_floor_has_no_speed():
    short = SimpleNamespace(**vars(record().best) | {"recall_low": 0.949})
    assert FINDINGS["speed"](record(best=short)) == {DEFAULT_DATASET: Interval(0.0, 0.0, 0.0)}


def test_an_index_above_the_memory_bound_has_no_speed():
    assert FINDINGS["speed"](record(memory_share=0.651)) == {
        DEFAULT_DATASET: Interval(0.0, 0.0, 0.0)
    }


def test_fidelity_is_the_worst_case_of_each_data_set():
    found = FINDINGS["fidelity"](record())
    assert list(found) == [DEFAULT_DATASET, SECOND_DATASET]  # a record sorts its keys
    assert list(found.values()) == [Interval(0.02, 0.01, 0.029), Interval(0.04, 0.031, 0.05)]
    judged = record().judged
    judged[0].by_set["own"] = judged[0].by_set.pop(SECOND_DATASET)
    assert FINDINGS["fidelity"](record(judged=judged)) is None


@pytest.mark.parametrize(
    "change",
    [
        *({"n_items": 300_000}, {"d": 32}, {"generator": "independent"}, {"recall_floor": 0.9}),
        {"dataset": "own"},
    ],
)
def test_another_size_is_not_judged(change):
    assert [read(record(**change)) for read in FINDINGS.values()] == [None, None]


def test_fidelity_needs_the_family_that_wins():
    assert FINDINGS["fidelity"](record(families=["HNSW"])) is None
    assert FINDINGS["speed"](record(families=["HNSW"])) is not None
