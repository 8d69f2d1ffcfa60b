"""Users of a load test: as many as asked for, alike the real ones, and the mix in which they ask.

Drawn users may have equal histories. The server's cache tells users apart by their numbers, so the
answer to one is never that of another.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nanorecsys.data import Histories
from nanorecsys.loadtest.errors import LoadTestError

MOST_HOT = 1 / 8  # share of the users that is hot; each worker's cache holds at least a quarter


def bootstrap_histories(histories: Histories, n_users: int, seed: int) -> Histories:
    """Draw histories of `n_users` with the real distribution of lengths; the real users come first.

    Each further user gets a length drawn from the real ones, and a stretch of that length from the
    history of a random user who has so many events. Order and neighbourhoods of items are therefore
    real.

    Args:
        histories: Real histories; empty ones are not drawn.
        n_users: Number of users, at least as many as the real ones.
        seed: Random seed.

    >>> real = Histories(np.array([0, 3, 7]), np.array([5, 6, 7, 1, 2, 3, 4], np.int32))
    >>> many = bootstrap_histories(real, 8, seed=0)
    >>> many.items[:7].tolist(), sorted(set(many.lengths.tolist()))
    ([5, 6, 7, 1, 2, 3, 4], [3, 4])
    """
    rng = np.random.default_rng(seed)
    by_length = np.argsort(histories.lengths, kind="stable")
    ascending = histories.lengths[by_length]
    lengths = rng.choice(ascending[ascending > 0], n_users - len(ascending))
    first_long_enough = np.searchsorted(ascending, lengths)
    source = by_length[rng.integers(first_long_enough, len(ascending))]
    starts = histories.offsets[source] + rng.integers(histories.lengths[source] - lengths + 1)
    stretches = [histories.items[start:][:n] for start, n in zip(starts, lengths, strict=True)]
    return Histories(
        np.concatenate([histories.offsets, histories.offsets[-1] + np.cumsum(lengths)]),
        np.concatenate([histories.items, *stretches]),
    )


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
        LoadTestError: A size or share is out of bounds.
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
            raise LoadTestError(
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
        places = (cold_used + np.arange(cold)) % max(self.n_users - self.hot_users, 1)
        users[~hot] = self.order[self.hot_users + places]
        return users, hot
