"""When requests are due."""

import numpy as np

from nanorecsys.loadtest.errors import PlanError


def poisson(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Arrivals of a Poisson process, nanoseconds from the start, int64, ascending.

    Their number is drawn first and then their times, which are uniform given their number.

    Args:
        rate: mean arrivals a second.
        seconds: how long.
        seed: the same seed, the same arrivals.

    Raises:
        PlanError: a rate or time that is not above 0.

    >>> due = poisson(1000, 10, seed=0)
    >>> bool(9_600 < len(due) < 10_400), bool((np.diff(due) >= 0).all())
    (True, True)
    """
    if not (rate > 0 and np.isfinite(rate)):
        raise PlanError(
            f"expected a rate above 0 requests/s, got {rate}", "Give --rate a number above 0."
        )
    if not (seconds > 0 and np.isfinite(seconds)):
        raise PlanError(
            f"expected a time above 0 s, got {seconds}", "Give --seconds a number above 0."
        )
    rng = np.random.default_rng(seed)
    times = rng.random(rng.poisson(rate * seconds)) * (seconds * 1e9)
    return np.sort(times.astype(np.int64))
