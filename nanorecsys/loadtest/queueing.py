"""What queueing alone predicts: a first-come-first-served queue before the threads of each worker.

The model knows when requests come, which of them hit the cache, and service times measured in other
runs. It knows nothing of the scheduler, the interpreter's lock or the processor's caches, so the
record shows its error beside its prediction.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from nanorecsys.loadtest.bench import LoadRun, rate_of
from nanorecsys.loadtest.generator import poisson
from nanorecsys.loadtest.result import Original, Predicted
from nanorecsys.loadtest.summary import COMPUTED, VOID, computed, measured

# "System Benchmarks & Performance Analysis" of nanoRecSys, section 3: the median and the 95th
# percentile of computing a request, here those of a log-normal distribution; the mix, and the tail
# at the highest rate.
ORIGINAL_COMPUTE_MS, ORIGINAL_COMPUTE_P95_MS = 41.0, 76.0
ORIGINAL_SIGMA = np.log(ORIGINAL_COMPUTE_P95_MS / ORIGINAL_COMPUTE_MS) / NormalDist().inv_cdf(0.95)
ORIGINAL_COLD_SHARE, ORIGINAL_PER_S, ORIGINAL_P99_MS = 0.3, 80.0, 580.0
# Assumed, since it does not give them: time of a hit, and a worker for each of its two vCPUs.
ASSUMED_HIT_MS, ASSUMED_WORKERS = 1.5, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class ServiceTimes:
    """Service times, measured one request at a time.

    Args:
        compute_ms: Time that a thread took for each of some requests, float (n,).
        hit_ms: Latency of a hit.
        overhead_ms: Latency of a computed request beyond its computing.
        batch_cost: Time of a batch over the sum of its requests' own times, by batch size from 1.
    """

    compute_ms: np.ndarray
    hit_ms: float
    overhead_ms: float = 0.0
    batch_cost: Sequence[float] = (1.0,)


def simulate(
    arrival_ms: np.ndarray,
    service_ms: np.ndarray,
    threads: int = 1,
    batch_cost: Sequence[float] = (1.0,),
) -> np.ndarray:
    """Simulate the queue: a free thread takes those who wait, at most a batch of them.

    Args:
        arrival_ms: Arrivals, ascending, float (n,).
        service_ms: Service time of each request alone, float (n,).
        threads: Number of threads.
        batch_cost: See `ServiceTimes`; its length is the largest batch.

    Returns:
        Time from arrival to the end of service, float (n,).

    >>> simulate(np.array([0.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0]))
    array([ 4.,  7., 11.])
    >>> simulate(np.array([0.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0]), 1, [1.0, 0.75])
    array([4., 9., 9.])
    """
    finish_ms = np.empty(len(arrival_ms))
    free_at = [0.0] * threads
    first = 0
    while first < len(arrival_ms):
        start = max(heapq.heappop(free_at), arrival_ms[first])
        waiting = int(np.searchsorted(arrival_ms[first:], start, side="right"))
        last = first + min(waiting, len(batch_cost))
        finish = start + service_ms[first:last].sum() * batch_cost[last - first - 1]
        finish_ms[first:last] = finish
        heapq.heappush(free_at, finish)
        first = last
    return finish_ms - arrival_ms


def service_times(
    alone: pd.DataFrame, batched: pd.DataFrame, hits: pd.DataFrame, max_batch: int
) -> ServiceTimes:
    """Read the service times from the rows of three runs, see `summary`.

    Args:
        alone: Computed requests, at most one in flight for each thread.
        batched: Computed requests, many in flight.
        hits: Hits, one in flight.
        max_batch: Largest batch.
    """
    single = computed(alone)
    # The requests of a batch share its times, so equal times tell a batch; a stage may be absent.
    times = [f"{stage}_ms" for stage in COMPUTED]
    batches = computed(batched).groupby(times, dropna=False)["compute_ms"]
    by_size = batches.first().groupby(batches.size().to_numpy()).mean()
    cost = by_size / (by_size.index * single.compute_ms.mean())
    cost[1] = 1.0
    cost = cost.sort_index()
    return ServiceTimes(
        compute_ms=single.compute_ms.to_numpy(float),
        hit_ms=float(measured(hits).latency_ms.median()),
        overhead_ms=float((single.latency_ms - single.queue_ms - single.compute_ms).median()),
        batch_cost=np.interp(np.arange(1, max_batch + 1), cost.index, cost).tolist(),
    )


def predict_latency(
    rows: pd.DataFrame, times: ServiceTimes, workers: int, threads: int, seed: int
) -> np.ndarray:
    """Predict the latency of each request of a run in ms, float (n,).

    Args:
        rows: Requests of the run; hits bypass the queue.
        times: Service times, from which each computed request draws one.
        workers: Number of workers, among which the requests are drawn.
        threads: Number of threads of a worker.
        seed: Random seed of the draws.
    """
    rng = np.random.default_rng(seed)
    cold = np.flatnonzero(~rows.hot.to_numpy())
    arrival_ms = rows.intended_ns.to_numpy()[cold] / 1e6
    service_ms = rng.choice(times.compute_ms, len(cold))
    worker = rng.integers(workers, size=len(cold))
    latency_ms = np.full(len(rows), times.hit_ms)
    for number in range(workers):
        queued = worker == number
        waited_ms = simulate(arrival_ms[queued], service_ms[queued], threads, times.batch_cost)
        latency_ms[cold[queued]] = times.overhead_ms + waited_ms
    return latency_ms


def predict(
    run: LoadRun, times: ServiceTimes, workers: int, threads: int, seed: int, highest_per_s: float
) -> Predicted | None:
    """Predict the percentiles of a run from its arrivals; None where it has no P99.

    Args:
        run: The run.
        times: Service times measured in other runs.
        workers, threads: Number of workers, and of threads of each.
        seed: Random seed.
        highest_per_s: Highest rate, to which the load is relative.
    """
    row = run.row
    if row.verdict == VOID or row.p50_ms is None or row.p99_ms is None:
        return None
    latency_ms = predict_latency(run.rows, times, workers, threads, seed)[~run.rows.warm_up]
    p50_ms, p99_ms = np.percentile(latency_ms, (50, 99)).tolist()
    return Predicted(
        offered_per_s=rate_of(run),
        load=rate_of(run) / highest_per_s,
        predicted_p50_ms=p50_ms,
        predicted_p99_ms=p99_ms,
        measured_p50_ms=row.p50_ms,
        measured_p99_ms=row.p99_ms,
    )


def original(rates: Sequence[float], requests: int, seed: int) -> list[Original]:
    """Predict the original's latency from the service times that it published, at Poisson arrivals.

    Each of its two worker processes computes one request at a time and has its own queue.

    Args:
        rates: Offered rates, requests/s.
        requests: Mean number of simulated requests at each rate.
        seed: Random seed.
    """
    found = []
    for hits_wait in (False, True):
        for rate in rates:
            rng = np.random.default_rng([seed, 1])  # not the draws of `poisson`
            arrival_ms = poisson(rate, requests / rate, seed) / 1e6
            n = len(arrival_ms)
            hit = rng.random(n) >= ORIGINAL_COLD_SHARE
            compute_ms = ORIGINAL_COMPUTE_MS * np.exp(ORIGINAL_SIGMA * rng.standard_normal(n))
            service_ms = np.where(hit, ASSUMED_HIT_MS, compute_ms)
            worker = rng.integers(ASSUMED_WORKERS, size=n)
            latency_ms = service_ms.copy()
            for number in range(ASSUMED_WORKERS):
                queued = (worker == number) & (hits_wait | ~hit)
                latency_ms[queued] = simulate(arrival_ms[queued], service_ms[queued])
            found.append(
                Original(
                    offered_per_s=rate,
                    load=rate * float(service_ms.mean()) / 1e3 / ASSUMED_WORKERS,
                    hits_wait=hits_wait,
                    p99_ms=float(np.percentile(latency_ms, 99)),
                )
            )
    return found
