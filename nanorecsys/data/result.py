"""The result record of the data chapter."""

import datetime

import msgspec

from nanorecsys.data import describe
from nanorecsys.data.interactions import Dataset
from nanorecsys.data.registry import DATASETS
from nanorecsys.data.split import TEST, TRAIN, VALIDATION, Split

WINDOW = 200  # tokens to which the earlier benchmark pads every history


class SplitResult(msgspec.Struct, frozen=True, kw_only=True):
    """One split: its hash, its parts, whom and what its test asks about, and how much of the future it leaks."""

    sha256: str
    train_events: int
    validation_events: int
    test_events: int
    test_users: int
    test_warm_users: int
    test_items: int
    test_warm_items: int
    future_share_mean: float
    future_share_median: float
    mostly_future_share: float
    item_seen_only_later_share: float
    item_never_trained_share: float


class IngestResult(msgspec.Struct, frozen=True, kw_only=True):
    """Reading, numbering, sorting, splitting and saving a generated file, in a process of its own."""

    ratings: int
    users: int
    items: int
    file_mib: float
    seconds: dict[str, float]
    total_s: float
    peak_rss_gib: float


class DataResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 01 found. Shares are of 1; published figures are None for a data set without any.

    `padding_share` is the share of tokens that are padding when every history is cut or padded to
    `WINDOW`.
    """

    dataset: str
    ratings: int
    users: int
    items: int
    density: float
    published_ratings: int | None
    published_users: int | None
    published_movies: int | None
    first_day: str
    last_day: str
    history_min: int
    history_median: float
    history_mean: float
    history_max: int
    padding_share: float
    gini: float
    top_1_percent_share: float
    below_3_share: float
    below_5_share: float
    tied_event_share: float
    last_two_tied_share: float
    splits: dict[str, SplitResult]
    ingest: IngestResult


def split_result(dataset: Dataset, split: Split) -> SplitResult:
    """Everything that the record says about one split of `dataset`."""
    parts = [int((split.part == part).sum()) for part in (TRAIN, VALIDATION, TEST)]
    test = describe.warm_cold(dataset.interactions, split)
    leak = describe.leakage(dataset.interactions, split)
    return SplitResult(
        sha256=split.sha256,
        train_events=parts[0],
        validation_events=parts[1],
        test_events=parts[2],
        test_users=test.users,
        test_warm_users=test.warm_users,
        test_items=test.items,
        test_warm_items=test.warm_items,
        future_share_mean=leak.mean,
        future_share_median=leak.quantiles[0.5],
        mostly_future_share=leak.mostly_future_share,
        item_seen_only_later_share=leak.item_seen_only_later_share,
        item_never_trained_share=leak.item_never_trained_share,
    )


def data_result(
    dataset: Dataset, splits: dict[str, SplitResult], ingest: IngestResult
) -> DataResult:
    """The record of the chapter, from the data set, its splits and the ingest measurement."""
    counts = describe.counts(dataset.interactions)
    lengths = describe.history_lengths(dataset.interactions)
    tail = describe.popularity_tail(dataset.interactions)
    ties = describe.timestamp_ties(dataset.interactions)
    published = DATASETS[dataset.name].published if dataset.name in DATASETS else None
    return DataResult(
        dataset=dataset.name,
        ratings=counts.ratings,
        users=counts.users,
        items=counts.items,
        density=counts.density,
        published_ratings=published and published.ratings,
        published_users=published and published.users,
        published_movies=published and published.movies,
        first_day=day(counts.first_timestamp),
        last_day=day(counts.last_timestamp),
        history_min=int(lengths.quantiles[0.0]),
        history_median=lengths.quantiles[0.5],
        history_mean=lengths.mean,
        history_max=int(lengths.quantiles[1.0]),
        padding_share=1.0 - float(lengths.lengths.clip(max=WINDOW).mean()) / WINDOW,
        gini=tail.gini,
        top_1_percent_share=tail.top_1_percent_share,
        below_3_share=tail.below_3_share,
        below_5_share=tail.below_5_share,
        tied_event_share=ties.tied_event_share,
        last_two_tied_share=ties.last_two_tied_share,
        splits=splits,
        ingest=ingest,
    )


def day(timestamp: int) -> str:
    """The UTC day of a timestamp in seconds, as YYYY-MM-DD."""
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).strftime("%Y-%m-%d")
