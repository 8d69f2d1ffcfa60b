"""New items whose coordinates come from several real neighbours."""

from dataclasses import dataclass

import numpy as np

from nanorecsys.scaleup.generators.base import normalised
from nanorecsys.scaleup.generators.neighbours import nearest

BLOCK = 1024  # rows at once: 1 MiB an array at d 256, which stays in cache


@dataclass(frozen=True, eq=False)
class _Recombined:
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
        for start in range(0, n, BLOCK):
            block = slice(start, start + BLOCK)
            # one draw says both: below the share of its own the coordinate is the item's, above it
            # says whose
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


class Recombined:
    """On principal axes each coordinate is the item's own or that of a random one of its neighbours.

    So a new item lies as far from every real one as real ones lie from each other, in all
    dimensions and not only in those that a few neighbours span, and each coordinate has the
    distribution that it has in the neighbourhood, tails included. Nothing depends on the size of
    the catalogue: more items are more draws from the same density, and the first n of a large one
    are a catalogue of n.

    A neighbourhood is a number of items: clusters of fewer than `donors` are mixed with what lies
    around them.

    Args:
        donors: neighbours, the item included, that coordinates come from.
        own: range of the share of coordinates that stay the item's; each new item draws its own
            share.
    """

    version = 3
    neighbours = 2

    def __init__(self, donors: int, own: tuple[float, float]) -> None:
        self._donors, self._own = donors, own

    def fit(self, vectors: np.ndarray, total: int) -> _Recombined:
        """See `Generator.fit`."""
        ids, _ = nearest(vectors, min(self._donors, len(vectors)))
        mean = vectors.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov(vectors, rowvar=False, bias=True))
        axes = np.ascontiguousarray(axes.T[::-1], np.float32)
        return _Recombined(mean, axes, (vectors - mean) @ axes.T, ids, self._own)
