"""Ranks, the tie rule, lists and bad input of `evaluate` (2 s)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.data import Histories
from nanorecsys.evaluation import (
    DotProduct,
    EvaluationError,
    evaluate,
    ranking,
)


def csr(rows: list[list[int]]) -> Histories:
    return Histories(
        np.cumsum([0, *map(len, rows)]), np.array([i for row in rows for i in row], np.int32)
    )


def scorer(scores: np.ndarray):
    scores = np.asarray(scores, np.float32)
    return lambda users: scores[users]


@st.composite
def problems(draw):
    """Integer scores (many ties), seen items and at least one target."""
    n_users, n_items = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    scores = [
        draw(st.lists(st.integers(-3, 3), min_size=n_items, max_size=n_items))
        for _ in range(n_users)
    ]
    roles = [
        draw(st.lists(st.sampled_from("tsn"), min_size=n_items, max_size=n_items))
        for _ in range(n_users)
    ]
    roles[draw(st.integers(0, n_users - 1))][0] = "t"
    targets = [[i for i, role in enumerate(row) if role == "t"] for row in roles]
    seen = [[i for i, role in enumerate(row) if role == "s"] for row in roles]
    return np.array(scores, np.float32), targets, seen


def expected(scores, targets, seen, k):
    """The definition, one user and one target at a time."""
    ranks, lists = [], []
    for row, wanted, removed in zip(scores, targets, seen, strict=True):
        candidates = [i for i in range(len(row)) if i not in removed]
        for item in wanted:
            higher = sum(row[i] > row[item] for i in candidates)
            same = sum(row[i] == row[item] for i in candidates)
            ranks.append(1 + higher + (same - 1) / 2)
        if wanted:
            best = sorted(candidates, key=lambda i: (-row[i], i))[:k]
            lists.append(best + [-1] * (k - len(best)))
    return ranks, lists


@settings(deadline=None)
@given(problems(), st.integers(1, 9))
def test_ranks_and_lists_are_those_of_the_definition(problem, k):
    scores, targets, seen = problem
    k = min(k, scores.shape[1])
    found = evaluate(scorer(scores), csr(targets), csr(seen), scores.shape[1], k_max=k)
    ranks, lists = expected(scores, targets, seen, k)
    assert found.rank.tolist() == ranks
    assert found.top.tolist() == lists
    assert found.rank_rows().shape == (len(ranks), 3)


@settings(deadline=None)
@given(problems(), st.sampled_from([lambda s: 3 * s - 7, lambda s: s**3 + s, np.exp]))
def test_a_monotone_transform_of_the_scores_changes_nothing(problem, transform):
    scores, targets, seen = problem
    one = evaluate(scorer(scores), csr(targets), csr(seen), scores.shape[1])
    other = evaluate(scorer(transform(scores)), csr(targets), csr(seen), scores.shape[1])
    assert np.array_equal(one.rank, other.rank)
    assert np.array_equal(one.top, other.top)


@settings(deadline=None)
@given(problems(), st.randoms())
def test_renumbering_the_items_keeps_the_ranks(problem, random):
    scores, targets, seen = problem
    new = list(range(scores.shape[1]))
    random.shuffle(new)
    renumbered = np.empty_like(scores)
    renumbered[:, new] = scores
    one = evaluate(scorer(scores), csr(targets), csr(seen), scores.shape[1])
    other = evaluate(
        scorer(renumbered),
        csr([[new[i] for i in row] for row in targets]),
        csr([[new[i] for i in row] for row in seen]),
        scores.shape[1],
    )
    assert np.array_equal(one.rank, other.rank)


def test_constant_scores_give_the_middle_rank_of_the_candidates():
    targets, seen = csr([[0], [7, 8]]), csr([[], [1, 2, 3]])
    found = evaluate(scorer(np.zeros((2, 101))), targets, seen, 101)
    assert found.rank.tolist() == [51.0, 49.5, 49.5]  # (101 + 1) / 2, (98 + 1) / 2


def test_small_blocks_give_the_same_rows(monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 20, (50, 30))
    roles = rng.choice(3, scores.shape, p=[0.1, 0.3, 0.6])
    targets = csr([np.flatnonzero(row == 0).tolist() for row in roles])
    seen = csr([np.flatnonzero(row == 1).tolist() for row in roles])
    one = evaluate(scorer(scores), targets, seen, 30, k_max=5)
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 4 * 30 * 3)  # three users a block
    other = evaluate(scorer(scores), targets, seen, 30, k_max=5)
    for name in ("users", "target_row", "target_item", "rank", "top"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_only_users_with_targets_are_scored():
    asked = []

    def score(users):
        asked.extend(users.tolist())
        return np.zeros((len(users), 4), np.float32)

    found = evaluate(score, csr([[], [1], [], [2, 3]]), csr([[0], [], [], []]), 4)
    assert asked == found.users.tolist() == [1, 3]
    assert found.rank_rows()["user"].tolist() == [1, 3, 3]


def test_restricting_the_targets_leaves_their_users_and_lists():
    scores = np.random.default_rng(0).random((3, 9))
    found = evaluate(scorer(scores), csr([[0, 5], [5], [2, 5]]), csr([[], [], []]), 9, k_max=2)
    rest = found.restricted(found.target_item != 5)
    direct = evaluate(scorer(scores), csr([[0], [], [2]]), csr([[], [], []]), 9, k_max=2)
    for name in ("users", "target_row", "target_item", "rank", "top"):
        assert np.array_equal(getattr(rest, name), getattr(direct, name)), name


def test_dot_product_scores_are_the_products():
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((5, 3), np.float32), rng.standard_normal((7, 3), np.float32)
    np.testing.assert_allclose(
        DotProduct(users, items)(np.array([4, 1])), users[[4, 1]] @ items.T, rtol=1e-6
    )


def test_a_catalogue_of_one_item_is_ranked_first():
    found = evaluate(scorer([[0.0]]), csr([[0]]), csr([[]]), 1)
    assert found.rank.tolist() == [1.0]
    assert found.top.tolist() == [[0]]


def test_a_scorer_may_return_read_only_scores():
    shares = np.arange(4, dtype=np.float32)
    found = evaluate(
        lambda users: np.broadcast_to(shares, (len(users), 4)), csr([[2]]), csr([[3]]), 4
    )
    assert found.rank.tolist() == [1.0]
    assert shares.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", [0, 3])  # a seen item's score counts as well
def test_scores_that_are_not_finite_are_refused(bad, item):
    scores = np.zeros((2, 4), np.float32)
    scores[1, item] = bad
    with pytest.raises(EvaluationError, match="the first for user 1"):
        evaluate(scorer(scores), csr([[1], [1]]), csr([[0], [0]]), 4)


@pytest.mark.parametrize(
    ("seen", "n_scores", "message"),
    [([[1]], 4, "among its user's seen items"), ([[]], 5, "must return float32")],
)
def test_bad_input_is_refused(seen, n_scores, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(scorer(np.zeros((1, n_scores))), csr([[1]]), csr(seen), 4)


def test_scores_of_another_dtype_are_refused():
    with pytest.raises(EvaluationError, match="float64"):
        evaluate(lambda users: np.zeros((1, 4)), csr([[1]]), csr([[]]), 4)
