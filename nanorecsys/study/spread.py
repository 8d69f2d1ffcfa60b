"""A figure with its interval or with its spread over repeats: never a mean alone."""

from collections.abc import Mapping

import msgspec
import numpy as np


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its interval; what the interval covers is said where it is made."""

    estimate: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Columns x, x_low and x_high of a table, which `ann.result.to_records` reads back."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}


Values = Mapping[str, Interval] | None  # by data set; None where a run did not measure it


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over rounds or repeats: the median, the lowest and the highest."""

    middle: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """The median with the range as its interval."""
        return Interval(self.middle, self.low, self.high)


def spread(values: np.ndarray) -> Spread:
    """The spread of values (n,), n >= 1.

    >>> spread(np.array([3.0, 1.0, 8.0]))
    Spread(middle=3.0, low=1.0, high=8.0)
    """
    return Spread(
        middle=float(np.median(values)), low=float(np.min(values)), high=float(np.max(values))
    )
