"""Exact neighbours in the first rows of a catalogue that is never whole in memory, for several sizes in one pass."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nanorecsys.ann.exact import TIE, Exact
from nanorecsys.ann.indexes import check_neighbours
from nanorecsys.scaleup.rows import Rows

BLOCK = 32_768  # rows at once: 32 MiB at d 256
SPARE = 4  # neighbours kept for each one asked for, so that ties at the last place are seen


def exact_prefixes(
    path: Path, queries: np.ndarray, k: int, sizes: Sequence[int]
) -> dict[int, Exact]:
    """The k nearest of each query among the first rows of a file, for each size.

    Args:
        path: .npy of float32 (n, d).
        queries: float32 (q, d).
        k: neighbours.
        sizes: of the prefixes, at most n.

    Raises:
        NeighboursError: k is above the smallest size.
    """
    check_neighbours(k, min(sizes))
    rows = Rows(path)
    keep = SPARE * k
    scores = np.full((len(queries), keep), -np.inf, np.float32)
    items = np.full((len(queries), keep), -1, np.int64)
    found = {}
    stops = sorted({*range(BLOCK, max(sizes), BLOCK), *sizes})
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        product = queries @ rows.read(start, stop).T  # (q, b)
        for q, row in enumerate(product):
            fresh = np.flatnonzero(row > scores[q, -1])
            candidates = np.concatenate([scores[q], row[fresh]])
            numbers = np.concatenate([items[q], start + fresh])
            best = np.argsort(-candidates, kind="stable")[:keep]
            scores[q], items[q] = candidates[best], numbers[best]
        if stop in sizes:
            found[stop] = _exact(scores, items, k, stop)
    return found


def _exact(scores: np.ndarray, items: np.ndarray, k: int, n: int) -> Exact:
    query, place = np.nonzero((scores >= scores[:, k - 1 : k] - TIE) & (items >= 0))
    hits = np.sort(query * n + items[query, place])
    return Exact(scores[:, :k].copy(), items[:, :k].astype(np.int32), n, {k: hits})
