"""The splits: parts, ties, hashes, bad input, and properties that hold for any events. 4 s."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanorecsys.data import (
    TEST,
    TRAIN,
    VALIDATION,
    DataError,
    Dataset,
    Interactions,
    Split,
    global_temporal,
    leave_one_out,
    load_dataset,
)
from nanorecsys.data.load import build_dataset
from nanorecsys.data.read import DataFile, EventTable


def dataset(rows: list[tuple[int, int, int]]) -> Dataset:
    """The data set of (user id, item id, timestamp) rows, in that order."""
    names = {"user": "user", "item": "item", "timestamp": "timestamp"}
    table = EventTable(DataFile("rows.csv", b""), names, tuple(names), integer_ids=True)
    events = pa.table(
        {
            name: np.array(column)
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }
        | {"rating": np.ones(len(rows), np.float32)}
    )
    return build_dataset("rows", table, events, movies=None)


def interactions(*rows: tuple[int, int, int]) -> Interactions:
    return dataset(list(rows)).interactions


# few ids and times, so that ties, repeats and gaps between ids are common
row = st.tuples(
    st.integers(-3, 4).map(lambda i: 7 * i),
    st.integers(0, 9).map(lambda i: 3 * i),
    st.integers(0, 12),
)
rows = st.lists(row, min_size=2, max_size=80, unique=True).filter(
    lambda rows: len({user for user, _, _ in rows}) > 1 and len({time for _, _, time in rows}) > 1
)


def split_or_none(data: Dataset, name: str) -> Split | None:
    try:
        return (
            leave_one_out(data.interactions)
            if name == "leave_one_out"
            else global_temporal(data.interactions)
        )
    except DataError:
        return None


def test_leave_one_out_parts_and_tie_rule() -> None:
    # user 1's last second has items 5 and 40: 40 is the larger raw id, hence the test; user 2 is
    # too short
    events = interactions((1, 40, 9), (1, 5, 9), (1, 70, 1), (1, 70, 2), (2, 5, 1), (2, 40, 3))
    split = leave_one_out(events)
    assert events.item.tolist() == [2, 2, 0, 1, 0, 1]
    assert split.part.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, TRAIN]
    assert split.part.dtype == np.int8
    assert leave_one_out(events, min_history=4).part.tolist() == split.part.tolist()


def test_global_temporal_keeps_a_second_together() -> None:
    times = [0, 1, 2, 3, 4, 5, 6, 6, 6, 9]
    events = interactions(*((1 + item % 2, item, time) for item, time in enumerate(times)))
    split = global_temporal(events, validation=0.3, test=0.1)
    by_time = sorted(zip(events.timestamp.tolist(), split.part.tolist(), strict=True))
    assert [part for _, part in by_time] == [TRAIN] * 6 + [VALIDATION] * 3 + [TEST]


@given(rows, st.sampled_from(["leave_one_out", "global_temporal"]))
def test_no_event_is_lost_or_in_two_parts(rows: list[tuple[int, int, int]], name: str) -> None:
    data = dataset(rows)
    events = data.interactions
    split = split_or_none(data, name)
    users, items = data.users["user_id"].tolist(), data.items["item_id"].tolist()
    again = [
        (users[u], items[i], t)
        for u, i, t in zip(events.user, events.item, events.timestamp, strict=True)
    ]
    assert sorted(again) == sorted(rows)
    if split:
        assert len(split.part) == len(rows)
        assert set(split.part.tolist()) == {TRAIN, VALIDATION, TEST}


@given(rows)
def test_leave_one_out_keeps_the_order_of_each_user(rows: list[tuple[int, int, int]]) -> None:
    events = interactions(*rows)
    split = split_or_none(dataset(rows), "leave_one_out")
    lengths = np.bincount(events.user)
    assert (split is None) == (lengths.max() < 3)
    for user, length in enumerate(lengths):
        if split is None:
            break
        mine = events.user == user
        order = list(zip(events.timestamp[mine], events.item[mine], strict=True))
        assert order == sorted(order)
        expected = [TRAIN] * (length - 2) + [VALIDATION, TEST] if length >= 3 else [TRAIN] * length
        assert split.part[mine].tolist() == expected


@given(rows, st.floats(0.05, 0.45), st.floats(0.05, 0.45))
def test_the_parts_of_global_temporal_follow_each_other(
    rows: list[tuple[int, int, int]], validation: float, test: float
) -> None:
    events = interactions(*rows)
    try:
        split = global_temporal(events, validation, test)
    except DataError as error:
        assert "equal timestamps leave a part empty" in str(error)  # noqa: PT017, either outcome is fine
        return
    times = [events.timestamp[split.part == part] for part in (TRAIN, VALIDATION, TEST)]
    assert times[0].max() < times[1].min()
    assert times[1].max() < times[2].min()
    assert len(times[2]) >= int(test * len(rows))  # ties only ever add to the later part


@given(
    rows, st.randoms(use_true_random=False), st.sampled_from(["leave_one_out", "global_temporal"])
)
def test_shuffled_rows_give_the_same_split(
    rows: list[tuple[int, int, int]], random: object, name: str
) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    one, two = (split_or_none(dataset(r), name) for r in (rows, shuffled))
    assert (one is None) == (two is None)
    if one:
        assert one.sha256 == two.sha256
        np.testing.assert_array_equal(one.part, two.part)


def test_the_hash_is_over_raw_ids_times_and_parts() -> None:
    base = [(1, 10, 0), (1, 20, 1), (1, 30, 2), (2, 10, 3)]
    renamed_user = [(u + 1, i, t) for u, i, t in base]
    renamed_item = [(u, i + 1, t) for u, i, t in base]
    later = [(u, i, t + 1) for u, i, t in base]
    hashes = {
        leave_one_out(interactions(*rows)).sha256
        for rows in (base, renamed_user, renamed_item, later)
    }
    hashes.add(global_temporal(interactions(*base), 0.25, 0.25).sha256)
    assert len(hashes) == 5
    assert leave_one_out(interactions(*base)).sha256 in hashes


def test_the_bundled_data_set_has_known_splits() -> None:
    events = load_dataset().interactions
    found = {split.name: split.sha256 for split in (leave_one_out(events), global_temporal(events))}
    assert found == {
        "leave_one_out": "fce9257bd1f415bc49bd2b1aaa2ad9701bfa1d7eebf4a9bf2a7edf89d4cf4403",
        "global_temporal": "6e460094561a724232e5e3102af1edad493c86176ff2421976dc244f7a3a615d",
    }


def test_splits_refuse_degenerate_input() -> None:
    same_time = interactions((1, 10, 5), (1, 20, 5), (1, 30, 5), (2, 10, 5))
    for split in (leave_one_out, global_temporal):
        with pytest.raises(DataError, match="all 4 timestamps are equal"):
            split(same_time)
    short = interactions((1, 10, 5), (1, 20, 6), (2, 10, 5))
    with pytest.raises(DataError, match="no user has 3 events or more"):
        leave_one_out(short)
    with pytest.raises(DataError, match="min_history is 2"):
        leave_one_out(short, min_history=2)
    with pytest.raises(DataError, match="equal timestamps leave a part empty"):
        global_temporal(short)
    for shares in ((0.0, 0.1), (0.1, -0.1), (0.5, 0.5)):
        with pytest.raises(DataError, match="leave no events for one of the three parts"):
            global_temporal(short, *shares)
