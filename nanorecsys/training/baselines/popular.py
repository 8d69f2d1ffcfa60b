"""Popularity, over all time and over a window before each user's last event."""

from dataclasses import dataclass

import numpy as np

from nanorecsys.data import Interactions, expand
from nanorecsys.evaluation import Scorer
from nanorecsys.training.baselines.matrices import popularity

DAY_S = 86_400


@dataclass(frozen=True)
class Popularity:
    """score(u, i) = share of the known events that are of item i, the same for every user."""

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        shares = popularity(known, n_items)
        return lambda users: np.tile(shares, (len(users), 1))


@dataclass(frozen=True)
class RecentPopularity:
    """score(u, i) = events of item i in the `days` up to u's last known event, plus its share of all known events.

    The share, below 1, only orders items of equal count. Events after u's last one do not count, so
    that nothing leaks from the future; a user without an event looks back from the last event of
    all.

    Args:
        days: length of the window.
    """

    days: float = 30

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer:
        in_time = np.argsort(known.timestamp, kind="stable")
        item, time = known.item[in_time], known.timestamp[in_time]
        cut = np.full(n_users, time[-1] if len(time) else 0)
        cut[known.user] = known.timestamp  # sorted by time within a user: the last assignment stays
        start = np.searchsorted(time, cut - self.days * DAY_S)
        stop = np.searchsorted(time, cut, side="right")
        shares = popularity(known, n_items)

        def score(users: np.ndarray) -> np.ndarray:
            row, event = expand(start[users], stop[users])
            counts = np.bincount(row * n_items + item[event], minlength=len(users) * n_items)
            return counts.reshape(len(users), n_items).astype(np.float32) + shares

        return score
