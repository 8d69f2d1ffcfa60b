"""The queue against cases with a known answer. 1 s."""

import numpy as np
import pytest

from nanorecsys.loadtest.queueing import original, simulate


def test_one_thread_matches_the_mean_wait_of_an_m_m_1_queue():
    rng = np.random.default_rng(0)
    n, load = 200_000, 0.7
    arrival_ms = np.cumsum(rng.exponential(1.0, n))
    found = simulate(arrival_ms, rng.exponential(load, n))
    assert found.mean() == pytest.approx(load / (1 - load), rel=0.05)


def test_nobody_overtakes_and_the_server_rests_when_nobody_waits():
    arrival_ms, service_ms = np.array([0.0, 1.0, 2.0, 20.0]), np.array([4.0, 1.0, 3.0, 2.0])
    assert simulate(arrival_ms, service_ms).tolist() == [4.0, 4.0, 6.0, 2.0]


def test_the_original_queue_grows_with_its_rate_and_hits_suffer_where_they_wait():
    found = original((40, 110), 6000, 0)
    passing, waiting = ([o for o in found if o.hits_wait == wait] for wait in (False, True))
    assert passing[1].p99_ms > 1.5 * passing[0].p99_ms
    assert waiting[1].p99_ms > passing[1].p99_ms
    assert passing[0].load == pytest.approx(0.3, abs=0.02)
