"""Who asks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanorecsys.loadtest.errors import PopulationError
from nanorecsys.loadtest.workload import Workload


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


def test_draws_go_on_where_the_last_one_stopped() -> None:
    workload = Workload(1000, hot_users=100, cold_share=0.5, seed=4)
    seen, start = [], 0
    for _ in range(5):
        users, hot = workload.draw(200, start)
        seen += users[~hot].tolist()
        start += int((~hot).sum())
    assert len(set(seen)) == len(seen) == start > 400


def test_the_permutation_begins_anew_after_its_end() -> None:
    workload = Workload(100, hot_users=10, cold_share=1.0)
    assert np.array_equal(workload.draw(50, start=90)[0], workload.draw(50, start=0)[0])


def test_shares_are_as_asked_for() -> None:
    users, hot = Workload(100_000, hot_users=50, cold_share=0.3, seed=2).draw(20_000)
    assert abs((~hot).mean() - 0.3) < 0.015  # 4.6 standard errors
    counts = np.bincount(users[hot])
    counts = counts[counts > 0]
    assert len(counts) == 50
    assert counts.min() > 0.7 * counts.mean()  # uniform: one standard deviation is 6 %


def test_all_cold_needs_no_hot_set() -> None:
    users, hot = Workload(30, hot_users=0, cold_share=1.0).draw(30)
    assert sorted(users.tolist()) == list(range(30))
    assert not hot.any()


def test_zipf_follows_its_law() -> None:
    workload = Workload(1000, hot_users=1, cold_share=0.3, zipf=1.0, seed=1)
    users, hot = workload.draw(100_000)
    first, tenth = ((users == workload.order[rank]).sum() for rank in (0, 9))
    assert 8.5 < first / tenth < 11.7  # 10, and 4 standard errors
    assert np.array_equal(hot, users == workload.order[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cold_share": 1.5}, "cold share from 0 to 1"),
        ({"cold_share": 0.3, "hot_users": 0}, "hot users"),
        ({"cold_share": 0.3, "hot_users": 11}, "hot users"),
        ({"cold_share": 0.3, "zipf": 0.0}, "Zipf exponent"),
    ],
)
def test_bad_mixes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(PopulationError, match=message):
        Workload(**{"n_users": 10, "hot_users": 5} | arguments)


def test_too_few_cold_users_are_named() -> None:
    with pytest.raises(PopulationError, match="11 cold users are wanted, and 10"):
        Workload(15, hot_users=5, cold_share=1.0).draw(11)
