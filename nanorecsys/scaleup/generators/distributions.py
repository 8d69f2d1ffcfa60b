"""Generators that know means and covariances but no neighbourhoods."""

import warnings
from dataclasses import dataclass

import numpy as np

AXES = 64  # principal axes on which components differ; the others share one variance each
COMPONENTS = 64  # at most
ITEMS_PER_COMPONENT = 50  # at least, on average
ITERATIONS = 30  # iterations of k-means


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
class Normal:
    """A Gaussian: x = mean + z @ root, then unit norm; `root` is (d,) or (d, d)."""

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


def fit_independent(vectors: np.ndarray, total: int) -> Normal:
    """Fit an independent Gaussian to each dimension: the original study's generator."""
    return Normal(vectors.mean(axis=0), vectors.std(axis=0))


def fit_gaussian(vectors: np.ndarray, total: int) -> Normal:
    """Fit one Gaussian with the full covariance."""
    covariance = np.cov(vectors, rowvar=False, bias=True)
    return Normal(vectors.mean(axis=0), covariance_root(covariance))


def covariance_root(covariance: np.ndarray) -> np.ndarray:
    """Return a float32 (d, d) matrix R with R.T @ R the given covariance, singular or not.

    >>> root = covariance_root(np.array([[1.0, 2.0], [2.0, 4.0]]))
    >>> (root.T @ root).round(3).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    values, axes = np.linalg.eigh(covariance)
    return (np.sqrt(np.maximum(values, 0))[:, None] * axes.T).astype(np.float32)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A Gaussian mixture on the first p principal axes, one Gaussian on the others."""

    mean: np.ndarray  # (d,)
    axes: np.ndarray  # (d, d), rows from the largest variance to the smallest
    shares: np.ndarray  # (components,), sum 1
    centres: np.ndarray  # (components, p)
    roots: np.ndarray  # (components, p, p), see `covariance_root`
    rest: np.ndarray  # (d - p,), standard deviations

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """See `Fitted.sample`."""
        p = self.centres.shape[1]
        component = rng.choice(len(self.shares), size=n, p=self.shares)
        scores = rng.standard_normal((n, len(self.mean)), np.float32)
        scores[:, p:] *= self.rest
        for c, (centre, root) in enumerate(zip(self.centres, self.roots, strict=True)):
            rows = component == c
            scores[rows, :p] = scores[rows, :p] @ root + centre
        return normalised(scores @ self.axes + self.mean)


def fit_mixture(vectors: np.ndarray, total: int) -> GaussianMixture:
    """Fit components by k-means on principal axes, each with its own covariance.

    A component has too few items for a covariance. So its estimate shrinks to the pooled one,
    as if that had been seen on as many more items as there are axes.
    """
    from scipy.cluster.vq import kmeans2  # every child process would import it

    mean = vectors.mean(axis=0)
    variances, axes = principal_axes(vectors)
    p = min(AXES, len(mean))
    scores = (vectors - mean) @ axes[:p].T
    components = max(1, min(COMPONENTS, len(scores) // ITEMS_PER_COMPONENT))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, labels = kmeans2(scores, components, ITERATIONS, minit="++", rng=0)
    sizes = np.bincount(labels, minlength=len(centres))
    within = scores - centres[labels]
    pooled = within.T @ within / len(scores)
    roots = []
    for c, size in enumerate(sizes):
        own = within[labels == c]
        roots.append(covariance_root((own.T @ own + p * pooled) / (size + p)))
    rest = np.sqrt(variances[p:]).astype(np.float32)
    return GaussianMixture(mean, axes, sizes / len(scores), centres, np.stack(roots), rest)


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return variances (d,), falling, and principal axes as rows, float32 (d, d)."""
    variances, axes = np.linalg.eigh(np.cov(vectors, rowvar=False, bias=True))
    rows = np.ascontiguousarray(axes.T[::-1], np.float32)
    return np.maximum(variances[::-1], 0), rows
