"""The figures of the page: by hand on a few events, by slow definitions, and those of the bundled set. 1 s."""

import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import (
    TEST,
    TRAIN,
    Interactions,
    Split,
    describe,
    global_temporal,
    leave_one_out,
    load_dataset,
)

DAY = 86_400


@pytest.fixture(scope="module")
def events() -> Interactions:
    """Three users, four items; user 0's last two events tie."""
    user = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.int32)
    item = np.array([0, 1, 0, 2, 0, 3, 1, 0], np.int32)
    days = np.array([0, 1, 40, 40, 2, 3, 70, 100])
    return Interactions(user, item, np.ones(8, np.float32), days * DAY)


def test_counts(events: Interactions) -> None:
    assert describe.counts(events) == describe.Counts(8, 3, 4, 8 / 12, 0, 100 * DAY)


def test_history_lengths(events: Interactions) -> None:
    found = describe.history_lengths(events)
    assert found.lengths.tolist() == [4, 3, 1]
    assert found.mean == pytest.approx(8 / 3)
    assert (found.quantiles[0.0], found.quantiles[0.5], found.quantiles[1.0]) == (1, 3, 4)


def test_popularity_tail(events: Interactions) -> None:
    found = describe.popularity_tail(events)
    assert found.counts.tolist() == [4, 2, 1, 1]
    # Gini is half the mean absolute difference over the mean
    differences = np.abs(found.counts[:, None] - found.counts[None, :]).mean()
    assert found.gini == pytest.approx(differences / (2 * found.counts.mean()))
    assert (found.top_1_percent_share, found.below_3_share, found.below_5_share) == (0.5, 0.75, 1.0)


def test_timeline_has_the_months_without_events(events: Interactions) -> None:
    found = describe.timeline(events)
    assert found.months.astype(str).tolist() == ["1970-01", "1970-02", "1970-03", "1970-04"]
    assert found.events.tolist() == [4, 2, 1, 1]


def test_timestamp_ties(events: Interactions) -> None:
    assert describe.timestamp_ties(events) == describe.TimestampTies(2 / 8, 1 / 3)


def test_leakage(events: Interactions) -> None:
    split = leave_one_out(events)
    found = describe.leakage(events, split)
    # tests: user 0's item 2 at day 40, where 1 of the others' 2 training events lies later, and
    # user 1's item 1 at day 70, where the same event of user 2 is 1 of 3
    assert found.future_share.tolist() == [0.5, 1 / 3]
    assert found.mean == pytest.approx(5 / 12)
    assert found.mostly_future_share == 0
    assert (found.item_seen_only_later_share, found.item_never_trained_share) == (0, 0.5)


def test_leakage_equals_its_definition() -> None:
    events = load_dataset().interactions
    split = leave_one_out(events)
    found = describe.leakage(events, split)
    train = split.part == TRAIN
    tests = np.flatnonzero(split.part == TEST)
    for place in range(0, len(tests), 97):
        row = tests[place]
        others = train & (events.user != events.user[row])
        later = events.timestamp[others] > events.timestamp[row]
        assert found.future_share[place] == pytest.approx(later.mean(), abs=1e-12)
    firsts = [
        events.timestamp[train & (events.item == events.item[row])].min(initial=2**62)
        for row in tests
    ]
    never = np.array(firsts) == 2**62
    later = (np.array(firsts) > events.timestamp[tests]) & ~never
    assert found.item_seen_only_later_share == later.mean()
    assert found.item_never_trained_share == never.mean()


def test_leakage_of_the_temporal_split_is_none() -> None:
    events = load_dataset().interactions
    found = describe.leakage(events, global_temporal(events))
    assert found.future_share.max() == 0
    assert found.item_seen_only_later_share == 0


def test_warm_cold(events: Interactions) -> None:
    part = np.array([0, 0, 0, 2, 0, 0, 2, 2], np.int8)
    found = describe.warm_cold(events, Split("own", part, ""))
    assert found == describe.WarmCold(
        events=3, users=3, warm_users=2, items=3, warm_items=2, warm_events=1
    )


def test_catalogue(events: Interactions) -> None:
    items = pd.DataFrame(
        {
            "item": [0, 1, 2, 3],
            "year": [1995, None, 1995, 2001],
            "genres": [["A", "B"], ["B"], [], ["A", "C"]],
        },
    ).astype({"year": "Int16"})
    found = describe.catalogue(events, items)
    assert list(found.genres.itertuples(index=False, name=None)) == [
        ("A", 2, 5),
        ("B", 2, 6),
        ("C", 1, 1),
    ]
    assert list(found.years.itertuples(index=False, name=None)) == [(1995, 2), (2001, 1)]
    assert (found.without_genre, found.without_year) == (1, 1)


def test_known_figures_of_the_bundled_data_set() -> None:
    data = load_dataset()
    events = data.interactions
    split = leave_one_out(events)
    lengths, tail = describe.history_lengths(events), describe.popularity_tail(events)
    leak, ties = describe.leakage(events, split), describe.timestamp_ties(events)
    assert (lengths.quantiles[0.0], lengths.quantiles[0.5], lengths.quantiles[1.0]) == (
        20,
        71,
        2391,
    )
    assert tail.counts[0] == 341  # Forrest Gump
    assert tail.gini == pytest.approx(0.7187, abs=5e-5)
    assert ties.last_two_tied_share == pytest.approx(127 / 671)
    assert leak.mean == pytest.approx(0.5289, abs=5e-5)
    assert leak.mostly_future_share == pytest.approx(351 / 671)
    assert describe.timeline(events).events.sum() == len(events)
    assert describe.catalogue(events, data.items).genres["genre"][0] == "Drama"
