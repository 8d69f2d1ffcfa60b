"""Item-based neighbours: cosine over users (item-kNN), and transitions over time (Markov)."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from nanorecsys.data import Interactions
from nanorecsys.evaluation import Scorer
from nanorecsys.training.baselines.matrices import (
    age_in_events,
    co_counts,
    popularity,
    recency_weights,
    user_item,
    with_fallback,
)


@dataclass(frozen=True)
class ItemKNN:
    """score(u, i) = sum over u's events j of w(j) s(j, i), with s the shrunk cosine

        s(j, i) = n(j, i) / (sqrt(n(j) n(i)) + shrinkage)

    kept for the `neighbours` most similar i of each j; n counts users. (Sarwar et al. 2001;
    shrinkage as in Bell and Koren 2007.) w(j) is `recency_weights`.

    Args:
        neighbours: items kept for each item.
        shrinkage: in users; larger trusts rare pairs less.
        recency: power of the decay over a user's history; 0 for none.
    """

    neighbours: int = 200
    shrinkage: float = 20.0
    recency: float = 1.0

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        x = user_item(known, n_users, n_items)
        root = np.sqrt(x.sum(axis=0, dtype=np.float32))
        keep = min(self.neighbours, n_items)
        parts = []
        for rows, counts in co_counts(x):
            norm = np.multiply.outer(root[rows], root)
            norm += self.shrinkage
            similar = np.divide(counts, np.maximum(norm, 1, out=norm), out=counts)  # no 0 / 0
            similar[np.arange(len(similar)), np.arange(rows.start, rows.stop)] = 0
            # Negated: numpy selects from the front far faster when most values are equal (zero).
            bar = -np.partition(-similar, keep - 1, axis=1)[:, keep - 1, None]
            similar[similar < bar] = 0
            parts.append(sparse.csr_array(similar))
        similarity = sparse.vstack(parts, format="csr")
        weights = user_item(known, n_users, n_items, recency_weights(known, n_users, self.recency))
        return with_fallback(
            lambda users: (weights[users] @ similarity).toarray(), known, n_users, n_items
        )


@dataclass(frozen=True)
class Markov:
    """score(u, i) = sum over u's last events j of (1 + age(j)) ** -recency p(i | j), plus backoff times popularity.

        p(i | j) = t(j, i) / ((sum over i of t(j, i) + shrinkage) n(i) ** debias)

    where t(j, i) sums (1 / d) ** gap over the times that i came d events after j, d <= window, and
    n(i) counts events: a first-order chain with skips (Shani, Heckerman and Brafman 2005).

    Args:
        window: largest distance d.
        gap: power of the decay over d.
        last: how many of u's last events vote.
        recency: power of the decay over their age.
        shrinkage: in transitions; larger trusts rare j less.
        debias: power that takes popularity out of the target.
        backoff: weight of the popularity share.
    """

    window: int = 5
    gap: float = 1.0
    last: int = 10
    recency: float = 1.0
    shrinkage: float = 5.0
    debias: float = 0.25
    backoff: float = 0.1

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        transitions = sparse.csr_array((n_items, n_items), dtype=np.float32)
        for d in range(1, self.window + 1):
            same_user = known.user[:-d] == known.user[d:]
            pair = known.item[:-d][same_user], known.item[d:][same_user]
            weight = np.full(len(pair[0]), d**-self.gap, np.float32)
            transitions += sparse.coo_array((weight, pair), shape=(n_items, n_items)).tocsr()
        counts = np.bincount(known.item, minlength=n_items).astype(np.float32)
        source = 1 / np.maximum(transitions.sum(axis=1) + self.shrinkage, 1.0)
        target = np.maximum(counts, 1.0) ** np.float32(-self.debias)
        transitions = (
            (sparse.diags_array(source) @ transitions @ sparse.diags_array(target))
            .astype(np.float32)
            .tocsr()
        )
        weights = recency_weights(known, n_users, self.recency)
        weights[age_in_events(known, n_users) >= self.last] = 0
        recent = user_item(known, n_users, n_items, weights)
        recent.eliminate_zeros()
        floor = np.float32(self.backoff) * popularity(known, n_items)
        return lambda users: (recent[users] @ transitions).toarray() + floor
