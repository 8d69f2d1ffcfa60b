"""Bootstrap intervals of a mean over users, plain and paired."""

from statistics import NormalDist

import msgspec
import numpy as np

from nanorecsys.study.spread import Interval

# Number of resampled indices in memory at a time.
CHUNK_ELEMENTS = 4_000_000


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a metric and its change, with the paired 95 % interval over users."""

    base: float
    change: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """The change with its interval."""
        return Interval(self.change, self.low, self.high)

    @property
    def relative(self) -> Interval:
        """The change as a share of the base, with its interval."""
        return Interval(self.change / self.base, self.low / self.base, self.high / self.base)


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval of a mean over users, by resampling the users.

    Give the difference of two models' values on the same users for the paired interval of their
    difference. The method is that of Efron and Tibshirani 1993, ch. 13. A user is drawn as a whole:
    several targets of a user are one value here.

    With values of several random seeds every sample draws seeds as well as users, both with
    replacement, and takes the mean over the drawn pairs (Owen 2007, The pigeonhole bootstrap). The
    interval then covers other seeds too, but s seeds show only (s - 1) / s of their variance.

    The percentiles move outwards as Student's t does, so that few users get a wider interval
    (Hesterberg 2015, What teachers should know about the bootstrap, the expanded percentile).

    Args:
        values: float (m,), one value per user, or (s, m), one row per random seed.
        level: Coverage of the interval.
        resamples: Number of bootstrap samples.
        seed: Random seed.

    Example:
        >>> mean_interval(np.array([0.0, 1.0, 1.0, 0.0]))
        Interval(estimate=0.5, low=0.0, high=1.0)
    """
    rows = np.atleast_2d(values)
    s, m = rows.shape
    rng = np.random.default_rng(seed)
    seeds = rng.integers(0, s, (s, resamples))
    means = np.empty(resamples)
    step = max(1, CHUNK_ELEMENTS // m)
    for start in range(0, resamples, step):
        part = slice(start, start + step)
        drawn = rng.integers(0, m, (seeds[:, part].shape[1], m))  # (resamples in the chunk, m)
        own = np.stack([row[drawn].mean(axis=1) for row in rows])  # (s, resamples in the chunk)
        means[part] = np.take_along_axis(own, seeds[:, part], axis=0).mean(axis=0)
    freedom, z = max(1, m - 1), NormalDist().inv_cdf((1 + level) / 2)
    t = z + (z**3 + z) / (4 * freedom)  # Student's quantile (Abramowitz and Stegun 26.7.5)
    tail = NormalDist().cdf(-t * (m / freedom) ** 0.5)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(rows.mean()), float(low), float(high))


def paired_change(before: np.ndarray, after: np.ndarray) -> Change:
    """The change of a metric, paired by user.

    Args:
        before, after: float (m,), one value per user, the same users in both; or (s, m), one row
            per random seed, which are paired too unless one of them has a single row.

    Example:
        >>> paired_change(np.array([0.0, 1.0]), np.array([0.5, 1.5]))
        Change(base=0.5, change=0.5, low=0.5, high=0.5)
    """
    found = mean_interval(after - before)
    return Change(base=float(before.mean()), change=found.estimate, low=found.low, high=found.high)
