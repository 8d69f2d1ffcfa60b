"""The queue against cases with a known answer. 1 s."""

import numpy as np
import pandas as pd
import pytest

from nanorecsys.loadtest.bench import LoadRun
from nanorecsys.loadtest.queueing import (
    ServiceTimes,
    original,
    predict,
    predict_latency,
    service_times,
    simulate,
)
from tests.loadtest.test_summary import load_row, rows


def test_one_thread_matches_the_mean_wait_of_an_m_m_1_queue():
    rng = np.random.default_rng(0)
    n, load = 200_000, 0.7
    arrival_ms = np.cumsum(rng.exponential(1.0, n))
    found = simulate(arrival_ms, rng.exponential(load, n), 1, [1.0])
    assert found.mean() == pytest.approx(load / (1 - load), rel=0.05)


def test_threads_serve_side_by_side():
    arrival_ms, service_ms = np.zeros(4), np.full(4, 3.0)
    assert simulate(arrival_ms, service_ms, 2, [1.0]).tolist() == [3.0, 3.0, 6.0, 6.0]


def test_a_thread_does_not_wait_for_a_batch_to_fill():
    arrival_ms, service_ms = np.array([0.0, 1.0, 2.0, 9.0]), np.full(4, 4.0)
    found = simulate(arrival_ms, service_ms, 1, [1.0, 0.5, 0.5, 0.5])
    assert found.tolist() == [4.0, 7.0, 6.0, 4.0]


def test_hits_bypass_the_queue():
    times = ServiceTimes(compute_ms=np.array([10.0]), hit_ms=1.0, overhead_ms=0.5)
    arrivals = pd.DataFrame({"intended_ns": [0, 1_000_000, 2_000_000], "hot": [False, True, False]})
    assert predict_latency(arrivals, times, 1, 1, seed=0).tolist() == [10.5, 1.0, 18.5]


def test_each_worker_has_a_queue_of_its_own():
    times = ServiceTimes(compute_ms=np.array([10.0]), hit_ms=1.0)
    due_ns = np.arange(4000) * 6_000_000  # a load of 0.83 for two threads
    arrivals = pd.DataFrame({"intended_ns": due_ns, "hot": False})
    together, apart = (
        predict_latency(arrivals, times, *servers, seed=0) for servers in ((1, 2), (2, 1))
    )
    assert together.max() == 10.0
    assert apart.mean() > 1.5 * together.mean()


def test_service_times_are_read_from_the_rows():
    alone = rows(queue_ms=np.float32(0.0))
    batched = rows().query("not hot and not warm_up").iloc[:200].copy()
    number = np.arange(len(batched)) // 2
    batched["encode_ms"] = (8.0 + number / 1000).astype(np.float32)  # pairs have the same times
    found = service_times(alone, batched, rows(), max_batch=3)
    assert set(found.compute_ms) == {6.5}
    assert found.hit_ms == pytest.approx(1.1, abs=0.01)
    assert found.batch_cost == pytest.approx([1.0, 9.5 / 13, 9.5 / 13], rel=0.02)
    unranked = batched.assign(rank_ms=np.float32("nan"))  # the server has no ranker
    found = service_times(alone.assign(rank_ms=np.float32("nan")), unranked, rows(), max_batch=2)
    assert found.batch_cost == pytest.approx([1.0, 8.5 / 11], rel=0.02)
    without = service_times(alone, rows().query("hot"), rows(), max_batch=2)
    assert without.batch_cost == [1.0, 1.0]


def test_a_prediction_stands_beside_the_run_whose_arrivals_it_gets():
    times = ServiceTimes(compute_ms=np.array([6.0]), hit_ms=1.0)
    servers = {"workers": 1, "threads": 2, "seed": 0, "highest_per_s": 400.0}
    found = predict(LoadRun(load_row(p99_ms=12.0), rows()), times, **servers)
    assert (found.offered_per_s, found.load) == (100.0, 0.25)
    assert (found.measured_p50_ms, found.measured_p99_ms) == (1.0, 12.0)
    assert (found.predicted_p50_ms, found.predicted_p99_ms) == (1.0, 6.0)
    assert found.p99_error == -0.5
    for row in (load_row(verdict="VOID"), load_row(p99_ms=None)):
        assert predict(LoadRun(row, rows()), times, **servers) is None


def test_the_original_queue_grows_with_its_rate_and_hits_suffer_where_they_wait():
    found = original((40, 110), 6000, 0)
    passing, waiting = ([o for o in found if o.hits_wait == wait] for wait in (False, True))
    assert passing[1].p99_ms > 1.5 * passing[0].p99_ms
    assert waiting[1].p99_ms > passing[1].p99_ms
    assert passing[0].load == pytest.approx(0.3, abs=0.02)
