"""Exact neighbours by brute force, recall against them, and ranks of held-out items.

All is computed in numpy and not by the library whose indexes are judged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nanorecsys.ann.indexes import check_neighbours
from nanorecsys.data import Histories, expand
from nanorecsys.evaluation.ranking import top_items

TIE = 1e-6  # scores that differ by less are equal (single precision has an error of 1e-7)
LOWEST = np.finfo(np.float32).min
BLOCK_BYTES = 64 * 2**20
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # scores and items of k


@dataclass(frozen=True, eq=False)
class Exact:
    """The exact neighbours of queries among n vectors.

    Args:
        items: int32 (q, k), equal scores in ascending order of item; -1 beyond the last one.
        n: Number of vectors.
        hits: Sorted keys (query * n + item) of all items whose score is at least that of the k-th
            neighbour, ties included.
    """

    items: np.ndarray
    n: int
    hits: np.ndarray

    def recall(self, items: np.ndarray) -> np.ndarray:
        """Return the recall of the first k items of a search's answer, float32 (q,).

        An item counts if its exact score is at least that of the k-th exact neighbour, up to
        `TIE`. An item that is listed twice counts once.

        Args:
            items: int (the first queries, at least k), -1 where nothing was found.
        """
        k = self.items.shape[1]
        first = np.sort(items[:, :k], axis=1)
        fresh = np.ones(first.shape, bool)
        fresh[:, 1:] = first[:, 1:] != first[:, :-1]
        keys = np.arange(len(first))[:, None] * self.n + first
        inside = np.isin(keys, self.hits) & fresh & (first >= 0)
        return np.minimum(inside.sum(axis=1) / k, 1).astype(np.float32)


def exact_neighbours(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    seen: Histories | None = None,
) -> Exact:
    """Find the k nearest vectors of each query by inner product.

    Args:
        vectors: float32 (n, d).
        queries: float32 (q, d).
        k: Neighbours per query.
        seen: CSR by query, items that are not neighbours; none by default. A query with fewer than
            k other items has a recall below 1 at best.

    Raises:
        SpecificationError: k is above n.

    Example:
        >>> twins = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
        >>> found = exact_neighbours(twins, twins[:1], k=1)
        >>> found.items.tolist(), found.recall(np.array([[2]])).tolist()
        ([[0]], [1.0])
    """
    n = len(vectors)
    check_neighbours(k, n)
    items = np.empty((len(queries), k), np.int32)
    hits = []
    block = max(1, BLOCK_BYTES // (4 * n))
    for start in range(0, len(queries), block):
        found = queries[start : start + block] @ vectors.T  # (b, n)
        part = slice(start, start + len(found))
        if seen is not None:
            row, entry = expand(
                seen.offsets[part], seen.offsets[start + 1 : start + len(found) + 1]
            )
            found[row, seen.items[entry]] = -np.inf
        items[part] = top = top_items(found, k)  # ties beyond the k-th go into hits only
        last = np.take_along_axis(found, top[:, -1:], axis=1)
        bar = np.where(top[:, -1:] < 0, LOWEST, last - TIE)
        row, item = np.nonzero(found >= bar)
        hits.append((row + start) * n + item)
    return Exact(items, n, np.concatenate(hits))


@dataclass(frozen=True, eq=False)
class Queries:
    """One query per user, and a held-out item to be ranked among what the user has not seen.

    Args:
        users: int32 (u,).
        vectors: float32 (u, d), user vectors after the whole history.
        seen: CSR over the same users, the whole histories.
        targets: int (u,), the held-out items.
    """

    users: np.ndarray
    vectors: np.ndarray
    seen: Histories
    targets: np.ndarray

    def ranks(self, search: Search, n: int, cutoff: int = 10) -> np.ndarray:
        """Rank each held-out item by a search of n items, float64 (u,); infinite below `cutoff`."""
        items = unseen_items(search, self.vectors, self.seen, n, cutoff)
        is_target = items == self.targets[:, None]
        return np.where(is_target.any(axis=1), 1.0 + is_target.argmax(axis=1), np.inf)


def unseen_items(
    search: Search, queries: np.ndarray, seen: Histories, n: int, cutoff: int = 10
) -> np.ndarray:
    """Search n items for the nearest that each user has not seen, int64 (u, cutoff).

    As a server does, it asks for more neighbours and leaves the seen ones out. A row ends with -1
    where the search found too few.

    Example:
        >>> seen = Histories(np.array([0, 2]), np.array([3, 1]))
        >>> def search(queries, k):
        ...     return None, np.array([[3, 2, 1, 0]])
        >>> unseen_items(search, np.ones((1, 8)), seen, n=4, cutoff=3).tolist()
        [[2, 0, -1]]
    """
    found = np.empty((len(queries), cutoff), np.int64)
    wanted = list_lengths(seen.lengths, n, cutoff)
    for length in np.unique(wanted):
        rows = np.flatnonzero(wanted == length)
        items = search(queries[rows], int(length))[1]
        away = (items < 0) | _are_seen(items, seen.take(rows), n)
        first = np.argsort(away, axis=1, kind="stable")[:, :cutoff]
        kept = np.where(away, -1, items)
        found[rows] = np.take_along_axis(kept, first, axis=1)
    return found


def list_lengths(seen: np.ndarray, n: int, cutoff: int = 10) -> np.ndarray:
    """Return how many neighbours to ask for so that `cutoff` unseen ones are left, int64 (u,).

    Lengths are powers of two, at least 128, so that users share batches; they are at most n.

    >>> list_lengths(np.array([5, 130, 5000]), n=3000).tolist()
    [128, 256, 3000]
    """
    wanted = np.maximum(seen + cutoff, 128)
    return np.minimum(2 ** np.ceil(np.log2(wanted)).astype(np.int64), n)


def seen_share(items: np.ndarray, seen: Histories) -> float:
    """Return the share of neighbours that the user has seen.

    Args:
        items: int (u, k), neighbours of each user.
        seen: CSR over the same users.

    Example:
        >>> seen = Histories(np.array([0, 1, 2]), np.array([3, 0]))
        >>> seen_share(np.array([[3, 1], [2, 0]]), seen)
        0.5
    """
    n = 1 + max(items.max(), seen.items.max(initial=0))
    return float(_are_seen(items, seen, n).mean())


def _are_seen(items: np.ndarray, seen: Histories, n: int) -> np.ndarray:
    """Say which items, int (u, k) below n, their user has seen: bool (u, k), undefined at -1."""
    row, entry = expand(seen.offsets[:-1], seen.offsets[1:])
    return np.isin(np.arange(len(items))[:, None] * n + items, row * n + seen.items[entry])
