"""A generator that knows the mean and variance of each dimension, and no more."""

from dataclasses import dataclass

import numpy as np


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
        noise *= self.deviation
        noise += self.mean
        return normalised(noise)


def fit_independent(vectors: np.ndarray, total: int) -> Independent:
    """Fit an independent Gaussian to each dimension: the original study's generator."""
    return Independent(vectors.mean(axis=0), vectors.std(axis=0))
