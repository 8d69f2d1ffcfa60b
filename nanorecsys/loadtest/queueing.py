"""What queueing alone predicts: one first-come-first-served queue before c threads.

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

from nanorecsys.loadtest.generator import poisson
from nanorecsys.loadtest.result import LoadRow, Original, Predicted
from nanorecsys.loadtest.summary import COMPUTED, VOID, computed, measured

# The original's published median and 95th percentile of computing a request, the CPU time of an
# answer from its cache as measured on a machine like this one, its load, and its tail.
ORIGINAL_COMPUTE_MS = (41.0, 76.0)
ORIGINAL_HIT_MS = 1.5
ORIGINAL_WORKERS, ORIGINAL_COLD_SHARE, ORIGINAL_PER_S = 2, 0.3, 80.0
ORIGINAL_P99_MS = 580.0


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
    arrival_ms: np.ndarray, service_ms: np.ndarray, threads: int, batch_cost: Sequence[float]
) -> np.ndarray:
    """Simulate the queue: a free thread takes those who wait, at most a batch of them.

    Args:
        arrival_ms: Arrivals, ascending, float (n,).
        service_ms: Service time of each request alone, float (n,).
        threads: Number of threads.
        batch_cost: See `ServiceTimes`; its length is the largest batch.

    Returns:
        Time from arrival to the end of service, float (n,).

    >>> simulate(np.array([0.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0]), 1, [1.0])
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


def predict_latency(
    arrival_ms: np.ndarray,
    hit: np.ndarray,
    times: ServiceTimes,
    threads: int,
    seed: int,
    hits_wait: bool = False,
) -> np.ndarray:
    """Predict the latency of each request in ms, float (n,).

    Args:
        arrival_ms: Arrivals, ascending, float (n,).
        hit: Whether each is answered from the cache, bool (n,).
        times: Measured service times, from which each computed request draws one.
        threads: Number of threads.
        seed: Random seed of the draws.
        hits_wait: Whether hits wait in the queue as well.
    """
    rng = np.random.default_rng(seed)
    service_ms = np.where(hit, times.hit_ms, rng.choice(times.compute_ms, len(hit)))
    queued = np.ones(len(hit), bool) if hits_wait else ~hit
    latency_ms = np.full(len(hit), times.hit_ms)
    latency_ms[queued] = times.overhead_ms + simulate(
        arrival_ms[queued], service_ms[queued], threads, times.batch_cost
    )
    return latency_ms


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
    times = [f"{stage}_ms" for stage in COMPUTED]
    batches = computed(batched).groupby(times)["compute_ms"].agg(["size", "first"])
    by_size = batches.groupby("size")["first"].mean()
    cost = by_size / (by_size.index.to_numpy() * single.compute_ms.mean())
    cost[1] = 1.0
    cost = cost.sort_index()
    sizes = np.arange(1, max_batch + 1)
    return ServiceTimes(
        compute_ms=single.compute_ms.to_numpy(float),
        hit_ms=float(measured(hits).latency_ms.median()),
        overhead_ms=float((single.latency_ms - single.queue_ms - single.compute_ms).median()),
        batch_cost=np.interp(sizes, cost.index, cost).tolist(),
    )


def predict(
    runs: Sequence[tuple[LoadRow, pd.DataFrame]],
    times: ServiceTimes,
    threads: int,
    seed: int,
    highest_per_s: float,
) -> Predicted | None:
    """Predict the percentiles of runs at one rate from their arrivals; None where all are VOID.

    Args:
        runs: Row and requests of each run.
        times: Service times measured in other runs.
        threads: Number of threads.
        seed: Random seed.
        highest_per_s: Highest rate, to which the load is relative.
    """
    timed = [(row, rows) for row, rows in runs if row.verdict != VOID and row.p99_ms is not None]
    if not timed:
        return None
    predicted = []
    for _, rows in timed:
        arrival_ms, hit = rows.intended_ns.to_numpy() / 1e6, rows.hot.to_numpy()
        latency_ms = predict_latency(arrival_ms, hit, times, threads, seed)
        predicted.append(np.percentile(latency_ms[~rows.warm_up.to_numpy()], (50, 99)))
    observed = [(row.p50_ms or 0.0, row.p99_ms or 0.0) for row, _ in timed]
    predicted_p50_ms, predicted_p99_ms = np.median(predicted, axis=0).tolist()
    measured_p50_ms, measured_p99_ms = np.median(observed, axis=0).tolist()
    offered_per_s = timed[0][0].offered_per_s or 0.0
    return Predicted(
        offered_per_s=offered_per_s,
        load=offered_per_s / highest_per_s,
        predicted_p50_ms=predicted_p50_ms,
        predicted_p99_ms=predicted_p99_ms,
        measured_p50_ms=measured_p50_ms,
        measured_p99_ms=measured_p99_ms,
    )


def original(rates: Sequence[float], requests: int, seed: int) -> list[Original]:
    """Predict the original's latency from the service times that it published, at Poisson arrivals.

    Its compute times are taken as log-normal with the published median and 95th percentile. Each of
    its two worker processes computes one request at a time and has its own queue.

    Args:
        rates: Offered rates, requests/s.
        requests: Mean number of simulated requests at each rate.
        seed: Random seed.
    """
    median, p95 = ORIGINAL_COMPUTE_MS
    deviation = np.log(p95 / median) / NormalDist().inv_cdf(0.95)
    rng = np.random.default_rng(seed)
    times = ServiceTimes(
        compute_ms=median * np.exp(deviation * rng.standard_normal(20_000)), hit_ms=ORIGINAL_HIT_MS
    )
    work_ms = (
        ORIGINAL_COLD_SHARE * times.compute_ms.mean() + (1 - ORIGINAL_COLD_SHARE) * ORIGINAL_HIT_MS
    )
    found = []
    for hits_wait in (False, True):
        for rate in rates:
            arrival_ms = poisson(rate, requests / rate, seed) / 1e6
            mix = np.random.default_rng(seed)
            hit = mix.random(len(arrival_ms)) >= ORIGINAL_COLD_SHARE
            worker = mix.integers(ORIGINAL_WORKERS, size=len(arrival_ms))
            latency_ms = np.empty(len(arrival_ms))
            for number in range(ORIGINAL_WORKERS):
                own = worker == number
                latency_ms[own] = predict_latency(
                    arrival_ms[own], hit[own], times, 1, seed, hits_wait
                )
            p50_ms, p95_ms, p99_ms = np.percentile(latency_ms, (50, 95, 99))
            found.append(
                Original(
                    offered_per_s=rate,
                    load=rate * float(work_ms) / 1e3 / ORIGINAL_WORKERS,
                    hits_wait=hits_wait,
                    p50_ms=float(p50_ms),
                    p95_ms=float(p95_ms),
                    p99_ms=float(p99_ms),
                )
            )
    return found
