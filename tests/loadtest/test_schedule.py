"""Arrivals."""

import numpy as np
import pytest

from nanorecsys.loadtest.errors import PlanError
from nanorecsys.loadtest.schedule import poisson


def test_gaps_are_exponential() -> None:
    due = poisson(1000, 40, seed=5)
    gaps = np.diff(due) / 1e6
    assert abs(len(due) - 40_000) < 4 * 200  # standard deviation: sqrt(40,000)
    for ms in (0.1, 0.5, 1.0, 3.0):
        assert abs((gaps > ms).mean() - np.exp(-ms)) < 0.01
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02  # no memory


def test_arrivals_are_in_order_within_the_time() -> None:
    due = poisson(50, 3, seed=0)
    assert due.dtype == np.int64
    assert (np.diff(due) >= 0).all()
    assert 0 <= due[0] <= due[-1] < 3e9


def test_a_seed_gives_the_same_arrivals_and_another_others() -> None:
    assert np.array_equal(poisson(100, 5, seed=1), poisson(100, 5, seed=1))
    assert not np.array_equal(poisson(100, 5, seed=1)[:50], poisson(100, 5, seed=2)[:50])


@pytest.mark.parametrize(
    ("rate", "seconds"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (float("inf"), 1)]
)
def test_rates_and_times_above_0_are_asked_for(rate: float, seconds: float) -> None:
    with pytest.raises(PlanError, match="above 0"):
        poisson(rate, seconds, seed=0)
