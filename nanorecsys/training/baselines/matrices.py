"""Shared by the baselines: user-item matrices, co-occurrence counts, content, the back-off."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import sparse

from nanorecsys.data import Interactions
from nanorecsys.evaluation import Scorer
from nanorecsys.models.items import item_content

# Dense float32 rows held at once while a square item matrix is worked on.
BLOCK_BYTES = 16 * 2**20


def age_in_events(known: Interactions, n_users: int) -> np.ndarray:
    """Number of later events of the same user, int64 (n,); 0 for a user's last event."""
    counts = np.bincount(known.user, minlength=n_users)
    return np.cumsum(counts)[known.user] - 1 - np.arange(len(known))


def recency_weights(known: Interactions, n_users: int, power: float) -> np.ndarray:
    """Weights (1 + age in events) ** -power, float32 (n,): 1 for a user's last event.

    Age counts events, not days: most users of a rating site give all their ratings in a few
    sittings.
    """
    return (1.0 + age_in_events(known, n_users)).astype(np.float32) ** np.float32(-power)


def user_item(
    known: Interactions, n_users: int, n_items: int, weights: np.ndarray | None = None
) -> sparse.csr_array:
    """Sparse float32 (n_users, n_items): 1, or the sum of weights (n,), at a user's items."""
    data = np.ones(len(known), np.float32) if weights is None else weights
    matrix = sparse.coo_array((data, (known.user, known.item)), (n_users, n_items)).tocsr()
    if weights is None:
        matrix.data[:] = 1.0
    return matrix


def by_recency(known: Interactions, n_users: int, n_items: int, power: float) -> sparse.csr_array:
    """Sparse float32 (n_users, n_items): the sum of the `recency_weights` at a user's items."""
    return user_item(known, n_users, n_items, recency_weights(known, n_users, power))


def co_counts(x: sparse.csr_array) -> Iterator[tuple[slice, np.ndarray]]:
    """The dense float32 matrix x.T @ x (n_items, n_items) by blocks: rows, block (b, n_items)."""
    n_items = x.shape[1]
    by_item = x.T.tocsr()
    step = max(1, BLOCK_BYTES // (4 * n_items))
    for start in range(0, n_items, step):
        rows = slice(start, min(start + step, n_items))
        yield rows, (by_item[rows] @ x).toarray()


def popularity(known: Interactions, n_items: int) -> np.ndarray:
    """Each item's share of the events, float32 (n_items,); zeros without any event."""
    counts = np.bincount(known.item, minlength=n_items)
    return (counts / max(1, len(known))).astype(np.float32)


def with_fallback(score: Scorer, known: Interactions, n_users: int, n_items: int) -> Scorer:
    """The same scorer, except that popularity scores a user without any event."""
    shares = popularity(known, n_items)
    has_history = np.bincount(known.user, minlength=n_users) > 0
    return lambda users: np.where(has_history[users, None], score(users), shares)


def content_features(items: pd.DataFrame) -> sparse.csr_array:
    """Genres and five-year bins of the items, float32 (n_items, n_features).

    A feature's weight is log(n_items / items that have it), its inverse document frequency. Rows
    have unit norm, so that the product of two rows is their cosine; a row without features is 0.
    Left out are the words of the titles, which the retriever reads too: they brought the Markov
    chain nothing on validation, and made EASE ten times slower.

    Args:
        items: One row per item, as in `nanorecsys.data.Dataset`.
    """
    content = item_content(items)
    shape = len(items), len(content.names)
    ones = np.ones(len(content.features), np.float32)
    has = sparse.csr_array((ones, content.features.numpy(), content.offsets.numpy()), shape)
    has = has[:, np.flatnonzero([not name.startswith("word:") for name in content.names])]
    weighted = has @ sparse.diags_array(np.log(len(items) / has.sum(axis=0)))
    norm = np.sqrt(weighted.power(2).sum(axis=1))
    unit = sparse.diags_array(1 / np.where(norm > 0, norm, 1)) @ weighted
    return unit.astype(np.float32).tocsr()
