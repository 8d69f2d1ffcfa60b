"""Descriptors of a catalogue in a few numbers, to compare a real and a synthetic one."""

import msgspec
import numpy as np
from scipy import stats

from nanorecsys.scaleup.generators.neighbourhoods import BLOCK, intrinsic_dimension, nearest

NEIGHBOURS = 20
COPY = 0.5  # an item closer to a real one than this share of the usual distance is almost a copy
CLASSIFIER_NEIGHBOURS = 10
CLASSIFIER_ITEMS = 4000


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors of one catalogue.

    Args:
        dimension: Local intrinsic dimension by maximum likelihood over 20 neighbours.
        hubness: Skewness of how often an item is among the 10 nearest of others (Radovanovic et
            al. 2010).
        contrast: Mean distance over distance to the nearest, median over items (He et al. 2012).
        nn_distance: Median distance to the nearest other item.
        auc: Area under the ROC curve of telling synthetic items from hidden real ones by their
            neighbours, 0.5 if they look alike; None for the real catalogue.
    """

    dimension: float
    hubness: float
    contrast: float
    nn_distance: float
    auc: float | None


def describe(vectors: np.ndarray, auc: float | None = None) -> Description:
    """Describe a catalogue of unit float32 (n, d); `auc` is from `two_sample_auc`."""
    ids, distances = nearest(vectors, NEIGHBOURS + 1)
    first = distances[:, 1]
    mean = np.linalg.norm(vectors.mean(axis=0, dtype=np.float64))
    average = np.sqrt(2 - 2 * mean**2)  # root of the mean squared distance of two items
    return Description(
        dimension=intrinsic_dimension(distances),
        hubness=hubness(ids[:, 1:11], len(vectors)),
        contrast=float(np.median(average / np.maximum(first, 1e-6))),
        nn_distance=float(np.median(first)),
        auc=auc,
    )


def hubness(neighbours: np.ndarray, n: int) -> float:
    """Compute the skewness of how often each of n items is a neighbour (rows of ids) of others.

    >>> hubness(np.array([[1], [0], [0], [0]]), 4).__round__(2)
    0.82
    """
    counts = np.bincount(neighbours.ravel(), minlength=n)
    return float(np.nan_to_num(stats.skew(counts))) if np.ptp(counts) else 0.0


def two_sample_auc(made: np.ndarray, hidden: np.ndarray, seed: int) -> float:
    """Measure how well nearest neighbours tell synthetic items from hidden real ones.

    Half of the items are labelled; the others are scored by their labelled neighbours (Lopez-Paz
    and Oquab 2017 with that classifier). 0.5 means that they look alike.

    Args:
        made: Synthetic items, unit float32 (a, d).
        hidden: Real items, unit float32 (b, d).
        seed: Random seed of the halves.

    Returns:
        Area under the ROC curve.
    """
    rng = np.random.default_rng(seed)
    count = min(len(made), len(hidden), CLASSIFIER_ITEMS)
    items = np.concatenate([x[rng.permutation(len(x))[:count]] for x in (made, hidden)])
    label = np.repeat([True, False], count)
    order = rng.permutation(len(items))
    known, asked = order[:count], order[count:]
    scores = items[asked] @ items[known].T
    k = min(CLASSIFIER_NEIGHBOURS, count)
    near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    # Adding the similarity breaks ties between equal shares.
    weights = 2 + np.take_along_axis(scores, near, axis=1)
    score = np.where(label[known][near], weights, -weights).sum(axis=1)
    positive, negative = score[label[asked]], score[~label[asked]]
    greater = stats.mannwhitneyu(positive, negative, method="asymptotic").statistic
    return float(greater / (len(positive) * len(negative)))


def copy_share(made: np.ndarray, given: np.ndarray, distance: float) -> float:
    """Return the share of synthetic items closer to a given item than `COPY` times a distance.

    Args:
        made: Synthetic items, unit float32 (a, d).
        given: Items that the generator was fitted on, unit float32 (b, d).
        distance: Usual distance from a real item to the nearest other one.
    """
    closest = [
        (made[start : start + BLOCK] @ given.T).max(axis=1) for start in range(0, len(made), BLOCK)
    ]
    far = np.sqrt(np.maximum(2 - 2 * np.concatenate(closest), 0))
    return float((far < COPY * distance).mean())
