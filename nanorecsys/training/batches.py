"""Batches without padding: all histories of an epoch as one stream, cut into rows of one window each.

A history of n items gives n targets: its first item after an empty history (the padding number 0
alone), and each later one after all that came before. The users of an epoch are shuffled, their
streams laid end to end and cut every `window` places, wherever that falls: a long history is so
read through windows that begin at other places in every epoch, and no place of a row is empty but
in the last row of the epoch. Segments keep the histories of a row apart.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from operator import itemgetter

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
        events: where in the histories each target lies, 0 where the row is empty.
    """

    items: Tensor
    segments: Tensor
    targets: Tensor
    events: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same change of every column."""
        return Batch(*(change(getattr(self, field.name)) for field in fields(self)))

    def share(self, rank: int, world: int) -> "Batch":
        """Every world-th row."""
        return self.map(lambda column: column[rank::world])

    def to(self, device: torch.device) -> "Batch":
        return self.map(lambda column: column.to(device))


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
    for column, empty in ((items, 0), (segments, segments[-1] + 1), (targets, 0), (source, 0)):
        padded = np.full(rows * window, empty, np.int64)
        padded[: len(column)] = column
        columns.append(torch.from_numpy(padded.reshape(rows, window)[order]))
    return Batch(*columns)


def batches(rows: Batch, size: int) -> Iterator[Batch]:
    """The rows of an epoch, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(rows.items), size):
        yield rows.map(itemgetter(slice(start, start + size)))


def had_before(offsets: Tensor, items: Tensor, events: Tensor, n_items: int) -> Tensor:
    """What the user of each event had before it, all of its history and not only what a row shows.

    Args:
        offsets: int64 (n_users + 1,), those of the histories.
        items: int (n,), the histories' items, on the same device as all others.
        events: int64 (N,), places in the items.
        n_items: size of the catalogue.

    Returns:
        bool (N, n_items + 1), by vocabulary number; False for the event's own item, though it be a
        repeat.
    """
    first = offsets[torch.searchsorted(offsets, events, right=True) - 1]
    lengths = events - first
    row = torch.repeat_interleave(lengths)
    earlier = torch.arange(len(row), device=row.device) + (events - lengths.cumsum(0))[row]
    had = torch.zeros(len(events), n_items + 1, dtype=torch.bool, device=events.device)
    had[row, items[earlier].long() + 1] = True
    return had.scatter_(1, items[events].long()[:, None] + 1, False)
