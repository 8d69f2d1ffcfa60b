"""The items nearest to each user, without those already seen."""

from collections.abc import Sequence

import numpy as np

from nanorecsys.evaluation.ranking import top_items
from nanorecsys.serving.bundle import Bundle


def candidates_of(
    bundle: Bundle, users: np.ndarray, seen: Sequence[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Retrieve the nearest unseen items of each user.

    The index is searched first. A user who has seen most of what the index finds is compared with
    every item instead.

    Args:
        bundle: Open bundle with the index and the item vectors.
        users: float32 (B, d), user vectors.
        seen: Item numbers to leave out, one int array for each user.
        count: Number of candidates per user, at most the number of items.

    Returns:
        Items int64 (B, count), the nearest first; -1 fills a row that has fewer candidates. Scores
        float32 (B, count), the inner products as the index computes them.
    """
    n_items = bundle.manifest.n_items
    # Most seen items are far from the top, so this depth nearly always suffices.
    depth = count + min(max(len(items) for items in seen), count)
    products, found = bundle.index.search(users, min(depth, n_items))
    candidates = np.full((len(users), count), -1, np.int64)
    scores = np.full((len(users), count), -np.inf, np.float32)
    # No item above these was seen. An array for all of a large catalogue would cost more.
    above = 1 + max(items.max(initial=-1) for items in seen)
    left_out = np.zeros(above + 2, bool)
    left_out[-1] = True  # The index fills a short row with -1.
    for row, (nearest, items) in enumerate(zip(found, seen, strict=True)):
        left_out[items] = True
        kept = np.flatnonzero(~left_out[np.minimum(nearest, above)])[:count]
        left_out[items] = False
        best, values = nearest[kept], products[row, kept]
        if len(best) < count:
            best, values = _exact_candidates(bundle, users[row], items, count)
        candidates[row, : len(best)], scores[row, : len(best)] = best, values
    return candidates, scores


def _exact_candidates(
    bundle: Bundle, user: np.ndarray, seen: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest unseen items by comparison with every item; fewer than `count` if there are fewer."""
    scores = bundle.item_vectors @ user
    scores[seen] = -np.inf
    best = top_items(scores[None], count)[0]
    best = best[best >= 0]
    return best, scores[best]
