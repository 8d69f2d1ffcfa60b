"""Measures of data: by hand on a few events, by slow definitions, on the bundled set. 1 s."""

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import (
    DEFAULT_DATASET,
    SECOND_DATASET,
    TEST,
    TRAIN,
    Dataset,
    Interactions,
    Split,
    chapter,
    describe,
    global_temporal,
    leave_one_out,
    load_dataset,
)
from nanorecsys.data.result import DataResult, data_result, split_result
from nanorecsys.evaluation import mean_interval

DAY = 86_400


@pytest.fixture(scope="module")
def events() -> Interactions:
    """Three users, four items; user 0's last two events tie."""
    user = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.int32)
    item = np.array([0, 1, 0, 2, 0, 3, 1, 0], np.int32)
    days = np.array([0, 1, 40, 40, 2, 3, 70, 100])
    return Interactions(user, item, np.ones(8, np.float32), days * DAY)


def test_gini_is_half_the_mean_absolute_difference_over_the_mean() -> None:
    counts = np.array([1, 4, 1, 2])
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    assert describe.gini(counts) == pytest.approx(differences / (2 * counts.mean()))


def test_timestamp_ties(events: Interactions) -> None:
    assert describe.tied_event_share(events) == 2 / 8
    assert describe.last_two_tied_share(events) == 1 / 3


def test_an_event_in_the_middle_of_a_tie_counts_once() -> None:
    user, item = np.zeros(4, np.int32), np.arange(4, dtype=np.int32)
    events = Interactions(user, item, np.ones(4, np.float32), np.array([1, 1, 1, 2]))
    assert describe.tied_event_share(events) == 3 / 4


def test_leakage(events: Interactions) -> None:
    split = leave_one_out(events)
    # The tests: user 0's item 2 at day 40, where 1 of the others' 2 training events lies later, and
    # user 1's item 1 at day 70, where the same event of user 2 is 1 of 3.
    assert describe.future_shares(events, split).tolist() == [0.5, 1 / 3]
    assert describe.item_seen_only_later_share(events, split) == 0


def test_leakage_equals_its_definition() -> None:
    events = load_dataset().interactions
    split = leave_one_out(events)
    found = describe.future_shares(events, split)
    train = split.part == TRAIN
    tests = np.flatnonzero(split.part == TEST)
    for place in range(0, len(tests), 97):
        row = tests[place]
        others = train & (events.user != events.user[row])
        later = events.timestamp[others] > events.timestamp[row]
        assert found[place] == pytest.approx(later.mean(), abs=1e-12)
    first = np.array(
        [
            events.timestamp[train & (events.item == events.item[row])].min(initial=2**62)
            for row in tests
        ]
    )
    later = (first > events.timestamp[tests]) & (first < 2**62)
    assert describe.item_seen_only_later_share(events, split) == later.mean()


def test_the_temporal_split_does_not_leak() -> None:
    events = load_dataset().interactions
    split = global_temporal(events)
    assert describe.future_shares(events, split).max() == 0
    assert describe.item_seen_only_later_share(events, split) == 0


def test_the_record_counts_warm_users_and_items_of_the_test(events: Interactions) -> None:
    part = np.array([0, 0, 0, 2, 0, 0, 2, 2], np.int8)
    data = Dataset("own", events, pd.DataFrame(), pd.DataFrame())
    found = split_result(data, Split("own", part, "hash"))
    assert (found.train_events, found.validation_events, found.test_events) == (5, 0, 3)
    assert (found.test_users, found.test_warm_users) == (3, 2)
    assert (found.test_items, found.test_warm_items) == (3, 2)


def described(name: str) -> DataResult:
    """The record of a bundled data set, as the notebook makes it, without the temporal split."""
    data = load_dataset(name)
    split = leave_one_out(data.interactions)
    over_half = describe.future_shares(data.interactions, split) > 0.5
    return data_result(data, {split.name: split}, mean_interval(over_half))


def test_known_figures_of_the_bundled_data_sets() -> None:
    first, second = described(DEFAULT_DATASET), described(SECOND_DATASET)
    assert (first.history_min, first.history_median, first.history_max) == (20, 71, 2391)
    assert (second.history_min, second.history_median, second.history_max) == (1, 32, 2411)
    assert first.gini == pytest.approx(0.7187, abs=5e-5)
    assert first.last_two_tied_share == pytest.approx(127 / 671)
    assert second.tied_event_share == pytest.approx(47_972 / 206_423)
    assert (first.first_day, first.last_day) == ("1995-01-09", "2016-10-16")
    assert (second.first_day, second.last_day) == ("1996-02-29", "2023-07-20")
    tested = second.splits["leave_one_out"].test_events
    assert tested == second.users - 84  # the others have fewer than three ratings
    for record, users in ((first, 671), (second, tested)):
        share = record.mostly_future
        # A bootstrap of a share has the spread of a binomial.
        assert (share.high - share.low) / 3.92 == pytest.approx(0.5 / users**0.5, rel=0.1)


def test_the_finding_is_read_from_both_bundled_data_sets_whole() -> None:
    read = chapter.FINDINGS["leakage"]
    first = described(DEFAULT_DATASET)
    second = msgspec.structs.replace(first, dataset=SECOND_DATASET)
    both = msgspec.structs.replace(first, second=second)
    assert read(both) == {
        DEFAULT_DATASET: first.mostly_future,
        SECOND_DATASET: second.mostly_future,
    }
    sampled = msgspec.structs.replace(second, dataset=f"{SECOND_DATASET}, 250 users")
    assert read(first) is None
    assert read(msgspec.structs.replace(first, second=sampled)) is None
    encoded = msgspec.json.encode(both)
    assert msgspec.json.decode(encoded, type=DataResult) == both


def test_own_files_are_inputs_and_both_data_sets_take_memory(folder: Path) -> None:
    asked = {"dataset": str(folder), "second_dataset": str(folder / "ratings.csv")}
    assert [path.name for path in chapter.inputs(asked)] == [
        "movies.csv",
        "ratings.csv",
        "ratings.csv",
    ]
    (folder / "part-0.csv.gz").touch()
    (folder / "_SUCCESS").touch()
    assert [path.name for path in chapter.inputs(asked)][1] == "part-0.csv.gz"
    assert len(chapter.inputs(asked)) == 4
    none = {"dataset": DEFAULT_DATASET, "second_dataset": ""}
    assert chapter.inputs(none) == []
    both = none | {"second_dataset": SECOND_DATASET}
    assert chapter.estimate(both).memory_gib > chapter.estimate(none).memory_gib
