"""The chapter's findings: the best index by rule, and what a setting promises and keeps."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nanorecsys.ann.specs import BASELINE, parse_setting

PROMISE = 0.95  # recall that a setting is chosen for
MEMORY_SHARE = 0.3  # share of Flat's bytes that an index may take
RULE = (
    "the lowest P50 among the indexes whose recall is at least the floor with the lower end of its "
    "interval, in at most three tenths of the bytes of the vectors"
)


def sizes_up_to(n_items: int, sizes: Sequence[int], real: int) -> list[int]:
    """Return the sizes below `n_items` that hold all real items, and `n_items` itself.

    >>> sizes_up_to(300_000, [5_000, 27_278, 1_000_000], 9_066)
    [27278, 300000]
    """
    return [*sorted({s for s in sizes if real <= s < n_items}), n_items]


def best_index(rows: pd.DataFrame, floor: float, d: int) -> pd.Series:
    """Return the index that the rule (`RULE`) takes, else the most accurate one but Flat."""
    others = rows[rows["factory"] != BASELINE]
    small = others["bytes_a_vector"] <= MEMORY_SHARE * 4 * d
    allowed = others[small & (others["recall_low"] >= floor)]
    if len(allowed):
        return allowed.loc[allowed["p50_ms"].idxmin()]
    return others.loc[others["recall"].idxmax()]


def kept_promise(made: pd.Series, real: pd.Series, promise: float = PROMISE) -> float:
    """Return what a setting that was chosen on a synthetic catalogue finds in the real one.

    The setting is where the synthetic curve first reaches the promise, interpolated in the log of
    nprobe or efSearch; if it never does, the last setting.

    Args:
        made: Recall by setting on the synthetic catalogue, in the order of the settings.
        real: The same on the real one.
        promise: Recall that the setting is chosen for.

    >>> settings = ["nprobe=1", "nprobe=4"]
    >>> made, real = pd.Series([0.9, 1.0], settings), pd.Series([0.5, 0.9], settings)
    >>> round(kept_promise(made, real), 3)
    0.7
    """
    places = np.log([effort(setting) for setting in made.index])
    first = int((made >= promise).argmax())
    if not (made >= promise).any():
        return float(real.iloc[-1])
    if first == 0:
        return float(real.iloc[0])
    step = slice(first - 1, first + 1)
    place = np.interp(promise, made.iloc[step], places[step])
    return float(np.interp(place, places, real))


def effort(setting: str) -> int:
    """Return nprobe or efSearch, the first value of a setting.

    >>> effort("nprobe=4,k_factor_rf=8")
    4
    """
    return next(iter(parse_setting(setting).values()))
