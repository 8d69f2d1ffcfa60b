"""Generators that know means and covariances and nothing of neighbourhoods."""

from dataclasses import dataclass

import numpy as np

from nanorecsys.scaleup.generators.base import normalised


@dataclass(frozen=True, eq=False)
class _Normal:
    """x = mean + z @ root, then unit norm; `root` is (d,) for a diagonal one, (d, d) otherwise."""

    mean: np.ndarray
    root: np.ndarray

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """See `Fitted.sample`."""
        noise = rng.standard_normal((n, len(self.mean)), np.float32)
        if self.root.ndim == 1:
            noise *= self.root
        else:
            noise = noise @ self.root
        noise += self.mean
        return normalised(noise)


class Independent:
    """Each dimension a Gaussian of its own mean and variance, then unit norm: the original study's generator."""

    version = 1
    neighbours = 2

    def fit(self, vectors: np.ndarray, total: int) -> _Normal:
        """See `Generator.fit`."""
        return _Normal(vectors.mean(axis=0), vectors.std(axis=0))


class Gaussian:
    """One Gaussian with the full covariance, then unit norm."""

    version = 1
    neighbours = 2

    def fit(self, vectors: np.ndarray, total: int) -> _Normal:
        """See `Generator.fit`."""
        return _Normal(
            vectors.mean(axis=0), covariance_root(np.cov(vectors, rowvar=False, bias=True))
        )


def covariance_root(covariance: np.ndarray) -> np.ndarray:
    """A float32 (d, d) matrix R with R.T @ R the given covariance, singular or not.

    >>> root = covariance_root(np.array([[1.0, 2.0], [2.0, 4.0]]))
    >>> (root.T @ root).round(3).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    values, axes = np.linalg.eigh(covariance)
    return (np.sqrt(np.maximum(values, 0))[:, None] * axes.T).astype(np.float32)
