"""Who asks: a share of users whose answer nobody has asked for yet, and a hot set that asks again and again."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nanorecsys.loadtest.errors import PopulationError


@dataclass(frozen=True)
class Workload:
    """A mix of hot and cold users.

    Args:
        n_users: numbers 0 to n_users - 1.
        hot_users: size of the hot set, drawn from all users.
        cold_share: of requests; cold users come in the order of one permutation, so none comes
            twice before all have.
        seed: of the hot set, the permutation and the mix.
        zipf: exponent of a replay by popularity instead, of all users; the hot set are then the
            most popular, and `cold_share` is not used.

    Raises:
        PopulationError: a size or share out of bounds.
    """

    n_users: int
    hot_users: int
    cold_share: float
    seed: int = 0
    zipf: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.cold_share <= 1:
            raise PopulationError(
                f"expected a cold share from 0 to 1, got {self.cold_share}",
                "0.3 is the original's.",
            )
        if self.zipf is not None and self.zipf <= 0:
            raise PopulationError(
                f"expected a Zipf exponent above 0, got {self.zipf}", "1 is usual."
            )
        low = 1 if self.cold_share < 1 or self.zipf else 0
        if not low <= self.hot_users <= self.n_users:
            raise PopulationError(
                f"expected {low} to {self.n_users} hot users, got {self.hot_users}",
                "Take fewer hot users, or more users.",
            )

    @cached_property
    def order(self) -> np.ndarray:
        """All users, int32 (n_users,): the hot ones first, then the cold ones in the order they come."""
        return np.random.default_rng([self.seed, 0]).permutation(self.n_users).astype(np.int32)

    @property
    def hot(self) -> np.ndarray:
        """The hot set, int32 (hot_users,)."""
        return self.order[: self.hot_users]

    @property
    def n_cold(self) -> int:
        """Users outside the hot set."""
        return self.n_users - self.hot_users

    def draw(self, n: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The users of n requests, in order.

        Args:
            n: requests.
            start: cold users that have been used: the sum of those of earlier draws. The
                permutation begins anew after its end; another start also draws another mix.

        Returns:
            Users, int32 (n,), and whether each was drawn from the hot set, bool (n,).

        Raises:
            PopulationError: more cold users in one draw than there are.

        >>> users, hot = Workload(1000, hot_users=10, cold_share=0.3, seed=1).draw(200)
        >>> len(set(users[~hot].tolist())) + int(hot.sum()), len(set(users[hot].tolist()))
        (200, 10)
        """
        rng = np.random.default_rng([self.seed, 1, start])
        if self.zipf is not None:
            weights = np.cumsum(np.arange(1, self.n_users + 1) ** -self.zipf)
            rank = np.searchsorted(weights, rng.random(n) * weights[-1], side="right")
            return self.order[rank], rank < self.hot_users
        hot = rng.random(n) >= self.cold_share
        cold = n - int(hot.sum())
        if cold > self.n_cold:
            raise PopulationError(
                f"{cold:,} cold users are wanted, and {self.n_cold:,} are not in the hot set of {self.hot_users:,}",
                "Take more users, a shorter run, or a smaller cold share.",
            )
        users = np.empty(n, np.int32)
        users[hot] = rng.choice(self.hot, n - cold) if cold < n else 0
        users[~hot] = self.order[self.hot_users + (start + np.arange(cold)) % max(self.n_cold, 1)]
        return users, hot
