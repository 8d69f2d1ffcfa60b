"""What queueing alone predicts of the original: a first-come-first-served queue for each worker."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from nanorecsys.loadtest.generator import poisson
from nanorecsys.loadtest.result import Original

# "System Benchmarks & Performance Analysis" of nanoRecSys, section 3: the median and the 95th
# percentile of computing a request, here those of a log-normal distribution; the mix, and the tail
# at the highest rate.
ORIGINAL_COMPUTE_MS, ORIGINAL_COMPUTE_P95_MS = 41.0, 76.0
ORIGINAL_SIGMA = np.log(ORIGINAL_COMPUTE_P95_MS / ORIGINAL_COMPUTE_MS) / NormalDist().inv_cdf(0.95)
ORIGINAL_COLD_SHARE, ORIGINAL_PER_S, ORIGINAL_P99_MS = 0.3, 80.0, 580.0
# Assumed, since it does not give them: time of a hit, and a worker for each of its two vCPUs.
ASSUMED_HIT_MS, ASSUMED_WORKERS = 1.5, 2
REQUESTS = 15_000  # simulated requests at each rate


def simulate(arrival_ms: np.ndarray, service_ms: np.ndarray) -> np.ndarray:
    """Simulate a queue before one server.

    Args:
        arrival_ms: Arrivals, ascending, float (n,).
        service_ms: Service time of each request, float (n,).

    Returns:
        Time from arrival to the end of service, float (n,).

    >>> simulate(np.array([0.0, 1.0, 9.0]), np.array([4.0, 4.0, 4.0]))
    array([4., 7., 4.])
    """
    worked = np.cumsum(service_ms)
    idle = np.maximum.accumulate(arrival_ms - (worked - service_ms))
    return worked + idle - arrival_ms


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
