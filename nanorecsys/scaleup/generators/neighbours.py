"""Exact neighbours among the items and how many dimensions they spread in."""

import numpy as np

BLOCK = 512  # rows of scores at once: 18 MiB at 9,066 items


def nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k items nearest to each item, itself first.

    Args:
        vectors: unit float32 (items, d).
        k: at most the number of items.

    Returns:
        ids int32 (items, k) and distances float32 (items, k), from near to far.
    """
    ids = np.empty((len(vectors), k), np.int32)
    similarity = np.empty((len(vectors), k), np.float32)
    for start in range(0, len(vectors), BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        scores[rows, start + rows] = (
            2  # above any cosine, so that an exact copy cannot take the place of the item
        )
        near = np.argpartition(scores, len(vectors) - k, axis=1)[:, len(vectors) - k :]
        found = np.take_along_axis(scores, near, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        ids[start : start + BLOCK] = np.take_along_axis(near, order, axis=1)
        similarity[start : start + BLOCK] = np.take_along_axis(found, order, axis=1)
    similarity[:, 0] = 1
    return ids, np.sqrt(np.maximum(2 - 2 * similarity, 0))


def intrinsic_dimension(distances: np.ndarray) -> float:
    """Maximum likelihood estimate of the local dimension (Levina and Bickel 2004), inverses averaged over items.

    Args:
        distances: (items, k) from near to far, the item itself first; copies at distance 0 are left
            out.
    """
    ratios = distances[:, -1:] / np.where(distances[:, 1:-1] > 0, distances[:, 1:-1], np.nan)
    return float(1 / max(np.nanmean(np.log(ratios)), 1e-3))
