"""Exact neighbours, recall and ranks of held-out items against plain loops. 1 s."""

import numpy as np
import pytest

from nanorecsys.ann.exact import (
    Queries,
    exact_neighbours,
    list_lengths,
    seen_share,
    unseen_items,
)
from nanorecsys.data import Histories
from nanorecsys.serving.errors import SpecificationError
from tests.ann.vectors import clustered, unit, users


def brute_recall(vectors, query, answer, k):
    """Recall in double precision, one item at a time."""
    scores = [sum(float(a) * float(b) for a, b in zip(v, query, strict=True)) for v in vectors]
    bar = sorted(scores, reverse=True)[k - 1]
    hits = {i for i in answer[:k] if i >= 0 and scores[i] >= bar - 1e-6}
    return min(len(hits), k) / k


@pytest.fixture(scope="module")
def duplicated():
    """Vectors of which many are copies of others, so that ties straddle every cutoff."""
    base = clustered(60, d=8)
    return base[np.random.default_rng(3).integers(0, 60, 400)]


def test_neighbours_are_those_of_a_full_sort(duplicated):
    queries = users(20, d=8)
    found = exact_neighbours(duplicated, queries, k=30)
    scores = queries @ duplicated.T
    for row, items in enumerate(found.items):
        assert items.tolist() == np.lexsort((np.arange(400), -scores[row]))[:30].tolist()
        assert len(set(items.tolist())) == 30


def test_what_a_query_has_seen_is_no_neighbour_and_no_hit(duplicated):
    queries = users(3, d=8)
    seen = Histories(
        np.array([0, 40, 40, 395]), np.concatenate([np.arange(40), np.arange(395 - 40)])
    )
    exact = exact_neighbours(duplicated, queries, k=10, seen=seen)
    scores = queries @ duplicated.T
    for row, allowed in enumerate([np.arange(40, 400), np.arange(400)]):
        best = allowed[np.lexsort((allowed, -scores[row, allowed]))][:10]
        assert exact.items[row].tolist() == best.tolist()
    answers = np.tile(np.arange(10), (3, 1))
    answers[2] = [355, 356, 357, 358, 359, 0, 1, 2, 3, 4]
    assert exact.recall(answers)[0] == 0  # all of them seen
    assert exact.recall(exact.items)[:2].tolist() == [1, 1]
    few = exact_neighbours(duplicated[:360], queries, k=10, seen=seen)
    assert few.recall(answers)[2] == 0.5  # five there are


def finding(*answers):
    """A search with these answers, padded to the wanted length; a query is its answer's number."""

    def search(queries, k):
        rows = np.full((len(queries), k), -1)
        for row, number in enumerate(queries[:, 0].astype(int)):
            rows[row, : len(answers[number])] = answers[number]
        return None, rows

    return search, np.arange(len(answers), dtype=np.float32)[:, None]


def test_a_search_without_the_seen_keeps_its_order():
    seen = Histories(np.array([0, 2, 2, 5, 205]), np.array([3, 1, 0, 1, 2, *range(50, 250)]))
    search, queries = finding([2, 1, 0], [3, 1, 2, 0], [2, 1, -1, 0], [60, 4, 70, 5, 6])
    found = unseen_items(search, queries, seen, n=1000, cutoff=3)
    assert found.tolist() == [[2, 0, -1], [3, 1, 2], [-1, -1, -1], [4, 5, 6]]


@pytest.mark.parametrize("cutoff", [1, 7, 30])
def test_recall_is_that_of_brute_force_with_ties_and_duplicates(duplicated, cutoff):
    queries = users(20, d=8)
    exact = exact_neighbours(duplicated, queries, k=cutoff)
    rng = np.random.default_rng(0)
    good = exact_neighbours(duplicated, queries, k=30).items.astype(np.int64)
    answers = np.where(rng.random(good.shape) < 0.7, good, rng.integers(-1, 400, good.shape))
    expected = [
        brute_recall(duplicated, q, a, cutoff) for q, a in zip(queries, answers, strict=True)
    ]
    assert exact.recall(answers) == pytest.approx(expected)
    assert 0 < np.mean(expected) < 1


def test_another_copy_of_a_neighbour_is_a_hit_and_a_repeated_one_is_not():
    vectors = unit(np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 1]]))
    exact = exact_neighbours(vectors, vectors[:1], k=2)
    assert exact.recall(np.array([[2, 1]])).tolist() == [1.0]
    assert exact.recall(np.array([[2, 2]])).tolist() == [0.5]
    assert exact.recall(np.array([[2, 4]])).tolist() == [0.5]
    assert exact.recall(np.array([[-1, -1]])).tolist() == [0.0]


def test_all_equal_vectors_make_every_answer_right():
    vectors = np.tile(unit(np.ones((1, 4))), (50, 1))
    exact = exact_neighbours(vectors, vectors[:2], k=5)
    assert exact.recall(np.array([[40, 41, 42, 43, 44], [0, 9, 8, 7, 6]])).tolist() == [1.0, 1.0]


def test_blocks_of_queries_change_nothing(duplicated, monkeypatch):
    # In sixteenths no sum is rounded, so copies tie exactly whatever order a product adds up in.
    duplicated, queries = (np.round(16 * vectors) / 16 for vectors in (duplicated, users(20, d=8)))
    whole = exact_neighbours(duplicated, queries, k=10)
    monkeypatch.setattr("nanorecsys.ann.exact.BLOCK_BYTES", 3 * 4 * len(duplicated))
    parts = exact_neighbours(duplicated, queries, k=10)
    assert np.array_equal(whole.items, parts.items)
    assert np.array_equal(whole.hits, parts.hits)


def test_more_neighbours_than_vectors_is_a_named_error():
    with pytest.raises(SpecificationError, match="51 neighbours asked for among 50"):
        exact_neighbours(clustered(50), users(2), k=51)


def test_ranks_leave_out_what_the_user_has_seen():
    seen = Histories(np.array([0, 2, 2, 3, 4]), np.array([5, 6, 1, 3], np.int32))
    search, vectors = finding([5, 3, 6, 2], [3, 4], [1, 2], [3, 4])
    users, targets = np.arange(4), np.array([2, 4, 9, 4])
    ranks = Queries(users, vectors, seen, targets).ranks(search, n=10)
    assert ranks.tolist() == [2.0, 2.0, np.inf, 1.0]


def test_enough_is_asked_for_to_leave_ten():
    seen = np.array([0, 20, 118, 119, 700])
    lengths = list_lengths(seen, n=100_000)
    assert (lengths >= seen + 10).all()
    assert lengths.tolist() == [128, 128, 128, 256, 1024]


def test_neighbours_that_their_user_has_seen_are_counted_and_those_of_others_are_not():
    rng = np.random.default_rng(0)
    rows = [rng.choice(50, size, replace=False).astype(np.int32) for size in (0, 1, 7, 30, 12)]
    seen = Histories(np.cumsum([0, *map(len, rows)]), np.concatenate(rows))
    users = np.array([4, 1, 3, 0])
    found = np.array(
        [rng.choice(60, 9, replace=False) for _ in users]
    )  # some lie beyond what anybody has seen
    own = np.array(
        [[item in rows[user] for item in line] for user, line in zip(users, found, strict=True)]
    )
    assert 0 < own.mean() < 1
    assert seen_share(found, seen.take(users)) == pytest.approx(own.mean())
