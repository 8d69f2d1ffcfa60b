"""The chapter's findings: the best index by rule, growth with n, and settings moved elsewhere."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nanorecsys.ann.specs import BASELINE

PROMISE = 0.95  # recall that a setting is chosen for
MEMORY_SHARE = 0.3  # share of Flat's bytes that an index may take
GRAPH_POWER = 1.2  # power of n by which the build time of a graph grows, at least
RULE = (
    "the lowest P50 among the indexes with a recall of at least the floor in at most three tenths "
    "of the bytes of the vectors"
)


def sizes_up_to(n_items: int, sizes: Sequence[int], real: int) -> list[int]:
    """Return the sizes below `n_items` that hold all real items, and `n_items` itself.

    >>> sizes_up_to(300_000, [5_000, 27_278, 1_000_000], 9_066)
    [27278, 300000]
    """
    return [*sorted({s for s in sizes if real <= s < n_items}), n_items]


def expected_graph_seconds(built: Mapping[int, float], n: int) -> float:
    """Return the least seconds that a graph over n items takes to build.

    >>> expected_graph_seconds({1_000: 1.0, 10_000: 20.0}, 100_000).__round__()
    317

    Args:
        built: Seconds of the graphs that are built, by size.
        n: Number of items.
    """
    if not built:
        return 0.0
    last = max(built)
    return built[last] * (n / last) ** GRAPH_POWER


def best_index(rows: pd.DataFrame, floor: float, d: int) -> pd.Series:
    """Return the index that the rule (`RULE`) takes, else the most accurate one but Flat."""
    others = rows[rows["factory"] != BASELINE]
    small = others["bytes_a_vector"] <= MEMORY_SHARE * 4 * d
    allowed = others[small & (others["recall"] >= floor)]
    if len(allowed):
        return allowed.loc[allowed["p50_ms"].idxmin()]
    return others.loc[others["recall"].idxmax()]


def growth(rows: pd.DataFrame, floor: float) -> pd.DataFrame:
    """Fit P50 = factor * n ** power to each family's fastest indexes at equal recall.

    Families that reach the floor at fewer than two sizes are left out.

    Returns:
        Columns family, factor, power and points.
    """
    reaching = rows[rows["recall"] >= floor].sort_values("p50_ms")
    found = []
    for family, own in reaching.drop_duplicates(["family", "n"]).groupby("family", sort=False):
        if len(own) > 1:
            power, intercept = np.polyfit(np.log(own["n"]), np.log(own["p50_ms"]), 1)
            found.append((family, np.exp(intercept), power, len(own)))
    return pd.DataFrame(found, columns=["family", "factor", "power", "points"])


def kept_promise(made: pd.Series, real: pd.Series, promise: float = PROMISE) -> tuple[float, float]:
    """Return what a synthetic catalogue promises and what the setting finds in the real one.

    The setting is where the synthetic curve first reaches the promise, interpolated in the log of
    the setting; if it never does, the last setting.

    Args:
        made: Recall by setting on the synthetic catalogue.
        real: The same on the real one.
        promise: Recall that the setting is chosen for.

    >>> made, real = pd.Series({1: 0.9, 4: 1.0}), pd.Series({1: 0.5, 4: 0.9})
    >>> [round(x, 3) for x in kept_promise(made, real)]
    [0.95, 0.7]
    """
    places = np.log(made.index.to_numpy(float))
    first = int((made >= promise).argmax())
    if not (made >= promise).any():
        return float(made.iloc[-1]), float(real.iloc[-1])
    if first == 0:
        return float(made.iloc[0]), float(real.iloc[0])
    step = slice(first - 1, first + 1)
    place = np.interp(promise, made.iloc[step], places[step])
    return promise, float(np.interp(place, places, real))


def moved_settings(rows: pd.DataFrame, recalls: pd.DataFrame) -> pd.DataFrame:
    """Pair the recall of each index on one catalogue with that of the same setting on another.

    Args:
        rows: Indexes over one catalogue.
        recalls: factory, search and recall on the other, see `CatalogueBench.recalls`.

    Returns:
        Columns generator, n, factory, search, promised and found. Indexes without a pair are left
        out.
    """
    chosen = rows[rows["factory"] != BASELINE].rename(columns={"recall": "promised"})
    other = recalls.rename(columns={"recall": "found"})
    found = chosen.merge(other, on=["factory", "search"])
    return found[["generator", "n", "factory", "search", "promised", "found"]]
