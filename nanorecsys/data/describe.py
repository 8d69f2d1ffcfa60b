"""What the data chapter says about a data set: pure functions of interactions and splits, typed results."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Interactions
from nanorecsys.data.split import TEST, TRAIN, Split, warm

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Counts:
    """The size of a data set."""

    ratings: int
    users: int
    items: int  # with at least one event
    density: float  # share of all (user, item) pairs with an event, if no pair has two
    first_timestamp: int  # s
    last_timestamp: int  # s


@dataclass(frozen=True, eq=False)
class HistoryLengths:
    """How many events users have."""

    lengths: np.ndarray  # int64 (n_users,), by user
    mean: float
    quantiles: dict[float, float]  # at QUANTILES


@dataclass(frozen=True, eq=False)
class PopularityTail:
    """How unevenly events fall on items."""

    counts: np.ndarray  # int64 (n_items,), most popular first
    gini: float  # 0: all items alike; 1: one item has all events
    top_1_percent_share: (
        float  # of events on the most popular 1 % of items (rounded up to whole items)
    )
    below_3_share: float  # of items with fewer than 3 events
    below_5_share: float


@dataclass(frozen=True, eq=False)
class Timeline:
    """Events a month, months without any among them."""

    months: np.ndarray  # datetime64[M] (m,), from the first event's to the last one's, UTC
    events: np.ndarray  # int64 (m,)


@dataclass(frozen=True)
class TimestampTies:
    """How much of the order in time is the tie rule's work."""

    tied_event_share: float  # of events in the same second as another event of their user
    last_two_tied_share: (
        float  # of users whose last two events tie: the rule picks their leave-one-out test event
    )


@dataclass(frozen=True, eq=False)
class Leakage:
    """How far a split lets a model train on the future of what it is tested on.

    For each test event: how much of the other users' training lies after it.
    """

    future_share: (
        np.ndarray
    )  # float64 (n_test,), of the training events of other users, those later than the test event
    mean: float
    quantiles: dict[float, float]  # at QUANTILES
    mostly_future_share: (
        float  # of test events with more than half of that training in their future
    )
    item_seen_only_later_share: (
        float  # of test events whose item occurs in training, but only later
    )
    item_never_trained_share: float  # of test events whose item has no training event


@dataclass(frozen=True)
class WarmCold:
    """Who and what one part of a split asks about, and whether training knows them."""

    events: int
    users: int  # with an event in the part
    warm_users: int
    items: int
    warm_items: int
    warm_events: int  # user and item both known


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Genres and release years of the items."""

    # genre, items and events, most items first; an item counts in each of its genres
    genres: pd.DataFrame
    without_genre: int  # items
    years: pd.DataFrame  # year and items, in order
    without_year: int  # items


def counts(interactions: Interactions) -> Counts:
    """The size of a data set."""
    n, users, items = len(interactions), interactions.n_users, interactions.n_items
    times = interactions.timestamp
    return Counts(n, users, items, n / (users * items), int(times.min()), int(times.max()))


def history_lengths(interactions: Interactions) -> HistoryLengths:
    """How many events users have."""
    lengths = np.bincount(interactions.user)
    return HistoryLengths(lengths, float(lengths.mean()), _quantiles(lengths))


def popularity_tail(interactions: Interactions) -> PopularityTail:
    """How unevenly events fall on items.

    Gini is sum_i (2 i - n - 1) x_i / (n sum x) over the n counts x in ascending order, i from 1.
    """
    ascending = np.sort(np.bincount(interactions.item))
    n, total = len(ascending), ascending.sum()
    gini = ((2 * np.arange(1, n + 1) - n - 1) * ascending).sum() / (n * total)
    top = ascending[-int(np.ceil(n / 100)) :].sum() / total
    return PopularityTail(
        ascending[::-1],
        float(gini),
        float(top),
        float((ascending < 3).mean()),
        float((ascending < 5).mean()),
    )


def timeline(interactions: Interactions) -> Timeline:
    """Events a month (UTC)."""
    months = interactions.timestamp.astype("datetime64[s]").astype("datetime64[M]")
    first = months.min()
    events = np.bincount((months - first).astype(np.int64))
    return Timeline(first + np.arange(len(events)), events)


def timestamp_ties(interactions: Interactions) -> TimestampTies:
    """How many events share their second with another event of their user."""
    user, timestamp = interactions.user, interactions.timestamp
    with_next = np.zeros(len(interactions), bool)  # ties with the event in the next row
    with_next[:-1] = (user[1:] == user[:-1]) & (timestamp[1:] == timestamp[:-1])
    tied = with_next.copy()
    tied[1:] |= with_next[:-1]
    lengths = np.bincount(user)
    last_but_one = (np.cumsum(lengths) - 2)[lengths > 1]
    return TimestampTies(float(tied.mean()), float(with_next[last_but_one].sum() / len(lengths)))


def leakage(interactions: Interactions, split: Split) -> Leakage:
    """How far the split lets a model train on the future of its test events: the point against leave-one-out.

    After Ji, Sun, Zhang, Li 2023, "A critical study on data leakage in recommender system offline
    evaluation", ACM TOIS 41(3), doi 10.1145/3569930. For global_temporal every share of the future
    is 0 by construction.

    Args:
        split: one in which no user trains on what is later than an own test event, as in both
            splits of the study.

    Raises:
        DataError: there is a single user with training events, hence no training of others.
    """
    is_train, is_test = split.part == TRAIN, split.part == TEST
    train_user, train_time = interactions.user[is_train], interactions.timestamp[is_train]
    user, item, time = (
        interactions.user[is_test],
        interactions.item[is_test],
        interactions.timestamp[is_test],
    )
    own_total = np.bincount(train_user, minlength=interactions.n_users)[user]
    others_total = len(train_time) - own_total
    if not others_total.all():
        raise DataError(
            f"split {split.name}: one user has all training events, so there is no training of others",
            "Split so that two users or more have training events.",
        )
    later = len(train_time) - np.searchsorted(np.sort(train_time), time, side="right")
    future = later / others_total
    first = np.full(interactions.n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, interactions.item[is_train], train_time)
    never = first[item] == np.iinfo(np.int64).max
    return Leakage(
        future,
        float(future.mean()),
        _quantiles(future),
        float((future > 0.5).mean()),
        float(((first[item] > time) & ~never).mean()),
        float(never.mean()),
    )


def warm_cold(interactions: Interactions, split: Split, part: int = TEST) -> WarmCold:
    """Who and what one part asks about, and whether training knows them."""
    warm_users, warm_items = warm(interactions, split)
    user, item = interactions.user[split.part == part], interactions.item[split.part == part]
    users, items = np.unique(user), np.unique(item)
    return WarmCold(
        len(user),
        len(users),
        int(warm_users[users].sum()),
        len(items),
        int(warm_items[items].sum()),
        int((warm_users[user] & warm_items[item]).sum()),
    )


def catalogue(interactions: Interactions, items: pd.DataFrame) -> Catalogue:
    """Genres and release years of the items.

    Args:
        items: `Dataset.items`.
    """
    counted = items.assign(events=np.bincount(interactions.item, minlength=len(items)))
    genres = counted.explode("genres").dropna(subset="genres").groupby("genres", as_index=False)
    by_genre = genres.agg(items=("item", "size"), events=("events", "sum"))
    return Catalogue(
        by_genre.rename(columns={"genres": "genre"}).sort_values(
            ["items", "genre"], ascending=[False, True], ignore_index=True
        ),
        int((items["genres"].str.len() == 0).sum()),
        items.groupby("year", as_index=False).agg(items=("item", "size")),
        int(items["year"].isna().sum()),
    )


def _quantiles(values: np.ndarray) -> dict[float, float]:
    return dict(zip(QUANTILES, np.quantile(values, QUANTILES).tolist(), strict=True))
