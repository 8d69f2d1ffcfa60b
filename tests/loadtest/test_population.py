"""Bootstrapped users: like the real ones, and no two the same to the model."""

from itertools import pairwise

import numpy as np
import pytest

from nanorecsys.data import Histories
from nanorecsys.loadtest.errors import PopulationError
from nanorecsys.loadtest.population import bootstrap_histories, seen_keys


def histories(lists: list[list[int]]) -> Histories:
    offsets = np.cumsum([0, *map(len, lists)])
    return Histories(offsets, np.array([i for items in lists for i in items], np.int32))


def lists(of: Histories) -> list[list[int]]:
    return [of.items[a:b].tolist() for a, b in zip(of.offsets[:-1], of.offsets[1:], strict=True)]


@pytest.fixture(scope="module")
def real() -> Histories:
    """40 users of 5 to 400 different items."""
    rng = np.random.default_rng(3)
    return histories([rng.permutation(1000)[:n].tolist() for n in rng.integers(5, 400, 40)])


@pytest.fixture(scope="module")
def many(real: Histories) -> Histories:
    return bootstrap_histories(real, 5000, seed=1)


def test_real_users_come_first_and_stay_as_they_are(real: Histories, many: Histories) -> None:
    assert lists(many)[:40] == lists(real)
    assert len(many.lengths) == 5000
    assert (many.items.dtype, many.offsets.dtype) == (np.int32, np.int64)


def test_no_two_users_are_the_same_to_the_model(many: Histories) -> None:
    assert len({tuple(items[-200:]) for items in lists(many)}) == 5000


def test_lengths_are_distributed_as_the_real_ones(real: Histories, many: Histories) -> None:
    drawn = many.lengths[40:]
    assert set(drawn.tolist()) <= set(real.lengths.tolist())
    at = np.unique(real.lengths)
    far = np.abs((drawn[:, None] <= at).mean(0) - (real.lengths[:, None] <= at).mean(0))
    assert far.max() < 0.03  # 1.6 / sqrt(4960) is the 99 % bound


def test_items_are_a_stretch_of_a_real_history(real: Histories, many: Histories) -> None:
    known = lists(real)
    for items in lists(many)[40::97]:
        wanted = sorted(items)
        stretches = (k[i : i + len(items)] for k in known for i in range(len(k) - len(items) + 1))
        assert any(sorted(s) == wanted for s in stretches)


def test_most_stretches_keep_their_order(real: Histories, many: Histories) -> None:
    """Only neighbours change places, and only where users would be the same."""
    follows = {pair for items in lists(real) for pair in pairwise(items)}
    pairs = [pair for items in lists(many)[40:] for pair in pairwise(items)]
    assert np.mean([pair in follows for pair in pairs]) > 0.9


def test_a_seed_gives_the_same_users_and_another_others(real: Histories, many: Histories) -> None:
    again, other = bootstrap_histories(real, 5000, seed=1), bootstrap_histories(real, 5000, seed=2)
    assert np.array_equal(many.items, again.items)
    assert lists(many)[40:60] != lists(other)[40:60]


def test_copies_of_one_history_are_made_distinct() -> None:
    many = bootstrap_histories(histories([[1, 2, 3, 4, 5, 6]]), 300, seed=0)
    assert len({tuple(items) for items in lists(many)}) == 300
    assert all(sorted(items) == [1, 2, 3, 4, 5, 6] for items in lists(many))


def test_histories_that_differ_before_the_window_alone_are_made_distinct_in_it() -> None:
    many = bootstrap_histories(histories([[9, 1, 2, 3, 4], [8, 1, 2, 3, 4]]), 20, seed=0, window=4)
    drawn = {tuple(items[-4:]) for items in lists(many)[2:]}
    assert len(drawn | {(1, 2, 3, 4)}) == 19  # all 18, and the one that both real ones show


def test_keys_are_of_what_the_model_sees() -> None:
    keys = seen_keys(
        histories([[7, 1, 2, 3], [8, 1, 2, 3], [1, 2, 3], [3, 2, 1], [], [2, 3]]),
        np.arange(6),
        window=3,
    )
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys.tolist())) == 4


def test_fewer_users_than_real_ones_are_the_first(real: Histories) -> None:
    assert lists(bootstrap_histories(real, 7, seed=0)) == lists(real)[:7]


def test_empty_histories_are_not_drawn() -> None:
    many = bootstrap_histories(histories([[], [1, 2, 3, 4, 5, 6, 7]]), 50, seed=0)
    assert (many.lengths[1:] == 7).all()


@pytest.mark.parametrize(
    ("items", "n_users", "message"),
    [
        ([[1, 2]], 0, "at least one user"),
        ([[], []], 3, "no user has an event"),
        ([[1, 2]], 4, "too short to differ"),
    ],
)
def test_what_cannot_be_drawn_is_named(items: list[list[int]], n_users: int, message: str) -> None:
    with pytest.raises(PopulationError, match=message):
        bootstrap_histories(histories(items), n_users, seed=0)
