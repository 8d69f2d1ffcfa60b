"""The two splits of the study: leave-one-out, and global temporal.

Tie rule of both: events are in the order of (timestamp, item), with items numbered in the order of
their raw ids. The rule is arbitrary where a user's events share a second, but it does not depend on
the order of the rows.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Interactions

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Split:
    """A division of the events into three parts."""

    name: str
    part: np.ndarray  # int8 (n,), aligned with the interactions: TRAIN, VALIDATION or TEST
    sha256: str  # hash over raw ids, timestamps and parts, see `split_sha256`


def split_sha256(interactions: Interactions, part: np.ndarray) -> str:
    """The hash that names a split: sha256 over raw ids, users, items, timestamps and parts.

    It is taken in the order of the interactions, so it does not depend on the order of the rows in
    the file. Ratings are not part of it.

    Args:
        interactions: n events.
        part: Part of each event, int8 (n,).
    """
    digest = hashlib.sha256(interactions.ids_sha256.encode())
    for column, dtype in (
        (interactions.user, "<i4"),
        (interactions.item, "<i4"),
        (interactions.timestamp, "<i8"),
        (part, "<i1"),
    ):
        digest.update(np.ascontiguousarray(column, dtype).data)
    return digest.hexdigest()


def leave_one_out(interactions: Interactions, min_history: int = 3) -> Split:
    """Each user's last event is the test, the last but one the validation, the rest training.

    Last means last by (timestamp, item), items numbered in raw-id order. A user with fewer than
    `min_history` events stays whole in training, so that no event is lost. The split leaks: a
    user's test event may lie before the training events of others (`describe.future_shares`
    measures how much).

    Args:
        interactions: n events.
        min_history: Number of events that a user needs to be tested, at least 3 (one for each
            part).

    Raises:
        DataError: `min_history` below 3, no user long enough, or all timestamps equal (no last
            event then).
    """
    if min_history < 3:
        raise DataError(
            f"min_history is {min_history}: a tested user needs an event in each of three parts",
            "Use 3 or more.",
        )
    _require_time(interactions)
    counts = np.bincount(interactions.user)
    last = (np.cumsum(counts) - 1)[counts >= min_history]
    if not len(last):
        raise DataError(
            f"no user has {min_history} events or more: leave-one-out has nothing to test",
            f"Bring longer histories: the longest here is {counts.max()}.",
        )
    part = np.full(len(interactions), TRAIN, np.int8)
    part[last] = TEST
    part[last - 1] = VALIDATION
    return Split("leave_one_out", part, split_sha256(interactions, part))


def global_temporal(
    interactions: Interactions, validation: float = 0.1, test: float = 0.1
) -> Split:
    """The earliest events train, the latest test, with one border in time for all users.

    The borders are the timestamps at the quantiles 1 - validation - test and 1 - test of all
    events. An event at a border belongs to the later part, with all events of the same second:
    equal timestamps never straddle a border, and nothing in a part lies before anything in an
    earlier one. Users and items of the later parts may be unknown to training.

    Args:
        interactions: n events.
        validation: Share of the events for validation, in (0, 1).
        test: Share of the events for the test, in (0, 1); the two together are below 1.

    Raises:
        DataError: shares out of range, all timestamps equal, or a part left empty by equal
            timestamps.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise DataError(
            f"validation={validation} and test={test} leave no events for one of the three parts",
            "Both must be above 0, and their sum below 1.",
        )
    _require_time(interactions)
    n = len(interactions)
    ranks = [min(int(n * (1 - validation - test)), n - 1), min(int(n * (1 - test)), n - 1)]
    borders = np.partition(interactions.timestamp, ranks)[ranks]
    part = np.searchsorted(borders, interactions.timestamp, side="right").astype(np.int8)
    sizes = np.bincount(part, minlength=3)
    if not sizes.all():
        raise DataError(
            "equal timestamps leave a part empty: train, validation and test have "
            f"{sizes.tolist()} events",
            "Take other shares, or bring timestamps of a finer unit (seconds rather than days).",
        )
    return Split("global_temporal", part, split_sha256(interactions, part))


def _require_time(interactions: Interactions) -> None:
    timestamp = interactions.timestamp
    if not len(timestamp) or timestamp.min() == timestamp.max():
        raise DataError(
            f"all {len(timestamp)} timestamps are equal: there is nothing to split by time",
            "Bring the times of the events, in seconds, in the timestamp column.",
        )
