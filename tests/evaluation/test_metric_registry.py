"""Metrics by hand, by property and against ranx (3 s)."""

import doctest

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanorecsys.data import Histories
from nanorecsys.evaluation import (
    METRICS,
    EvaluationError,
    bootstrap,
    evaluate,
    mean_interval,
    metrics,
    paired_change,
    protocols,
    ranking,
    value,
    values,
)
from nanorecsys.evaluation.metrics import example

numba.config.DISABLE_JIT = (
    True  # before ranx is imported: compiling it takes half a minute, running it no time
)
import ranx  # noqa: E402


@pytest.mark.parametrize("module", [bootstrap, metrics, protocols, ranking])
def test_documented_examples(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_documents_its_formula_with_an_example(metric):
    assert ">>>" in metric.__doc__


def test_by_hand():
    found = example([3], [1, 12], [11.5])  # three users, four targets
    assert value(found, "hitrate@10") == pytest.approx(2 / 3)
    assert value(found, "hitrate@20") == 1
    assert value(found, "mrr@10") == pytest.approx((1 / 3 + 1 + 0) / 3)
    ideal_of_two = 1 + 1 / np.log2(3)
    assert value(found, "ndcg@10") == pytest.approx((1 / np.log2(4) + 1 / ideal_of_two + 0) / 3)
    late = (1 + 1 / np.log2(13)) / ideal_of_two
    assert value(found, "ndcg@20") == pytest.approx((1 / np.log2(4) + late + 1 / np.log2(12.5)) / 3)


@given(
    st.lists(st.lists(st.integers(2, 400), min_size=1, max_size=30), min_size=1, max_size=8),
    st.integers(1, 100),
)
def test_every_metric_is_between_zero_and_one(doubled_ranks, k):
    ranks = [[rank / 2 for rank in row] for row in doubled_ranks]
    found = example(*ranks)
    for name in METRICS:
        assert 0 <= value(found, f"{name}@{k}") <= 1


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_perfect_order_is_one_and_a_hopeless_one_is_zero(n_targets):
    perfect = example(*[list(range(1, n + 1)) for n in n_targets])
    hopeless = example(*[[1000.0] * n for n in n_targets])
    for name in METRICS:
        assert value(perfect, f"{name}@5") == pytest.approx(1)
        assert value(hopeless, f"{name}@5") == 0


def test_agrees_with_ranx():
    rng = np.random.default_rng(0)
    n_users, n_items = 40, 60
    scores = np.argsort(np.argsort(rng.random((n_users, n_items)), axis=1), axis=1).astype(
        np.float32
    )
    scores += 1  # ranx takes a score of 0 for absent
    roles = rng.choice(3, scores.shape, p=[0.08, 0.2, 0.72])
    roles[:, 0] = 0
    csr = {
        name: Histories(
            np.concatenate([[0], np.cumsum((roles == role).sum(axis=1))]),
            np.nonzero(roles == role)[1].astype(np.int32),
        )
        for name, role in (("targets", 0), ("seen", 1))
    }
    found = evaluate(lambda users: scores[users].copy(), csr["targets"], csr["seen"], n_items)
    qrels = ranx.Qrels(
        {f"u{u}": {f"i{i}": 1 for i in np.flatnonzero(roles[u] == 0)} for u in range(n_users)}
    )
    run = ranx.Run(
        {
            f"u{u}": {f"i{i}": float(scores[u, i]) for i in np.flatnonzero(roles[u] != 1)}
            for u in range(n_users)
        }
    )
    ours = [f"{name}@{k}" for name in ("hitrate", "ndcg", "mrr") for k in (1, 10, 20, 50)]
    theirs = ranx.evaluate(qrels, run, [name.replace("hitrate", "hit_rate") for name in ours])
    for name in ours:
        assert value(found, name) == pytest.approx(
            theirs[name.replace("hitrate", "hit_rate")], abs=1e-6
        ), name


def test_paired_intervals_are_narrower():
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 40, 300)
    found = example(*[[rank] for rank in ranks])
    better = example(*[[max(1, rank - 2)] for rank in ranks])
    plain = mean_interval(values(found, "ndcg@10"))
    paired = paired_change(values(found, "ndcg@10"), values(better, "ndcg@10"))
    assert plain.estimate == pytest.approx(value(found, "ndcg@10"))
    assert plain.low < plain.estimate < plain.high
    assert 0 < paired.low < paired.change < paired.high
    assert paired.high - paired.low < plain.high - plain.low


def test_bad_names_are_refused():
    found = example([1], [30])
    for name in ("ndcg", "ndcg@", "ndcg@0", "ndcg@x", "recall@10"):
        with pytest.raises(EvaluationError, match="no metric is called"):
            values(found, name)
