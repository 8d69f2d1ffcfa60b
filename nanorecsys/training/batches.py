"""Batches without padding: all histories of an epoch as one stream, cut into rows of one window each.

A history of n items gives n targets: its first item after an empty history (the padding number 0 alone), and each
later one after all that came before. The users of an epoch are shuffled, their streams laid end to end and cut every
`window` places, wherever that falls: a long history is so read through windows that begin at other places in every
epoch, and no place of a row is empty but in the last row of the epoch. Segments keep the histories of a row apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nanorecsys.data import Histories


@dataclass(frozen=True)
class Batch:
    """Rows of the stream: all int64 (R, L).

    Args:
        items: vocabulary numbers (item + 1), 0 for an empty history.
        segments: which history of the row a place belongs to, non-decreasing.
        targets: vocabulary numbers of the next items, 0 where the row is empty.
    """

    items: Tensor
    segments: Tensor
    targets: Tensor

    def share(self, rank: int, world: int) -> "Batch":
        """Every world-th row."""
        return Batch(self.items[rank::world], self.segments[rank::world], self.targets[rank::world])

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.items.to(device), self.segments.to(device), self.targets.to(device))


def rows_of_epoch(n_events: int, window: int) -> int:
    """How many rows an epoch over that many events takes."""
    return -(-n_events // window)


def epoch(histories: Histories, window: int, rng: np.random.Generator) -> Batch:
    """One epoch as rows of `window` places, every event the target of one place.

    Args:
        histories: n events of the training part.
        window: length of a row.
        rng: shuffles users and rows.
    """
    users = rng.permutation(np.flatnonzero(histories.lengths))
    lengths = histories.lengths[users]
    starts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum())
    first = np.zeros(len(place), bool)
    first[starts] = True
    source = np.repeat(histories.offsets[users] - starts, lengths) + place
    targets = histories.items[source].astype(np.int64) + 1
    items = np.where(first, 0, np.roll(targets, 1))
    # The empty history is a segment of its own: items of a user never see the 0.
    segments = np.cumsum(first.astype(np.int64) + np.roll(first, 1))
    rows = rows_of_epoch(len(place), window)
    order = rng.permutation(rows)
    columns = []
    for column, empty in ((items, 0), (segments, segments[-1] + 1), (targets, 0)):
        padded = np.full(rows * window, empty, np.int64)
        padded[: len(column)] = column
        columns.append(torch.from_numpy(padded.reshape(rows, window)[order]))
    return Batch(*columns)


def batches(rows: Batch, size: int) -> Iterator[Batch]:
    """The rows of an epoch, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(rows.items), size):
        part = slice(start, start + size)
        yield Batch(rows.items[part], rows.segments[part], rows.targets[part])
