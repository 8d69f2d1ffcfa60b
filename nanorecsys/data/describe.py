"""Measures of a data set and its splits: popularity, timestamp ties and leakage."""

import numpy as np
import pandas as pd

from nanorecsys.data.interactions import Interactions
from nanorecsys.data.split import TEST, TRAIN, Split


def gini(counts: np.ndarray) -> float:
    """How unevenly events are spread: 0 if all items have equally many, near 1 if one has them all.

    sum_i (2 i - n - 1) x_i / (n sum x) over the n counts x in ascending order, i from 1.

    Args:
        counts: int (n,), events of each item.

    >>> gini(np.array([1, 1, 1, 1])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    n = len(counts)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(counts)).sum() / (n * counts.sum()))


def tied_event_share(interactions: Interactions) -> float:
    """Share of the events that have the same timestamp as another event of their user."""
    times = pd.DataFrame({"user": interactions.user, "timestamp": interactions.timestamp})
    return float(times.duplicated(keep=False).mean())


def last_two_tied_share(interactions: Interactions) -> float:
    """Share of the users whose last two events tie: the tie rule picks their leave-one-out test."""
    timestamp, lengths = interactions.timestamp, np.bincount(interactions.user)
    last = (np.cumsum(lengths) - 1)[lengths > 1]
    return float((timestamp[last] == timestamp[last - 1]).sum() / len(lengths))


def future_shares(interactions: Interactions, split: Split) -> np.ndarray:
    """For each test event, the share of the other users' training events that happen after it.

    It measures how much of the future a model has trained on when it is tested. A global temporal
    split has 0 everywhere by construction. After Ji, Sun, Zhang, Li 2023, "A critical study on data
    leakage in recommender system offline evaluation", ACM TOIS 41(3), doi 10.1145/3569930.

    Args:
        interactions: n events.
        split: A split in which no user trains on an event after an own test event, as in both
            splits of the study.

    Returns:
        float64 (n_test,), in the order of the test events.
    """
    is_train, is_test = split.part == TRAIN, split.part == TEST
    train_time = interactions.timestamp[is_train]
    own = np.bincount(interactions.user[is_train], minlength=interactions.n_users)
    of_others = len(train_time) - own[interactions.user[is_test]]
    times = interactions.timestamp[is_test]
    later = len(train_time) - np.searchsorted(np.sort(train_time), times, side="right")
    return later / of_others


def item_seen_only_later_share(interactions: Interactions, split: Split) -> float:
    """Share of the test events whose item has training events, all of them after the test event."""
    is_train, is_test = split.part == TRAIN, split.part == TEST
    never = np.iinfo(np.int64).max
    first = np.full(interactions.n_items, never)  # first training event of each item
    np.minimum.at(first, interactions.item[is_train], interactions.timestamp[is_train])
    tested = first[interactions.item[is_test]]
    return float(((tested > interactions.timestamp[is_test]) & (tested < never)).mean())
