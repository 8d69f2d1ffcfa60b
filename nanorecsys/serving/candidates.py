"""The items nearest to each user, without those already seen."""

from collections.abc import Sequence

import numpy as np

from nanorecsys.evaluation.ranking import top_items
from nanorecsys.serving.bundle import Bundle

DEEPER = 4  # depth of the second search, in candidates asked for


def candidates_of(
    bundle: Bundle, users: np.ndarray, seen: Sequence[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Retrieve the nearest unseen items of each user.

    The index is searched first, and searched deeper for a user who has seen most of what it finds.
    Who has seen most of that too is compared with every item.

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
    # Nobody has seen an item above these; an array for all of a large catalogue would cost more.
    above = 1 + max(int(items.max(initial=-1)) for items in seen)
    unseen = np.ones(above + 2, bool)
    unseen[-1] = False  # The index fills a short row with -1.
    for row, items in enumerate(seen):
        unseen[items] = False
        kept = unseen[np.minimum(found[row], above)].nonzero()[0][:count]
        best, values = found[row, kept], products[row, kept]
        if len(best) < count:
            best, values = _deeper_candidates(bundle, users[row : row + 1], items, count)
        unseen[items] = True
        candidates[row, : len(best)], scores[row, : len(best)] = best, values
    return candidates, scores


def _deeper_candidates(
    bundle: Bundle, user: np.ndarray, seen: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest unseen items of one user (1, d); fewer than `count` if there are fewer.

    They come from a deeper search if that finds enough, else from every item.
    """
    depth = min(DEEPER * count, bundle.manifest.n_items)
    [scores], [found] = bundle.index.search(user, depth)
    kept = np.isin(found, [-1, *seen], invert=True).nonzero()[0][:count]
    if len(kept) == count:
        return found[kept], scores[kept]
    scores = bundle.item_vectors @ user[0]
    scores[seen] = -np.inf
    best = top_items(scores[None], count)[0]
    best = best[best >= 0]
    return best, scores[best]
