"""Generators of synthetic item vectors, by name.

A generator is fitted on real items and then sampled:

fitted = generator_of("local")(vectors, 3_000_000)
more = fitted.sample(10_000, np.random.default_rng(0))
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from nanorecsys.evaluation.ranking import top_items
from nanorecsys.system.errors import NanorecsysError

BLOCK = 512  # rows of scores at once: 18 MiB at 9,066 items
TENFOLD = 10  # expansion at which the noise of `fit_local` was chosen, on held-out items
GATHERED = 256  # rows at once whose neighbours fill 4 MiB at d 256, which stays in a cache
DRAWN = 1024  # rows at once that take 1 MiB an array at d 256, which stays in a cache


class GeneratorError(NanorecsysError):
    """The name of a generator is unknown."""


class Fitted(Protocol):
    """A generator fitted on a catalogue. Threads may share it."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n new items, unit float32 (n, d), that depend on the state of `rng` alone."""


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Return unit float32 rows; a float32 argument is overwritten.

    >>> normalised(np.array([[3.0, 4.0]], np.float32))
    array([[0.6, 0.8]], dtype=float32)
    """
    vectors = vectors.astype(np.float32, copy=False)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    vectors *= (1 / np.sqrt(squares))[:, None]
    return vectors


@dataclass(frozen=True, eq=False)
class Independent:
    """A Gaussian of each dimension by itself, then unit norm."""

    mean: np.ndarray  # (d,)
    deviation: np.ndarray  # (d,)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """See `Fitted.sample`."""
        noise = rng.standard_normal((n, len(self.mean)), np.float32)
        return normalised(self.mean + self.deviation * noise)


def fit_independent(vectors: np.ndarray, total: int) -> Independent:
    """Fit an independent Gaussian to each dimension: the original study's generator."""
    return Independent(vectors.mean(axis=0), vectors.std(axis=0))


def nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k items nearest to each item, itself first.

    Args:
        vectors: Unit float32 (items, d).
        k: Neighbours per item, at most the number of items.

    Returns:
        Ids int32 (items, k) and distances float32 (items, k), ascending.
    """
    ids = np.empty((len(vectors), k), np.int32)
    similarity = np.empty((len(vectors), k), np.float32)
    for start in range(0, len(vectors), BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors.T
        rows = np.arange(len(scores))
        # Above any cosine, so that a copy of the item does not take its place.
        scores[rows, start + rows] = 2
        near = top_items(scores, k)
        ids[start : start + BLOCK] = near
        similarity[start : start + BLOCK] = np.take_along_axis(scores, near, axis=1)
    similarity[:, 0] = 1
    return ids, np.sqrt(np.maximum(2 - 2 * similarity, 0))


def intrinsic_dimension(distances: np.ndarray) -> float:
    """Estimate the local dimension by maximum likelihood (Levina and Bickel 2004).

    The inverses are averaged over the items. Copies at distance 0 are left out.

    Args:
        distances: (items, k), ascending, the item itself first.
    """
    ratios = distances[:, -1:] / np.where(distances[:, 1:-1] > 0, distances[:, 1:-1], np.nan)
    return 1 / max(float(np.nanmean(np.log(ratios))), 1e-3)


@dataclass(frozen=True, eq=False)
class Around:
    """Points near random items, with the noise of the neighbourhood."""

    vectors: np.ndarray
    neighbours: np.ndarray  # int32 (items, k), the item itself first
    partners: int
    noise: float

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """See `Fitted.sample`."""
        k = self.neighbours.shape[1]
        base = rng.integers(len(self.vectors), size=n)
        # A new item is a weighted sum of neighbours with weights that add up to 1. Random weights
        # that add up to 0 are noise with the neighbours' covariance, without computing local axes.
        weights = rng.standard_normal((n, k), np.float32)
        weights -= weights.mean(axis=1, keepdims=True)
        weights *= np.float32(self.noise / np.sqrt(k - 1))
        rows = np.arange(n)
        share = rng.random(n, np.float32)
        weights[rows, 0] += 1 - share
        weights[rows, rng.integers(1, self.partners + 1, size=n)] += share
        made = np.empty((n, self.vectors.shape[1]), np.float32)
        for start in range(0, n, GATHERED):
            block = slice(start, start + GATHERED)
            around = self.vectors[self.neighbours[base[block]]]
            made[block] = np.matmul(weights[block, None], around)[:, 0]
        return normalised(made)


def fit_local(
    vectors: np.ndarray, total: int, neighbours: int, partners: int, noise: float
) -> Around:
    """Fit points on the way from an item to one of its nearest neighbours, plus local noise.

    The noise is Gaussian with the covariance of the item and its neighbours. It shrinks as the
    catalogue grows by total ** (-1 / D), as distances do in the items' intrinsic dimension D.

    Args:
        vectors: Unit float32 (items, d).
        total: Size of the expanded catalogue.
        neighbours: Items, itself included, that give the noise its directions.
        partners: Nearest neighbours that a new item may lie towards.
        noise: Standard deviations of the neighbourhood at a tenfold expansion.
    """
    ids, distances = nearest(vectors, neighbours)
    shrink = (total / (TENFOLD * len(vectors))) ** (-1 / intrinsic_dimension(distances))
    return Around(vectors, ids, partners, noise * shrink)


@dataclass(frozen=True, eq=False)
class Recombination:
    """New items whose coordinates come from several real neighbours."""

    mean: np.ndarray  # (d,)
    axes: np.ndarray  # (d, d), rows from the largest variance to the smallest
    scores: np.ndarray  # (items, d), coordinates of the real items on the axes
    neighbours: np.ndarray  # int32 (items, k), the item itself first
    own: tuple[float, float]

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """See `Fitted.sample`."""
        items, d = self.scores.shape
        k = self.neighbours.shape[1]
        base = rng.integers(items, size=n)
        own = rng.uniform(*self.own, size=(n, 1)).astype(np.float32)
        columns = np.arange(d)
        flat_neighbours, flat_scores = self.neighbours.ravel(), self.scores.ravel()
        made = np.empty((n, d), np.float32)
        for start in range(0, n, DRAWN):
            block = slice(start, start + DRAWN)
            # One draw decides both: below its own share the coordinate is the item's, above it the
            # draw picks the neighbour.
            draw = rng.random((len(base[block]), d), np.float32)
            draw -= own[block]
            draw *= k / (1 - own[block])
            rank = np.clip(draw, 0, k - 1, out=draw).astype(np.int64)
            rank += k * base[block, None]
            donor = flat_neighbours.take(rank).astype(np.int64)
            donor *= d
            donor += columns
            made[block] = flat_scores.take(donor) @ self.axes
        made += self.mean
        return normalised(made)


def fit_recombined(
    vectors: np.ndarray, total: int, donors: int, own: tuple[float, float]
) -> Recombination:
    """Fit items that take each principal coordinate from the item or one of its neighbours.

    A new item lies as far from every real one as real ones lie from each other, in all dimensions
    and not only in those that a few neighbours span. Each coordinate has the distribution that it
    has in the neighbourhood. The samples do not depend on the size of the catalogue. Clusters of
    fewer than `donors` items are mixed with what lies around them.

    Args:
        vectors: Unit float32 (items, d).
        total: Size of the expanded catalogue.
        donors: Neighbours, the item included, that coordinates come from.
        own: Range of the share of coordinates that stay the item's, drawn for each item.
    """
    ids, _ = nearest(vectors, min(donors, len(vectors)))
    mean = vectors.mean(axis=0)
    _, columns = np.linalg.eigh(np.cov(vectors, rowvar=False, bias=True))
    axes = np.ascontiguousarray(columns.T[::-1], np.float32)
    return Recombination(mean, axes, (vectors - mean) @ axes.T, ids, own)


# A generator takes real items, unit float32 (items, d), and the size of the expanded catalogue: one
# that looks at neighbourhoods makes them denser in a larger catalogue. The settings of the last two
# were chosen by recall curves on held-out items.
GENERATORS: dict[str, Callable[[np.ndarray, int], Fitted]] = {
    "independent": fit_independent,
    "local": partial(fit_local, neighbours=16, partners=5, noise=0.5),
    "recombined": partial(fit_recombined, donors=900, own=(0.5, 0.8)),
}


def generator_of(name: str) -> Callable[[np.ndarray, int], Fitted]:
    """Return the generator of that name.

    Raises:
        GeneratorError: The name is unknown.
    """
    if name not in GENERATORS:
        raise GeneratorError(
            f"There is no generator {name!r}.", f"Choose one of {', '.join(GENERATORS)}."
        )
    return GENERATORS[name]
