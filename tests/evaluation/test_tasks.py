"""Tasks: nothing leaks, targets are new to their user, last-n parts (2 s)."""

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from nanorecsys.data import Interactions, global_temporal, leave_one_out
from nanorecsys.evaluation import EvaluationError, evaluate, last_events, make_task, some_users
from nanorecsys.system.errors import NanorecsysError


def interactions(rows: list[tuple[int, int, int]]) -> Interactions:
    """From (user, item, timestamp)."""
    user, item, time = np.array(sorted(set(rows), key=lambda row: (row[0], row[2], row[1]))).T
    return Interactions(
        user.astype(np.int32), item.astype(np.int32), np.ones(len(user), np.float32), time
    )


events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 8), st.integers(0, 50)), min_size=12, max_size=60
).map(lambda rows: interactions([*rows, *[(u, u, 100 + u) for u in range(4)]]))


@given(
    events,
    st.sampled_from(["validation", "test"]),
    st.sampled_from([leave_one_out, last_events, global_temporal]),
)
def test_targets_are_new_to_their_user(data, stage, splitter):
    try:
        split = last_events(data, n=2, min_history=1) if splitter is last_events else splitter(data)
        task = make_task(data, split, stage)
    except NanorecsysError:
        reject()  # too little data for this split
    asked_part = {"validation": 1, "test": 2}[stage]
    known, asked = split.part < asked_part, split.part == asked_part
    assert len(task.known) == known.sum() == len(task.seen.items)
    users = np.repeat(np.arange(task.n_users), np.diff(task.targets.offsets))
    wanted = set(zip(users.tolist(), task.targets.items.tolist(), strict=True))
    had = set(zip(data.user[known].tolist(), data.item[known].tolist(), strict=True))
    came = set(zip(data.user[asked].tolist(), data.item[asked].tolist(), strict=True))
    assert wanted == came - had
    evaluate(
        lambda u: np.zeros((len(u), task.n_items), np.float32),
        task.targets,
        task.seen,
        task.n_items,
    )


def test_last_events_keeps_short_users_whole():
    rows = (
        [(0, i, i) for i in range(8)]
        + [(1, i, i) for i in range(5)]
        + [(2, i, i) for i in range(3)]
    )
    part = last_events(interactions(rows), n=2, min_history=3).part
    assert part[:8].tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert part[8:13].tolist() == [0, 0, 0, 2, 2]  # too short for a validation part
    assert part[13:].tolist() == [0, 0, 0]


def test_last_events_refuses_short_histories():
    with pytest.raises(EvaluationError, match="no user has the 23 events"):
        last_events(interactions([(0, i, i) for i in range(22)]))


def test_a_split_with_only_repeats_is_refused():
    data = interactions([(0, 0, t) for t in range(5)])
    with pytest.raises(EvaluationError, match="no item that is new"):
        make_task(data, leave_one_out(data), "test")


def test_a_task_of_some_users_asks_only_them():
    data = interactions(
        [(user, (user + i) % 9, i) for user in range(10) for i in range(3 + user % 4)]
    )
    task = make_task(data, leave_one_out(data), "test")
    asked = np.flatnonzero(task.targets.lengths)
    some = some_users(task, 3)
    kept = np.flatnonzero(some.targets.lengths)
    assert len(kept) == 3
    assert (kept[0], kept[-1]) == (asked[0], asked[-1])
    for user in kept:
        mine = slice(*task.targets.offsets[user : user + 2])
        assert (
            some.targets.items[slice(*some.targets.offsets[user : user + 2])]
            == task.targets.items[mine]
        ).all()
    assert some.seen is task.seen
    assert some_users(task, 0) is some_users(task, len(asked)) is task
    with pytest.raises(EvaluationError, match="-1 users"):
        some_users(task, -1)
