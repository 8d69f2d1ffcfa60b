"""A data set made smaller: some of its users with all that they did."""

import numpy as np
import pandas as pd

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Interactions
from nanorecsys.data.load import ids_sha256


def sample_users(dataset: Dataset, users: int, seed: int = 0) -> Dataset:
    """Some users drawn at random, each with the whole history, and the items that they had, numbered anew.

    Args:
        dataset: to draw from.
        users: how many, from 2 to all of them.
        seed: of the draw.

    Returns:
        A data set whose name says that it is a sample, since nothing published of the whole is true
        of it.

    Raises:
        DataError: there are not so many users, or fewer than two are asked for.

    >>> from nanorecsys.data import load_dataset
    >>> small = sample_users(load_dataset(), 100)
    >>> small.name, small.interactions.n_users, len(small.items) == small.interactions.n_items
    ('ml-latest-small-2016, 100 users', 100, True)
    """
    events = dataset.interactions
    if not 2 <= users <= events.n_users:
        raise DataError(
            f"sample_users is {users}; {dataset.name} has {events.n_users} users",
            f"Give 2 to {events.n_users}, or 0 for all of them.",
        )
    drawn = np.random.default_rng(seed).choice(events.n_users, users, replace=False)
    rows = np.isin(events.user, drawn)
    kept_users, user = np.unique(events.user[rows], return_inverse=True)
    kept_items, item = np.unique(events.item[rows], return_inverse=True)
    user_rows, item_rows = (
        _numbered(dataset.users, "user", kept_users),
        _numbered(dataset.items, "item", kept_items),
    )
    return Dataset(
        f"{dataset.name}, {users} users",
        Interactions(
            user.astype(np.int32),
            item.astype(np.int32),
            events.rating[rows],
            events.timestamp[rows],
            ids_sha256(user_rows["user_id"], item_rows["item_id"]),
        ),
        user_rows,
        item_rows,
    )


def _numbered(table: pd.DataFrame, number: str, kept: np.ndarray) -> pd.DataFrame:
    """The kept rows of a table of users or items, numbered anew."""
    rows = table.iloc[kept].reset_index(drop=True)
    rows[number] = np.arange(len(kept), dtype=np.int32)
    return rows
