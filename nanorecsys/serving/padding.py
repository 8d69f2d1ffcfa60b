"""Histories as padded batches for a user tower, with little padding."""

from collections.abc import Iterator

import numpy as np

from nanorecsys.data.interactions import Histories


def padded(histories: Histories, users: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad the last `window` items of some users for a user tower.

    Args:
        histories: CSR.
        users: User numbers, int (B,).
        window: Largest number of items per user.

    Returns:
        items int64 (B, L), vocabulary numbers (item + 1), left-aligned and 0 beyond the length; L
        is the longest of these histories. lengths int64 (B,). An empty history is one 0 of length
        1.
    """
    kept = np.minimum(histories.lengths[users], window)
    lengths = np.maximum(kept, 1)
    place = np.arange(lengths.max(initial=1))
    source = (histories.offsets[users + 1] - kept)[:, None] + place
    inside = place < kept[:, None]
    items = np.zeros(inside.shape, np.int64)
    items[inside] = histories.items[source[inside]] + 1
    return items, lengths


def alike(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Split `lengths`, from short to long, into batches of at most `batch_tokens` padded positions.

    Returns indices into `lengths`; a longer history is alone in its batch.

    >>> [batch.tolist() for batch in alike(np.array([5, 1, 2, 9]), 4)]
    [[1, 2], [0], [3]]
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = lengths[order[start : start + batch_tokens]]
        places = np.arange(1, len(longest) + 1) * longest
        stop = start + max(1, int(np.searchsorted(places, batch_tokens, side="right")))
        yield order[start:stop]
        start = stop


def padded_batches(
    histories: Histories, users: np.ndarray, window: int, batch_tokens: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pad users in batches of similar length: indices into `users`, items and lengths.

    Args:
        histories: CSR.
        users: User numbers, int (B,).
        window: Largest number of items per user.
        batch_tokens: Number of padded positions per batch; 1 for one user at a time.
    """
    for batch in alike(np.clip(histories.lengths[users], 1, window), batch_tokens):
        yield batch, *padded(histories, users[batch], window)
