"""Exact neighbours by brute force, recall against them with ties counted, and what of a search a user has not seen.

Computed by matrix products in numpy, not by the library whose indexes are judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanorecsys.ann.indexes import check_neighbours
from nanorecsys.data import Histories, expand
from nanorecsys.evaluation.ranking import top_items

# Scores that single precision cannot tell apart: 256 products of unit vectors carry an error of
# some 1e-7.
TIE = 1e-6
LOWEST = np.finfo(np.float32).min
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Exact:
    """What an exact search of n vectors finds.

    Args:
        scores: float32 (q, k), falling.
        items: int32 (q, k), equal scores in ascending order of item; -1 where there are no more.
        n: vectors that were searched.
        hits: for each cutoff, the sorted keys (query * n + item) of every item whose score is at
            least that of the cutoff's last neighbour, ties included.
    """

    scores: np.ndarray
    items: np.ndarray
    n: int
    hits: dict[int, np.ndarray]

    def recall(self, items: np.ndarray, cutoff: int) -> np.ndarray:
        """Recall of the first `cutoff` items that a search found for each query, float32 (q,).

        An item counts if its exact score is at least that of the cutoff-th exact neighbour, up to
        `TIE`; an item that is listed twice counts once.

        Args:
            items: int (q, at least cutoff), -1 where nothing was found.
            cutoff: one of those that `hits` has.
        """
        first = np.sort(items[:, :cutoff], axis=1)
        fresh = np.ones(first.shape, bool)
        fresh[:, 1:] = first[:, 1:] != first[:, :-1]
        keys = np.arange(len(first))[:, None] * self.n + first
        inside = _among(keys, self.hits[cutoff]) & fresh & (first >= 0)
        return np.minimum(inside.sum(axis=1) / cutoff, 1).astype(np.float32)


def exact_neighbours(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    cutoffs: Sequence[int] | None = None,
    seen: Histories | None = None,
) -> Exact:
    """The k nearest of each query by inner product.

    Args:
        vectors: float32 (n, d).
        queries: float32 (q, d).
        k: neighbours that are listed.
        cutoffs: those that recall will be asked at, at most k; k itself by default.
        seen: CSR by query, items that are no neighbours; none by default. A query with fewer than k
            others has them all among its hits, and a recall below 1 at the best.

    Raises:
        NeighboursError: k is above n.

    Example:
        >>> twins = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
        >>> found = exact_neighbours(twins, twins[:1], k=1)
        >>> found.items.tolist(), found.recall(np.array([[2]]), 1).tolist()
        ([[0]], [1.0])
    """
    n = len(vectors)
    check_neighbours(k, n)
    cutoffs = tuple(dict.fromkeys(cutoffs or (k,)))
    scores = np.empty((len(queries), k), np.float32)
    items = np.empty((len(queries), k), np.int32)
    hits: dict[int, list[np.ndarray]] = {c: [] for c in cutoffs}
    block = max(1, BLOCK_BYTES // (4 * n))
    for start in range(0, len(queries), block):
        found = queries[start : start + block] @ vectors.T  # (b, n)
        part = slice(start, start + len(found))
        if seen is not None:
            row, entry = expand(
                seen.offsets[part], seen.offsets[start + 1 : start + len(found) + 1]
            )
            found[row, seen.items[entry]] = -np.inf
        items[part] = top = top_items(
            found, k
        )  # ties beyond the k-th go to hits, not into the list
        scores[part] = np.where(top < 0, -np.inf, np.take_along_axis(found, top, axis=1))
        for cutoff in cutoffs:
            row, item = np.nonzero(
                found >= np.maximum(scores[part, cutoff - 1, None] - TIE, LOWEST)
            )
            hits[cutoff].append((row + start) * n + item)
    return Exact(scores, items, n, {c: np.concatenate(keys) for c, keys in hits.items()})


def target_ranks(
    scores: np.ndarray, items: np.ndarray, seen: Histories, targets: np.ndarray, n: int
) -> np.ndarray:
    """Rank of each user's held-out item in a search's answer without the items that the user has seen, float64 (u,).

    Equal scores count by their mean rank, as everywhere in the study; infinite where the item was
    not found.

    Args:
        scores: float32 (u, k), as the search returned them.
        items: int64 (u, k), -1 where nothing was found.
        seen: CSR over the same users in the same order.
        targets: int (u,).
        n: size of the catalogue.
    """
    kept = (items >= 0) & ~_are_seen(items, seen, np.arange(len(items)), n)
    mine = kept & (items == targets[:, None])
    score = np.where(mine, scores, -np.inf).max(axis=1)
    higher = (kept & (scores > score[:, None])).sum(axis=1)
    same = (kept & (scores == score[:, None])).sum(axis=1)
    return np.where(mine.any(axis=1), 1 + higher + (same - 1) / 2, np.inf)


def without_seen(
    items: np.ndarray, seen: Histories, users: np.ndarray, n: int, cutoff: int
) -> np.ndarray:
    """The first items of a search that their user has not seen, int (u, cutoff), -1 where there are fewer.

    Args:
        items: int (u, at least cutoff), -1 where nothing was found.
        seen: CSR by user.
        users: int (u,), whose items they are.
        n: size of the catalogue.
        cutoff: items that are kept.

    Example:
        >>> seen = Histories(np.array([0, 2]), np.array([3, 1]))
        >>> without_seen(np.array([[3, 2, 1, 0]]), seen, np.array([0]), n=4, cutoff=3).tolist()
        [[2, 0, -1]]
    """
    away = (items < 0) | _are_seen(items, seen, users, n)
    order = np.argsort(away, axis=1, kind="stable")[:, :cutoff]
    return np.where(
        np.take_along_axis(away, order, axis=1), -1, np.take_along_axis(items, order, axis=1)
    )


def list_lengths(seen: np.ndarray, n: int, cutoff: int = 10) -> np.ndarray:
    """Neighbours to ask for so that `cutoff` are left when the seen items are removed, int64 (u,).

    Rounded up to a power of two, at least 128, so that users share batches; at most n.

    >>> list_lengths(np.array([5, 130, 5000]), n=3000).tolist()
    [128, 256, 3000]
    """
    wanted = np.maximum(seen + cutoff, 128)
    return np.minimum(2 ** np.ceil(np.log2(wanted)).astype(np.int64), n)


def seen_share(items: np.ndarray, seen: Histories, users: np.ndarray) -> tuple[float, float]:
    """Share of neighbours that their user has seen, which a service leaves out: of all, and of the first ones.

    Args:
        items: int (u, k), neighbours of each user, the nearest first.
        seen: CSR by user.
        users: int (u,), whose neighbours they are.

    Example:
        >>> seen_share(np.array([[3, 1], [2, 0]]), Histories(np.array([0, 1, 2]), np.array([3, 0])), np.array([0, 1]))
        (0.5, 0.5)
    """
    own = _are_seen(items, seen, users, 1 + max(items.max(), seen.items.max(initial=0)))
    return float(own.mean()), float(own[:, 0].mean())


def _are_seen(items: np.ndarray, seen: Histories, users: np.ndarray, n: int) -> np.ndarray:
    """Which of each user's items int (u, k), below n, the user has seen: bool (u, k); at -1 it says nothing."""
    row, entry = expand(seen.offsets[users], seen.offsets[users + 1])
    return _among(np.arange(len(items))[:, None] * n + items, np.sort(row * n + seen.items[entry]))


def _among(keys: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of `keys` are among the sorted `ordered`: bool, the shape of `keys`."""
    if not len(ordered):
        return np.zeros(keys.shape, bool)
    place = np.searchsorted(ordered, keys)
    return ordered[np.minimum(place, len(ordered) - 1)] == keys
