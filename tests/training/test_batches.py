from itertools import chain, pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.data import Histories
from nanorecsys.serving.padding import padded
from nanorecsys.training.batches import epoch, had_before

HISTORIES = st.lists(st.lists(st.integers(0, 50), max_size=30), min_size=1, max_size=8)


def csr(histories):
    offsets = np.cumsum([0, *map(len, histories)])
    return Histories(offsets.astype(np.int64), np.array(list(chain(*histories)), np.int32))


@given(HISTORIES.filter(any), st.integers(1, 12), st.integers(0, 9))
@settings(deadline=None)
def test_every_event_is_the_target_of_one_place_after_what_came_before(histories, window, seed):
    rows = epoch(csr(histories), window, np.random.default_rng(seed))
    items, segments, targets, _ = rows.numpy()
    n_events = sum(map(len, histories))
    assert items.shape == (-(-n_events // window), window)
    filled = targets > 0
    assert filled.sum() == n_events  # no place is wasted but in one row
    assert sum(not row.all() for row in filled) <= 1
    assert sorted(targets[filled] - 1) == sorted(chain(*histories))
    assert (np.diff(segments) >= 0).all()
    assert not items[~filled].any()

    # An event follows another within one segment just as often as it does in the histories, less
    # the cuts.
    followed = sorted((a + 1, b + 1) for history in histories for a, b in pairwise(history))
    firsts = sorted(history[0] + 1 for history in histories if history)
    assert (
        sorted(zip(items[filled & (items > 0)], targets[filled & (items > 0)], strict=True))
        == followed
    )
    assert sorted(targets[filled & (items == 0)]) == firsts
    for row in range(len(items)):
        for place in range(1, window):
            if filled[row, place] and segments[row, place] == segments[row, place - 1]:
                # The context of a place ends with the target of the place before it.
                assert items[row, place] == targets[row, place - 1]
                assert items[row, place - 1] > 0


@given(HISTORIES.filter(any), st.integers(1, 12), st.integers(0, 9))
@settings(deadline=None)
def test_what_a_user_had_before_a_target_is_all_of_its_history_up_to_there(histories, window, seed):
    known = csr(histories)
    rows = epoch(known, window, np.random.default_rng(seed))
    _, _, targets, events = rows[:, rows[2] > 0]
    offsets, items = torch.from_numpy(known.offsets), torch.from_numpy(known.items)
    had = had_before(offsets, items, events, 51)
    assert torch.equal(items[events] + 1, targets)
    wanted = {}
    for start, history in zip(known.offsets, histories, strict=False):
        for place, item in enumerate(history):
            wanted[int(start) + place] = {earlier + 1 for earlier in history[:place]} - {item + 1}
    assert {
        int(e): set(np.flatnonzero(row)) for e, row in zip(events, had.numpy(), strict=True)
    } == wanted


@given(HISTORIES.filter(any), st.integers(2, 12))
@settings(deadline=None)
def test_contexts_are_as_long_as_the_row_allows(histories, window):
    rows = epoch(csr(histories), window, np.random.default_rng(0))
    items, segments, _, _ = rows.numpy()
    inside = (items[:, 1:] > 0) & (items[:, :-1] > 0) & (segments[:, 1:] != segments[:, :-1])
    # Between two places with a history, a segment ends only where the next one's empty history
    # stands.
    assert not inside.any()


def test_epochs_differ_and_seeds_repeat():
    histories = csr([list(range(25)), list(range(7)), [3]])
    first, repeated, other = (
        epoch(histories, 5, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, repeated)
    assert not torch.equal(first[0], other[0])


def test_padded_keeps_the_last_items_left_aligned():
    items, lengths = padded(csr([[5, 6, 7], [], [8]]), np.array([2, 0, 1]), 2)
    assert items.tolist() == [[9, 0], [7, 8], [0, 0]]
    assert lengths.tolist() == [1, 2, 1]
    assert items.dtype == np.int64


def test_padded_without_any_event():
    items, lengths = padded(csr([[], []]), np.array([0, 1]), 4)
    assert (items.tolist(), lengths.tolist()) == ([[0], [0]], [1, 1])
