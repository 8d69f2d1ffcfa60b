"""The result record of the data chapter."""

import msgspec
import numpy as np

from nanorecsys.data import describe
from nanorecsys.data.interactions import Dataset
from nanorecsys.data.split import TEST, TRAIN, VALIDATION, Split
from nanorecsys.study.spread import Interval

# Tokens to which the earlier benchmark is assumed to pad every history; its document does not say.
WINDOW = 200


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """One split: its hash, the sizes of its parts, the users and items of its test.

    A warm user or item has a training event.
    """

    sha256: str
    train_events: int
    validation_events: int
    test_events: int
    test_users: int
    test_warm_users: int
    test_items: int
    test_warm_items: int
    item_seen_only_later_share: float  # share of the test events, see `describe`


class DataResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 01 finds in a data set.

    `density` is the share of all (user, item) pairs that have an event; `padding_share` is the
    share of tokens that are padding when every history is cut or padded to `WINDOW`.
    `mostly_future` is the share of the leave-one-out test events with more than half of the other
    users' training events in their future, with its interval over users. `second` is what
    it finds in the second data set, None without one.
    """

    dataset: str
    ratings: int
    users: int
    items: int
    density: float
    first_day: str
    last_day: str
    history_min: int
    history_median: float
    history_max: int
    padding_share: float
    gini: float
    top_1_percent_share: float  # share of the events on the most popular 1 % of the items
    below_3_share: float  # share of the items with fewer than 3 events
    below_5_share: float
    tied_event_share: float
    last_two_tied_share: float
    splits: dict[str, SplitResult]
    mostly_future: Interval
    second: "DataResult | None" = None


def split_result(dataset: Dataset, split: Split) -> SplitResult:
    """The part of the record about one split."""
    interactions = dataset.interactions
    is_train, is_test = split.part == TRAIN, split.part == TEST
    users, items = np.unique(interactions.user[is_test]), np.unique(interactions.item[is_test])
    return SplitResult(
        sha256=split.sha256,
        train_events=int(is_train.sum()),
        validation_events=int((split.part == VALIDATION).sum()),
        test_events=int(is_test.sum()),
        test_users=len(users),
        test_warm_users=int(np.isin(users, interactions.user[is_train]).sum()),
        test_items=len(items),
        test_warm_items=int(np.isin(items, interactions.item[is_train]).sum()),
        item_seen_only_later_share=describe.item_seen_only_later_share(interactions, split),
    )


def data_result(dataset: Dataset, splits: dict[str, Split], mostly_future: Interval) -> DataResult:
    """The record of a data set.

    Args:
        dataset: The data set.
        splits: Its splits by name.
        mostly_future: See `DataResult`.
    """
    events = dataset.interactions
    lengths, counts = np.bincount(events.user), np.bincount(events.item)
    most_popular = np.sort(counts)[-int(np.ceil(len(counts) / 100)) :]
    return DataResult(
        dataset=dataset.name,
        ratings=len(events),
        users=events.n_users,
        items=events.n_items,
        density=len(events) / (events.n_users * events.n_items),
        first_day=_day(events.timestamp.min()),
        last_day=_day(events.timestamp.max()),
        history_min=int(lengths.min()),
        history_median=float(np.median(lengths)),
        history_max=int(lengths.max()),
        padding_share=1.0 - float(lengths.clip(max=WINDOW).mean()) / WINDOW,
        gini=describe.gini(counts),
        top_1_percent_share=float(most_popular.sum() / len(events)),
        below_3_share=float((counts < 3).mean()),
        below_5_share=float((counts < 5).mean()),
        tied_event_share=describe.tied_event_share(events),
        last_two_tied_share=describe.last_two_tied_share(events),
        splits={name: split_result(dataset, split) for name, split in splits.items()},
        mostly_future=mostly_future,
    )


def _day(timestamp: int) -> str:
    """The UTC day of a timestamp in seconds, as YYYY-MM-DD."""
    return str(np.datetime64(int(timestamp), "s"))[:10]
