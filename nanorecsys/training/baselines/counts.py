"""Baselines that count: popularity, item neighbours (item-kNN) and transitions (Markov)."""

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from nanorecsys.data import Interactions, expand
from nanorecsys.evaluation import Scorer
from nanorecsys.training.baselines import matrices

DAY_S = 86_400


@dataclass(frozen=True)
class Popularity:
    """score(u, i) = item i's share of the known events, the same for every user."""

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        shares = matrices.popularity(known, n_items)
        return lambda users: np.tile(shares, (len(users), 1))


@dataclass(frozen=True)
class RecentPopularity:
    """score(u, i) = events of i in the `days` up to u's last one, plus i's share of all events.

    The share, below 1, only orders items of equal count. Events after u's last one do not count, so
    that nothing leaks from the future. A user without an event looks back from the last event of
    all.

    Args:
        days: Length of the window.
    """

    days: float = 30

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        in_time = np.argsort(known.timestamp, kind="stable")
        item, time = known.item[in_time], known.timestamp[in_time]
        cut = np.full(n_users, time[-1] if len(time) else 0)
        cut[known.user] = known.timestamp  # sorted by time within a user: the last assignment stays
        start = np.searchsorted(time, cut - self.days * DAY_S)
        stop = np.searchsorted(time, cut, side="right")
        shares = matrices.popularity(known, n_items)

        def score(users: np.ndarray) -> np.ndarray:
            row, event = expand(start[users], stop[users])
            counts = np.bincount(row * n_items + item[event], minlength=len(users) * n_items)
            return counts.reshape(len(users), n_items).astype(np.float32) + shares

        return score


@dataclass(frozen=True)
class ItemKNN:
    """score(u, i) = sum over u's events j of w(j) s(j, i), with s the shrunk cosine

        s(j, i) = n(j, i) / (sqrt(n(j) n(i)) + shrinkage)

    kept for the `neighbours` most similar i of each j; n counts users. (Sarwar et al. 2001;
    shrinkage as in Bell and Koren 2007.) w(j) is `recency_weights`.

    Args:
        neighbours: Items kept for each item.
        shrinkage: Shrinkage in users; a larger one trusts rare pairs less.
        recency: Power of the decay over a user's history; 0 for none.
    """

    neighbours: int = 200
    shrinkage: float = 20.0
    recency: float = 1.0

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        x = matrices.user_item(known, n_users, n_items)
        root = np.sqrt(x.sum(axis=0, dtype=np.float32))
        keep = min(self.neighbours, n_items)
        parts = []
        for rows, counts in matrices.co_counts(x):
            norm = np.multiply.outer(root[rows], root)
            norm += self.shrinkage
            similar = np.divide(counts, np.maximum(norm, 1, out=norm), out=counts)  # no 0 / 0
            similar[np.arange(len(similar)), np.arange(rows.start, rows.stop)] = 0
            # Negated: numpy selects from the front far faster when most values are equal (zero).
            bar = -np.partition(-similar, keep - 1, axis=1)[:, keep - 1, None]
            similar[similar < bar] = 0
            parts.append(sparse.csr_array(similar))
        similarity = sparse.vstack(parts, format="csr")
        weights = matrices.by_recency(known, n_users, n_items, self.recency)
        return matrices.with_fallback(
            lambda users: (weights[users] @ similarity).toarray(), known, n_users, n_items
        )


@dataclass(frozen=True)
class Markov:
    """score(u, i) = sum over u's last events j of w(j) p(i | j), plus backoff times popularity

        w(j) = (1 + age(j)) ** -recency
        p(i | j) = t(j, i) / ((sum over i of t(j, i) + shrinkage) n(i) ** debias)

    where t(j, i) sums (1 / d) ** gap over the times that i came d events after j, d <= window, and
    n(i) counts events: a first-order chain with skips (Shani, Heckerman and Brafman 2005).

    With features, p(i | j) also gets content cos(j, i) (n(i) + 1) / (events + items). The chain
    then also jumps to items of similar content, and an item without events has a chance.

    Args:
        window: Largest distance d.
        gap: Power of the decay over d.
        last: Number of u's last events that vote.
        recency: Power of the decay over their age.
        shrinkage: Shrinkage in transitions; a larger one trusts rare j less.
        debias: Power of the target's popularity that is divided out.
        backoff: Weight of the popularity share.
        content: Weight of a jump by content.
        features: The items' features, see `content_features`; None for a chain without content.
    """

    window: int = 5
    gap: float = 1.0
    last: int = 10
    recency: float = 1.0
    shrinkage: float = 5.0
    debias: float = 0.25
    backoff: float = 0.1
    content: float = 0.0
    features: sparse.csr_array | None = field(default=None, repr=False, compare=False)

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
        scaled = sparse.diags_array(source) @ transitions @ sparse.diags_array(target)
        transitions = scaled.astype(np.float32).tocsr()
        weights = matrices.recency_weights(known, n_users, self.recency)
        weights[matrices.age_in_events(known, n_users) >= self.last] = 0
        recent = matrices.user_item(known, n_users, n_items, weights)
        recent.eliminate_zeros()
        floor = np.float32(self.backoff) * matrices.popularity(known, n_items)
        if self.features is None:
            return lambda users: (recent[users] @ transitions).toarray() + floor
        profiles, columns = recent @ self.features, self.features.T.tocsr()
        chance = np.float32(self.content) * (counts + 1) / (len(known) + n_items)

        def score(users: np.ndarray) -> np.ndarray:
            by_content = (profiles[users] @ columns).toarray() * chance
            return (recent[users] @ transitions).toarray() + by_content + floor

        return score
