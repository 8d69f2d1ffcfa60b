"""Bootstrapped users and the mix in which they ask. 3 s."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanorecsys.data import Histories
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.population import Workload, bootstrap_histories


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


def test_lengths_are_distributed_as_the_real_ones(real: Histories, many: Histories) -> None:
    drawn = many.lengths[40:]
    assert set(drawn.tolist()) <= set(real.lengths.tolist())
    at = np.unique(real.lengths)
    far = np.abs((drawn[:, None] <= at).mean(0) - (real.lengths[:, None] <= at).mean(0))
    assert far.max() < 0.03  # 1.6 / sqrt(4960) is the 99 % bound


def test_items_are_a_stretch_of_a_real_history_in_its_order(
    real: Histories, many: Histories
) -> None:
    known = lists(real)
    for items in lists(many)[40::97]:
        stretches = (k[i : i + len(items)] for k in known for i in range(len(k) - len(items) + 1))
        assert items in stretches


def test_short_histories_give_as_many_users_as_asked_for() -> None:
    many = bootstrap_histories(histories([[1, 2], [3]]), 300, seed=0)
    assert {tuple(items) for items in lists(many)} == {(1, 2), (1,), (2,), (3,)}
    assert len(many.lengths) == 300


def test_the_seed_decides_the_users(real: Histories, many: Histories) -> None:
    same, other = bootstrap_histories(real, 5000, seed=1), bootstrap_histories(real, 5000, seed=2)
    assert np.array_equal(many.items, same.items)
    assert lists(many)[40:60] != lists(other)[40:60]


def test_empty_histories_are_not_drawn() -> None:
    many = bootstrap_histories(histories([[], [1, 2, 3, 4, 5, 6, 7]]), 50, seed=0)
    assert (many.lengths[1:] == 7).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(0, 300))
def test_cold_users_come_once_and_hot_ones_from_the_hot_set(
    seed: int, cold_share: float, n: int
) -> None:
    workload = Workload(500, hot_users=20, cold_share=cold_share, seed=seed)
    users, hot = workload.draw(n)
    cold = users[~hot].tolist()
    assert len(set(cold)) == len(cold)
    assert not set(cold) & set(workload.hot.tolist())
    assert set(users[hot].tolist()) <= set(workload.hot.tolist())
    assert (users.dtype, hot.dtype, len(users)) == (np.int32, bool, n)


def test_a_draw_continues_where_the_last_one_stopped() -> None:
    workload = Workload(1000, hot_users=100, cold_share=0.5, seed=4)
    seen, cold_used = [], 0
    for _ in range(5):
        users, hot = workload.draw(200, cold_used)
        seen += users[~hot].tolist()
        cold_used += int((~hot).sum())
    assert len(set(seen)) == len(seen) == cold_used > 400


def test_the_permutation_starts_again_after_its_end() -> None:
    workload = Workload(100, hot_users=10, cold_share=1.0)
    assert np.array_equal(workload.draw(50, cold_used=90)[0], workload.draw(50)[0])
    longer, _ = workload.draw(200)
    assert np.array_equal(longer[:90], longer[90:180])


def test_shares_are_as_asked_for() -> None:
    users, hot = Workload(100_000, hot_users=50, cold_share=0.3, seed=2).draw(20_000)
    assert abs((~hot).mean() - 0.3) < 0.015  # 4.6 standard errors
    counts = np.bincount(users[hot])
    counts = counts[counts > 0]
    assert len(counts) == 50
    assert counts.min() > 0.7 * counts.mean()  # uniform: one standard deviation is 6 %


@pytest.mark.parametrize(("n_users", "hot_users"), [(671, 84), (10, 2), (2, 1)])
def test_the_hot_set_follows_the_number_of_users(n_users: int, hot_users: int) -> None:
    workload = Workload(n_users, hot_users=1000, cold_share=0.3)
    assert workload.hot_users == hot_users


def test_cold_users_alone_need_no_hot_set() -> None:
    users, hot = Workload(30, hot_users=0, cold_share=1.0).draw(30)
    assert sorted(users.tolist()) == list(range(30))
    assert not hot.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cold_share": 1.5}, "got a share of 1.5"),
        ({"cold_share": 0.3, "hot_users": 0}, "0 hot of 10 users"),
        ({"cold_share": 0.3, "n_users": 1}, "1 hot of 1 users"),
    ],
)
def test_a_bad_mix_is_an_error(arguments: dict, message: str) -> None:
    with pytest.raises(LoadTestError, match=message):
        Workload(**{"n_users": 10, "hot_users": 5} | arguments)
