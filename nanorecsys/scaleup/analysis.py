"""The chapter's findings: the best index by rule, and points of equal recall."""

from collections.abc import Sequence

import pandas as pd

from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup.bench import GIB
from nanorecsys.scaleup.result import HostLimit

MEMORY_SHARE = 0.65  # share of Flat's bytes that an index may take
EQUAL = 0.01  # difference from the median recall at which points are still compared
WORKERS = 2  # processes of a host that each hold the index
HOSTS_GIB = (1, 2, 4, 8, 16, 32)  # memory of hosts
FURTHEST = 10  # multiple of the largest measured size up to which memory is extrapolated
RULE = (
    "The best index has the lowest P50 of all whose recall is at least the floor with the lower "
    f"end of its interval, and that take at most {MEMORY_SHARE:.0%} of the bytes of the vectors."
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


def equal_recall(rows: pd.DataFrame) -> pd.Series:
    """Say which rows have nearly the same recall, so that their latencies can be compared.

    >>> equal_recall(pd.DataFrame({"recall": [0.96, 0.965, 0.99]})).tolist()
    [True, True, False]
    """
    return (rows["recall"] - rows["recall"].median()).abs() <= EQUAL


def worker_gib(items: float, n: int, served_gib: float, bytes_a_vector: float) -> float:
    """Memory of a process that holds the index of some items, from that of the measured n.

    >>> worker_gib(3_000_000, 1_000_000, 1.0, 2**30 / 1_000_000)
    3.0
    """
    return served_gib + (items - n) * bytes_a_vector / GIB


def host_limits(n: int, served_gib: float, bytes_a_vector: float) -> list[HostLimit]:
    """Items whose index fits each of `HOSTS_GIB` in `WORKERS` processes, down to two digits.

    Args:
        n: Items of the largest measured index.
        served_gib: Memory of a process that has loaded and searched it.
        bytes_a_vector: Its bytes a vector.

    >>> found = host_limits(1_000_000, 1.0, 2**30 / 1_000_000)
    >>> [limit.items for limit in found]
    [500000, 1000000, 2000000, 4000000, 8000000, None]
    >>> host_limits(1_000_000, 0.49, 2**30 / 1_000_000)[0].items  # 1,010,000
    1000000
    """
    limits = []
    for host in HOSTS_GIB:
        fits = max(0.0, n + (host / WORKERS - served_gib) * GIB / bytes_a_vector)
        step = 10 ** max(0, len(str(int(fits))) - 2)
        items = int(fits) // step * step
        limits.append(HostLimit(host_gib=host, items=items if items <= FURTHEST * n else None))
    return limits
