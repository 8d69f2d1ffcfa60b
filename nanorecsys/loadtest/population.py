"""Users for a load test: as many as asked for, like the real ones, no two of them the same to the model.

A server that caches answers by the history's content would answer a copied user from the cache of
the first, and a load of such users would look warmer than it is. So no real history is copied whole
where that can be helped.
"""

import numpy as np

from nanorecsys.data import Histories
from nanorecsys.loadtest.errors import PopulationError

WINDOW = 200  # last events of a history that the model reads
_ROUNDS = 200  # of exchanges, after which histories are too short to differ


def bootstrap_histories(
    histories: Histories, n_users: int, seed: int, window: int = WINDOW
) -> Histories:
    """Histories of `n_users`, of the real length distribution; users 0 to n - 1 are the n real ones, unchanged.

    For every further user a length is drawn from the real ones, then a real user with a history of
    at least this length, then a stretch of this length out of it (so order and neighbourhoods of
    items are real). Where the last `window` items, which is all that a model sees, are those of
    another user, two neighbouring events of that window change places, at random, until they are
    not: lengths and sets of items stay as they were.

    Args:
        histories: the real ones; empty ones are not drawn.
        n_users: no more than the real ones: the first of them.
        seed: of everything drawn.
        window: events that the model sees.

    Raises:
        PopulationError: no users asked for, no event to draw from, or histories too short for so
            many to differ.

    >>> real = Histories(np.array([0, 3, 7]), np.array([5, 6, 7, 1, 2, 3, 4], np.int32))
    >>> many = bootstrap_histories(real, 8, seed=0)
    >>> many.items[:7].tolist(), sorted(set(many.lengths.tolist()))
    ([5, 6, 7, 1, 2, 3, 4], [3, 4])
    """
    real = len(histories.lengths)
    if n_users < 1:
        raise PopulationError(f"expected at least one user, got {n_users}", "Ask for more users.")
    if n_users <= real:
        offsets = histories.offsets[: n_users + 1]
        return Histories(offsets, histories.items[: offsets[-1]])
    if not len(histories.items):
        raise PopulationError("no user has an event to draw from", "Take a data set with events.")
    rng = np.random.default_rng(seed)
    starts, lengths = _stretches(histories, n_users - real, rng)
    offsets = np.concatenate([histories.offsets, histories.offsets[-1] + np.cumsum(lengths)])
    within = np.arange(offsets[-1] - offsets[real]) - np.repeat(
        offsets[real:-1] - offsets[real], lengths
    )
    items = np.concatenate([histories.items, histories.items[np.repeat(starts, lengths) + within]])
    drawn = Histories(offsets, items)
    _make_distinct(drawn, real, window, rng)
    return drawn


def seen_keys(histories: Histories, users: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """A 64-bit key of each user's last `window` items, uint64 (len(users),): different keys, different items.

    A sum of products with random odd numbers by place. Equal keys of different items are possible,
    and as rare as 2^-64.
    """
    places = np.random.default_rng(0).integers(0, 2**63, window + 1, dtype=np.uint64) * 2 + 1
    lengths = np.minimum(histories.lengths[users], window)
    ends = histories.offsets[users + 1]
    first = np.cumsum(lengths) - lengths
    back = np.repeat(lengths + first, lengths) - np.arange(lengths.sum())  # 1 for the last event
    values = (histories.items[np.repeat(ends, lengths) - back].astype(np.uint64) + 1) * places[back]
    keys = np.zeros(len(users), np.uint64)
    some = lengths > 0
    if some.any():
        keys[some] = np.add.reduceat(values, first[some])
    return keys


def _stretches(
    histories: Histories, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Where n stretches of real histories begin, and how long they are."""
    by_length = np.argsort(histories.lengths, kind="stable")
    ascending = histories.lengths[by_length]
    lengths = rng.choice(ascending[ascending > 0], n)
    at_least = np.searchsorted(
        ascending, lengths
    )  # the first user, by length, who has so many events
    source = by_length[rng.integers(at_least, len(ascending))]
    return histories.offsets[source] + rng.integers(
        0, histories.lengths[source] - lengths + 1
    ), lengths


def _make_distinct(histories: Histories, real: int, window: int, rng: np.random.Generator) -> None:
    """Exchange neighbouring events of users from `real` on, in place, until no such user is seen twice."""
    users = np.arange(len(histories.lengths))
    keys = seen_keys(histories, users, window)
    for _ in range(_ROUNDS):
        again = np.ones(len(users), bool)
        again[np.unique(keys, return_index=True)[1]] = (
            False  # the first of each key, so a real one, stays
        )
        again = users[again & (users >= real)]
        if not len(again):
            return
        able = again[histories.lengths[again] > 1]
        seen = np.minimum(histories.lengths[able], window)
        place = histories.offsets[able + 1] - rng.integers(2, seen + 1)
        items = histories.items
        items[place], items[place + 1] = items[place + 1], items[place]
        keys[again] = seen_keys(histories, again, window)
    raise PopulationError(
        f"{len(again):,} of {len(users):,} users still have a history that another has: theirs are too short to differ",
        "Ask for fewer users, or take a data set with longer histories.",
    )
