"""The types that every chapter shares: interactions, their data set, and histories."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Interactions:
    """The events, one row each, sorted by (user, timestamp, item).

    Users and items are numbered from 0 without gaps, in the order of their raw ids. No two events
    of the file are equal in (user, item, timestamp), so the order is total and does not depend on
    the order of the rows there. Fractions of a second, where a file has them, order the events and
    tell them apart; they are not kept, so that two rows here may be equal.
    """

    user: np.ndarray  # int32 (n,)
    item: np.ndarray  # int32 (n,)
    rating: np.ndarray  # float32 (n,)
    timestamp: np.ndarray  # int64 (n,), seconds since 1970-01-01 UTC
    # sha256 over the raw ids in the order of their numbers, so that the hash of a split covers raw
    # ids. Empty where there are no raw ids.
    ids_sha256: str = ""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        return int(self.user[-1]) + 1 if len(self) else 0

    @cached_property
    def n_items(self) -> int:
        return int(self.item.max()) + 1 if len(self) else 0

    def take(self, rows: np.ndarray) -> "Interactions":
        """The events of a mask, bool (n,), or in an order of their indices, int (n,)."""
        columns = (self.user, self.item, self.rating, self.timestamp)
        user, item, rating, timestamp = (column[rows] for column in columns)
        return Interactions(user, item, rating, timestamp, self.ids_sha256)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions with the raw ids behind the numbers, and the titles and genres of the items.

    users: user int32, user_id (int64 or str).
    items: item int32, item_id (int64 or str), title str (as published, with its year; the raw id
    where there is none), year Int16 (null where the title does not end in one), genres object (a
    list of str, empty where none is listed). Row i of either describes number i. Every item has an
    event: movies without a rating are left out.
    """

    name: str
    interactions: Interactions
    users: pd.DataFrame
    items: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Histories:
    """Every user's items in time order, as compressed sparse rows.

    User u has `items[offsets[u]:offsets[u + 1]]`.
    """

    offsets: np.ndarray  # int64 (n_users + 1,)
    items: np.ndarray  # int32 (n,)

    @property
    def lengths(self) -> np.ndarray:
        """Events of each user, int64 (n_users,)."""
        return np.diff(self.offsets)

    def take(self, users: np.ndarray) -> "Histories":
        """The histories of some users, int (u,), in the given order.

        >>> two = Histories(np.array([0, 2, 3]), np.array([7, 8, 9]))
        >>> two.take(np.array([1, 0])).items.tolist()
        [9, 7, 8]
        """
        row, entry = expand(self.offsets[users], self.offsets[users + 1])
        return Histories(np.searchsorted(row, np.arange(len(users) + 1)), self.items[entry])


def expand(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ranges start[r] .. stop[r] - 1.

    Returns:
        row r and index of each element, int64 (elements,).

    >>> expand(np.array([3, 0, 7]), np.array([5, 0, 8]))
    (array([0, 0, 2]), array([3, 4, 7]))
    """
    length = stop - start
    row = np.repeat(np.arange(len(length)), length)
    before = np.cumsum(length) - length
    return row, np.arange(len(row)) + np.repeat(start - before, length)


def histories(interactions: Interactions, mask: np.ndarray | None = None) -> Histories:
    """Every user's items in time order; a user without an event has an empty history.

    Args:
        interactions: n events of n_users users.
        mask: The events to keep, bool (n,), such as `split.part == 0`; all of them by default.

    >>> events = Interactions(
    ...     user=np.array([0, 0, 1], np.int32),
    ...     item=np.array([2, 0, 1], np.int32),
    ...     rating=np.ones(3, np.float32),
    ...     timestamp=np.array([5, 6, 1]),
    ... )
    >>> histories(events).offsets.tolist(), histories(events, events.item > 0).items.tolist()
    ([0, 2, 3], [2, 1])
    """
    user = interactions.user if mask is None else interactions.user[mask]
    item = interactions.item.copy() if mask is None else interactions.item[mask]
    offsets = np.zeros(interactions.n_users + 1, np.int64)
    np.cumsum(np.bincount(user, minlength=interactions.n_users), out=offsets[1:])
    return Histories(offsets, item)
