"""Bootstrap intervals of a mean over users, plain and paired."""

import msgspec
import numpy as np

from nanorecsys.evaluation.errors import EvaluationError
from nanorecsys.study.spread import Interval

# Number of resampled indices in memory at a time.
CHUNK_ELEMENTS = 4_000_000


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a metric and its change, with the paired 95 % interval over users."""

    base: float
    change: float
    low: float
    high: float


def mean_interval(
    values: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a (weighted) mean over users, by resampling the users.

    Give the difference of two models' values on the same users for the paired interval of their
    difference. The method is that of Efron and Tibshirani 1993, ch. 13.

    Args:
        values: float (m,), one value per user.
        weights: float (m,), not negative, not all zero, resampled with their values; None is equal
            weights.
        level: Coverage of the interval.
        resamples: Number of bootstrap samples.
        seed: Random seed.

    Raises:
        EvaluationError: no values, or none with a weight.

    Example:
        >>> mean_interval(np.array([0.0, 1.0, 1.0, 0.0]))
        Interval(estimate=0.5, low=0.0, high=1.0)
    """
    m = len(values)
    weights = np.ones(m) if weights is None else weights
    if not weights.any():
        raise EvaluationError(
            f"none of {m} values has a weight: there is no mean", "Bootstrap another metric."
        )
    rng = np.random.default_rng(seed)
    weighted = values * weights
    means = np.empty(resamples)
    step = max(1, CHUNK_ELEMENTS // m)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, m, (min(step, resamples - start), m))  # (resamples in the chunk, m)
        total = weights[drawn].sum(axis=1)
        # The mean of a sample without any weight is 0.
        means[start : start + step] = weighted[drawn].sum(axis=1) / np.where(total > 0, total, 1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(weighted.sum() / weights.sum()), float(low), float(high))


def paired_change(before: np.ndarray, after: np.ndarray) -> Change:
    """The change of a metric, paired by user.

    Args:
        before, after: float (m,), one value per user, the same users in both.

    Example:
        >>> paired_change(np.array([0.0, 1.0]), np.array([0.5, 1.5]))
        Change(base=0.5, change=0.5, low=0.5, high=0.5)
    """
    found = mean_interval(after - before)
    return Change(base=float(before.mean()), change=found.estimate, low=found.low, high=found.high)
