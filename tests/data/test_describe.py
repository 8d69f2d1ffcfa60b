"""Measures of data: by hand on a few events, by slow definitions, on the bundled set. 1 s."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import (
    TEST,
    TRAIN,
    DataError,
    Dataset,
    Interactions,
    Split,
    chapter,
    describe,
    global_temporal,
    leave_one_out,
    load_dataset,
    registry,
)
from nanorecsys.data.result import data_result, split_result

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


def test_one_user_with_all_training_events_is_refused(events: Interactions) -> None:
    split = Split("own", np.where(events.user == 0, TRAIN, TEST).astype(np.int8), "")
    part = split.part.copy()
    part[3] = TEST
    with pytest.raises(DataError, match="one user has all training events"):
        describe.future_shares(events, Split("own", part, ""))


def test_the_record_counts_warm_users_and_items_of_the_test(events: Interactions) -> None:
    part = np.array([0, 0, 0, 2, 0, 0, 2, 2], np.int8)
    data = Dataset("own", events, pd.DataFrame(), pd.DataFrame())
    found = split_result(data, Split("own", part, "hash"))
    assert (found.train_events, found.validation_events, found.test_events) == (5, 0, 3)
    assert (found.test_users, found.test_warm_users) == (3, 2)
    assert (found.test_items, found.test_warm_items) == (3, 2)


def test_known_figures_of_the_bundled_data_set() -> None:
    data = load_dataset()
    events = data.interactions
    splits = {"leave_one_out": split_result(data, leave_one_out(events))}
    found = data_result(data, splits)
    assert (found.history_min, found.history_median, found.history_max) == (20, 71, 2391)
    assert np.bincount(events.item).max() == 341  # Forrest Gump
    assert found.gini == pytest.approx(0.7187, abs=5e-5)
    assert found.last_two_tied_share == pytest.approx(127 / 671)
    assert found.splits["leave_one_out"].mostly_future_share == pytest.approx(351 / 671)
    assert (found.first_day, found.last_day) == ("1995-01-09", "2016-10-16")
    assert data.items["genres"].explode().value_counts().idxmax() == "Drama"
    claim = next(claim for claim in chapter.CLAIMS if claim.id == "data.leakage")
    assert claim.target.judge(claim.value(found)) == "holds"


def test_the_machine_check_finds_a_missing_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [check.status for check in chapter.checks()] == ["ok"]
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    (check,) = chapter.checks()
    assert check.status == "fails"
    assert "git checkout" in check.remedy
