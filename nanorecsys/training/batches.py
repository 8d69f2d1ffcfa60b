"""Batches without padding: the histories of an epoch as one stream, cut into rows.

A history of n items gives n targets: its first item after an empty history (the padding number 0
alone), and each later item after all those before it. An epoch shuffles the users, lays their
histories end to end and cuts the stream every `window` places, regardless of where a history ends.
A long history therefore starts at other places of a row in every epoch, and only the last row of
the epoch has empty places. Segments keep the histories of a row apart.

Rows are one int64 tensor (4, R, L) with the columns

    items      vocabulary numbers (item + 1), 0 for an empty history
    segments   number of the history that a place belongs to, non-decreasing in a row
    targets    vocabulary numbers of the next items, 0 where the row is empty
    events     position of each target in the histories, 0 where the row is empty

`rows.split(size, 1)` gives its batches, and `batch[:, rank::world]` the share of one process.
"""

import numpy as np
import torch
from torch import Tensor

from nanorecsys.data import Histories


def epoch(histories: Histories, window: int, rng: np.random.Generator) -> Tensor:
    """One epoch as rows, int64 (4, R, window), with every event the target of one place.

    Args:
        histories: Events of the training part.
        window: Length of a row.
        rng: Generator that shuffles users and rows.
    """
    users = rng.permutation(np.flatnonzero(histories.lengths))
    lengths = histories.lengths[users]
    starts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum())
    first = np.zeros(len(place), bool)
    first[starts] = True
    events = np.repeat(histories.offsets[users] - starts, lengths) + place
    targets = histories.items[events].astype(np.int64) + 1
    items = np.where(first, 0, np.roll(targets, 1))
    # An empty history is a segment of its own, so that no item attends to the 0.
    segments = np.cumsum(first.astype(np.int64) + np.roll(first, 1))
    n_rows = -(-len(place) // window)
    rows = np.zeros((4, n_rows * window), np.int64)
    rows[1] = segments[-1] + 1  # the empty places at the end
    rows[:, : len(place)] = items, segments, targets, events
    return torch.from_numpy(rows.reshape(4, n_rows, window)[:, rng.permutation(n_rows)])


def had_before(offsets: Tensor, items: Tensor, events: Tensor, n_items: int) -> Tensor:
    """Items that the user of each event had before it, in all of its history, not only in one row.

    Args:
        offsets: Offsets of the histories, int64 (n_users + 1,).
        items: Items of the histories, int (n,), on the same device as the other tensors.
        events: Positions in the items, int64 (N,).
        n_items: Size of the catalogue.

    Returns:
        bool (N, n_items + 1), by vocabulary number; False for the event's own item, even if it is a
        repeat.
    """
    first = offsets[torch.searchsorted(offsets, events, right=True) - 1]
    lengths = events - first
    row = torch.repeat_interleave(lengths)
    earlier = torch.arange(len(row), device=row.device) + (events - lengths.cumsum(0))[row]
    had = torch.zeros(len(events), n_items + 1, dtype=torch.bool, device=events.device)
    had[row, items[earlier].long() + 1] = True
    return had.scatter_(1, items[events].long()[:, None] + 1, False)
