"""New items near real ones, with noise of the covariance of the neighbourhood."""

from dataclasses import dataclass

import numpy as np

from nanorecsys.scaleup.generators.base import normalised
from nanorecsys.scaleup.generators.neighbours import intrinsic_dimension, nearest

TENFOLD = 10  # the expansion at which the noise of both generators was chosen, on held-out items
GATHERED = 256  # rows at once: their neighbours fill 4 MiB at d 256, which stays in cache


@dataclass(frozen=True, eq=False)
class _Around:
    vectors: np.ndarray
    neighbours: np.ndarray  # int32 (items, k), the item itself first
    partners: int
    noise: float

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """See `Fitted.sample`."""
        k = self.neighbours.shape[1]
        base = rng.integers(len(self.vectors), size=n)
        # a new item is a weighted sum of neighbours whose weights add up to 1; random weights that
        # add up to 0 are noise with the covariance of the neighbours, so that no local axes need be
        # computed or kept
        weights = rng.standard_normal((n, k), np.float32)
        weights -= weights.mean(axis=1, keepdims=True)
        weights *= np.float32(self.noise / np.sqrt(k - 1))
        rows = np.arange(n)
        share = rng.random(n, np.float32) if self.partners else np.zeros(n, np.float32)
        weights[rows, 0] += 1 - share
        if self.partners:
            weights[rows, rng.integers(1, self.partners + 1, size=n)] += share
        made = np.empty((n, self.vectors.shape[1]), np.float32)
        for start in range(0, n, GATHERED):
            block = slice(start, start + GATHERED)
            around = self.vectors[self.neighbours[base[block]]]
            made[block] = np.matmul(weights[block, None], around)[:, 0]
        return normalised(made)


class Local:
    """A point near a random item: on the way to one of its nearest neighbours or at it, plus local noise.

    The noise is Gaussian with the covariance of the item and its neighbours. It shrinks as the
    catalogue grows, as distances between neighbours do in a space of the items' intrinsic dimension
    D: by total ** (-1 / D).

    Args:
        neighbours: the item itself and those that give the noise its directions.
        partners: nearest neighbours, towards a random one of which a new item lies, anywhere on the
            way; with 0 it stays at its item.
        noise: standard deviations of the neighbourhood, at a tenfold expansion.
    """

    version = 1

    def __init__(self, neighbours: int, partners: int, noise: float) -> None:
        self.neighbours = neighbours
        self._partners = partners
        self._noise = noise

    def fit(self, vectors: np.ndarray, total: int) -> _Around:
        """See `Generator.fit`."""
        ids, distances = nearest(vectors, self.neighbours)
        shrink = (total / (TENFOLD * len(vectors))) ** (-1 / intrinsic_dimension(distances))
        return _Around(vectors, ids, self._partners, self._noise * shrink)
