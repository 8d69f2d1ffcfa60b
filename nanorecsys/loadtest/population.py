"""Users of a load test: as many as asked for, alike the real ones, and the mix in which they ask.

A server that caches answers by the content of a history would answer a copied user from the cache
of the first, and the load would be warmer than it looks. So no two drawn users look alike to the
model, and there are fewer of them where the real histories are too short to differ.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nanorecsys.data import Histories
from nanorecsys.loadtest.errors import PopulationError

WINDOW = 200  # last events of a history that the model reads
SHORT = 6  # events of a history that always differs, since its neighbours can change places
MOST_HOT = 1 / 8  # share of the users that is hot; each worker's cache holds at least a quarter
ROUNDS = 200  # exchanges of events; users who are alike then are left out


def bootstrap_histories(
    histories: Histories, n_users: int, seed: int, window: int = WINDOW
) -> Histories:
    """Draw histories of `n_users` with the real distribution of lengths; the real users come first.

    No two users are alike to the model: of those with the same window, the first one stays.

    Each further user gets a length drawn from the real ones, and a stretch of that length from the
    history of a random user who has so many events. Order and neighbourhoods of items are therefore
    real. Where the last `window` items are those of another user, random neighbours in the window
    change places until they differ, which keeps the length and the set of items; a single event is
    drawn again. Where short histories cannot differ, there are fewer users of all lengths.

    Args:
        histories: Real histories; empty ones are not drawn.
        n_users: Number of users, at most; more than the real ones.
        seed: Random seed.
        window: Number of last events that the model sees.

    >>> real = Histories(np.array([0, 3, 7]), np.array([5, 6, 7, 1, 2, 3, 4], np.int32))
    >>> many = bootstrap_histories(real, 8, seed=0)
    >>> many.items[:7].tolist(), sorted(set(many.lengths.tolist()))
    ([5, 6, 7, 1, 2, 3, 4], [3, 4])
    """
    n_real = len(histories.lengths)
    rng = np.random.default_rng(seed)
    starts, lengths = _draw_stretches(histories, n_users - n_real, rng)
    stretches = [histories.items[start:][:n] for start, n in zip(starts, lengths, strict=True)]
    drawn = Histories(
        np.concatenate([histories.offsets, histories.offsets[-1] + np.cumsum(lengths)]),
        np.concatenate([histories.items, *stretches]),
    )
    _make_distinct(drawn, n_real, window, rng)
    distinct = distinct_users(drawn, window)
    classes = np.minimum(drawn.lengths, SHORT)
    counts, kept = np.bincount(classes), np.bincount(classes[distinct], minlength=SHORT + 1)
    shares = kept[: len(counts)] / np.maximum(counts, 1)
    wanted = shares[counts > 0].min() / np.where(shares > 0, shares, 1)
    return drawn.take(distinct[rng.random(len(distinct)) < wanted[classes[distinct]]])


def distinct_users(histories: Histories, window: int = WINDOW) -> np.ndarray:
    """The first user of each history, as far as the model sees it, ascending int64 (kept,)."""
    keys = window_keys(histories, np.arange(len(histories.lengths)), window)
    return np.sort(np.unique(keys, return_index=True)[1])


def window_keys(histories: Histories, users: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Hash each user's last `window` items to 64 bits, int64 (len(users),)."""
    ends = histories.offsets[users + 1]
    starts = ends - np.minimum(histories.lengths[users], window)
    seen = zip(starts.tolist(), ends.tolist(), strict=True)
    return np.array([hash(histories.items[start:end].tobytes()) for start, end in seen], np.int64)


def _draw_stretches(
    histories: Histories, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw where n stretches of real histories begin, and their lengths."""
    by_length = np.argsort(histories.lengths, kind="stable")
    ascending = histories.lengths[by_length]
    lengths = rng.choice(ascending[ascending > 0], n)
    first_long_enough = np.searchsorted(ascending, lengths)
    source = by_length[rng.integers(first_long_enough, len(ascending))]
    shift = rng.integers(0, histories.lengths[source] - lengths + 1)
    return histories.offsets[source] + shift, lengths


def _make_distinct(
    histories: Histories, n_real: int, window: int, rng: np.random.Generator
) -> None:
    """Exchange neighbouring events of drawn users, in place, until no window is seen twice."""
    drawn = np.arange(n_real, len(histories.lengths))
    keys = window_keys(histories, np.arange(len(histories.lengths)), window)
    items = histories.items
    for _ in range(ROUNDS):
        first = np.unique(keys, return_index=True)[1]  # the first user of each key stays
        changed = np.setdiff1d(drawn, first, assume_unique=True)
        if not len(changed):
            return
        single = changed[histories.lengths[changed] == 1]
        items[histories.offsets[single]] = rng.choice(items, len(single))
        able = changed[histories.lengths[changed] > 1]
        seen = np.minimum(histories.lengths[able], window)
        place = histories.offsets[able + 1] - rng.integers(2, seen + 1)
        items[place], items[place + 1] = items[place + 1], items[place]
        keys[changed] = window_keys(histories, changed, window)


@dataclass(frozen=True)
class Workload:
    """A mix of hot and cold users.

    Args:
        n_users: Number of users.
        hot_users: Size of the hot set, drawn from all users; at most a share of them, `MOST_HOT`.
        cold_share: Share of the requests from cold users. They come in the order of a permutation,
            so no cold user returns before all have come.
        seed: Random seed of the hot set, the permutation and the mix.

    Raises:
        PopulationError: A size or share is out of bounds.
    """

    n_users: int
    hot_users: int
    cold_share: float
    seed: int = 0

    def __post_init__(self) -> None:
        most = math.ceil(MOST_HOT * self.n_users)
        object.__setattr__(self, "hot_users", min(self.hot_users, most))
        least = int(self.cold_share < 1)
        if not 0 <= self.cold_share <= 1 or self.n_users < 2 or self.hot_users < least:
            raise PopulationError(
                "expected a share from 0 to 1 of cold users, and a hot set, got a share of "
                f"{self.cold_share}, and {self.hot_users} hot of {self.n_users} users",
                "The original's share is 0.3. Cold users alone (a share of 1) need no hot set.",
            )

    @cached_property
    def order(self) -> np.ndarray:
        """All users, int32 (n_users,): the hot ones, then the cold ones in the order they come."""
        return np.random.default_rng([self.seed, 0]).permutation(self.n_users).astype(np.int32)

    @property
    def hot(self) -> np.ndarray:
        """The hot set, int32 (hot_users,)."""
        return self.order[: self.hot_users]

    @property
    def n_cold(self) -> int:
        """Number of users outside the hot set."""
        return self.n_users - self.hot_users

    def draw(self, n: int, cold_used: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw the users of n requests.

        Args:
            n: Number of requests.
            cold_used: Number of cold users in earlier draws. The permutation starts again after its
                end; another number also draws another mix.

        Returns:
            Users, int32 (n,), and whether each comes from the hot set, bool (n,).

        >>> users, hot = Workload(1000, hot_users=10, cold_share=0.3, seed=1).draw(200)
        >>> len(set(users[~hot].tolist())) + int(hot.sum()), len(set(users[hot].tolist()))
        (200, 10)
        """
        rng = np.random.default_rng([self.seed, 1, cold_used])
        hot = rng.random(n) >= self.cold_share
        cold = n - int(hot.sum())
        users = np.empty(n, np.int32)
        users[hot] = rng.choice(self.hot, n - cold)
        places = (cold_used + np.arange(cold)) % max(self.n_cold, 1)
        users[~hot] = self.order[self.hot_users + places]
        return users, hot
