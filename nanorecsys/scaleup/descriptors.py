"""What a catalogue looks like to a search, in a few numbers that can be compared between a real and a made-up one."""

import msgspec
import numpy as np

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.data import Histories
from nanorecsys.scaleup.generators.neighbours import BLOCK, intrinsic_dimension, nearest

NEIGHBOURS = 20
TWO_NN_KEPT = 0.9  # of the ratios; the largest are left out, as its authors do
RANKS = (1, 2, 5, 10, 20, 50, 100)
COPY = 0.5  # an item closer to a real one than this share of the real median distance is nearly its copy
SPECTRUM = (1, 4, 16, 64)
CLASSIFIER_NEIGHBOURS = 10
CLASSIFIER_ITEMS = 4000


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors of one catalogue.

    Args:
        lid_mle: local intrinsic dimension by maximum likelihood (Levina and Bickel 2004) over 20
            neighbours.
        lid_two_nn: the same from the ratio of the first two distances (Facco et al. 2017).
        hubness: skewness of how often an item is among the 10 nearest of others (Radovanovic et al.
            2010).
        contrast: mean distance over distance to the nearest, median over items (He et al. 2012).
        nn_distance: median distance to the nearest other item.
        nn_low: that of the 5 % with the nearest.
        nn_power: of the law nn_distance ~ n ** power, fitted on random parts of the catalogue.
        spectrum: share of the variance on the first 1, 4, 16, 64 principal axes.
        score_gaps: a user's best score minus that at rank 1, 2, 5, .. 100 of what it has not seen,
            median over users.
        auc: of telling made-up items from hidden real ones by their neighbours, 0.5 where they
            cannot be told apart; None for the real catalogue.
    """

    lid_mle: float
    lid_two_nn: float
    hubness: float
    contrast: float
    nn_distance: float
    nn_low: float
    nn_power: float
    spectrum: list[float]
    score_gaps: list[float]
    auc: float | None


def describe(
    vectors: np.ndarray, queries: np.ndarray, seen: Histories, seed: int, auc: float | None = None
) -> Described:
    """Describe a catalogue.

    Args:
        vectors: unit float32 (n, d), some hundred or more.
        queries: unit float32 (q, d), real users.
        seen: CSR by query, what the user has seen.
        seed: of the random parts.
        auc: from `two_sample_auc`.
    """
    ids, distances = nearest(vectors, NEIGHBOURS + 1)
    first = distances[:, 1]
    _, power = nearest_law(vectors, seed)
    variances = np.maximum(np.linalg.eigvalsh(np.cov(vectors, rowvar=False))[::-1], 0)
    shares = np.cumsum(variances) / variances.sum()
    mean = np.linalg.norm(vectors.mean(axis=0, dtype=np.float64))
    average = np.sqrt(2 - 2 * mean**2)  # root of the mean squared distance of two items
    best = exact_neighbours(vectors, queries, min(RANKS[-1], len(vectors)), seen=seen).scores
    return Described(
        lid_mle=intrinsic_dimension(distances),
        lid_two_nn=two_nn(distances),
        hubness=hubness(ids[:, 1:11], len(vectors)),
        contrast=float(np.median(average / np.maximum(first, 1e-6))),
        nn_distance=float(np.median(first)),
        nn_low=float(np.quantile(first, 0.05)),
        nn_power=power,
        spectrum=[float(shares[min(axes, len(shares)) - 1]) for axes in SPECTRUM],
        score_gaps=[
            float(np.median(best[:, 0] - best[:, r - 1])) for r in RANKS if r <= best.shape[1]
        ],
        auc=auc,
    )


def two_nn(distances: np.ndarray) -> float:
    """Intrinsic dimension from the ratio of the second to the first distance, Facco et al. 2017, equation 5.

    The fit is through the origin of -log(1 - F) against log of the ratio, the largest tenth of the
    ratios left out.

    Args:
        distances: (items, k) from near to far, the item itself first.

    >>> rng = np.random.default_rng(0)
    >>> plane = np.concatenate([rng.uniform(size=(2000, 2)), np.zeros((2000, 3))], axis=1)
    >>> far = np.sort(np.linalg.norm(plane[:, None] - plane[None], axis=2), axis=1)
    >>> 1.8 < two_nn(far[:, :3]) < 2.2
    True
    """
    inside = distances[:, 1] > 0
    ratios = np.sort(np.log(distances[inside, 2] / distances[inside, 1]))
    share = np.arange(1, len(ratios) + 1) / (len(ratios) + 1)
    kept = slice(0, max(1, int(TWO_NN_KEPT * len(ratios))))
    x, y = ratios[kept], -np.log(1 - share[kept])
    return float(x @ y / max(x @ x, 1e-12))


def hubness(neighbours: np.ndarray, n: int) -> float:
    """Skewness of how often each of n items is among the neighbours (rows of ids) of the others.

    >>> hubness(np.array([[1], [0], [0], [0]]), 4).__round__(2)
    0.82
    """
    counts = np.bincount(neighbours.ravel(), minlength=n).astype(np.float64)
    centred = counts - counts.mean()
    return float((centred**3).mean() / max((centred**2).mean() ** 1.5, 1e-12))


def nearest_law(vectors: np.ndarray, seed: int) -> tuple[float, float]:
    """Factor and power of: median distance to the nearest other item = factor * n ** power.

    Fitted on nested random parts of a tenth, a third and all of the catalogue.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    sizes = np.unique([max(3, len(vectors) // 10), max(3, len(vectors) // 3), len(vectors)])
    medians = [np.median(nearest(vectors[order[:n]], 2)[1][:, 1]) for n in sizes]
    power, factor = np.polyfit(np.log(sizes), np.log(np.maximum(medians, 1e-6)), 1)
    return float(np.exp(factor)), float(power)


def two_sample_auc(made: np.ndarray, hidden: np.ndarray, seed: int) -> float:
    """How well a nearest-neighbour classifier tells made-up items from hidden real ones, area under its ROC curve.

    Of both the same number; one half of the items is labelled, the other is scored by the share of
    made-up ones among its nearest labelled neighbours (Lopez-Paz and Oquab 2017 with that
    classifier). 0.5 means that it cannot.

    Args:
        made: unit float32 (a, d).
        hidden: unit float32 (b, d).
        seed: of the halves.
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
    # closeness breaks ties between equal shares
    share = (label[known][near] * (2 + np.take_along_axis(scores, near, axis=1))).sum(axis=1)
    share -= ((~label[known][near]) * (2 + np.take_along_axis(scores, near, axis=1))).sum(axis=1)
    return _auc(share, label[asked])


def copy_share(made: np.ndarray, given: np.ndarray, distance: float) -> float:
    """Share of made-up items that lie closer to an item that the generator was given than `COPY` times a distance.

    Args:
        made: unit float32 (a, d).
        given: unit float32 (b, d).
        distance: usual one from a real item to the nearest other, at the size of the catalogue.
    """
    closest = [
        (made[start : start + BLOCK] @ given.T).max(axis=1) for start in range(0, len(made), BLOCK)
    ]
    far = np.sqrt(np.maximum(2 - 2 * np.concatenate(closest), 0))
    return float((far < COPY * distance).mean())


def _auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counted half."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    upto = np.cumsum(counts)
    rank = (upto - (counts - 1) / 2)[inverse]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
