"""A Gaussian mixture on principal axes."""

from dataclasses import dataclass

import numpy as np

from nanorecsys.scaleup.generators.base import normalised
from nanorecsys.scaleup.generators.gaussian import covariance_root

AXES = 64  # principal axes on which components differ; on the others all items share one variance an axis
COMPONENTS = 64  # at most
ITEMS_PER_COMPONENT = 50  # at least, on average
ROUNDS = 30  # of k-means at most


@dataclass(frozen=True, eq=False)
class _Mixture:
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


class Mixture:
    """Components by k-means on principal axes, each with its own covariance; the remaining axes as one Gaussian.

    The covariance of a component is drawn towards the pooled one, as if that had been seen on as
    many more items as there are axes: a component has few items for a covariance of its own.
    """

    version = 1
    neighbours = 2

    def fit(self, vectors: np.ndarray, total: int) -> _Mixture:
        """See `Generator.fit`."""
        mean = vectors.mean(axis=0)
        variances, axes = np.linalg.eigh(np.cov(vectors, rowvar=False, bias=True))
        variances, axes = (
            np.maximum(variances[::-1], 0),
            np.ascontiguousarray(axes.T[::-1], np.float32),
        )
        p = min(AXES, len(mean))
        scores = (vectors - mean) @ axes[:p].T
        centres, labels = kmeans(
            scores, max(1, min(COMPONENTS, len(scores) // ITEMS_PER_COMPONENT))
        )
        sizes = np.bincount(labels, minlength=len(centres))
        within = scores - centres[labels]
        pooled = within.T @ within / len(scores)
        roots = []
        for c, size in enumerate(sizes):
            own = within[labels == c]
            roots.append(covariance_root((own.T @ own + p * pooled) / (size + p)))
        rest = np.sqrt(variances[p:]).astype(np.float32)
        return _Mixture(mean, axes, sizes / len(scores), centres, np.stack(roots), rest)


def kmeans(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii 2007); the same result for the same points.

    Args:
        points: float32 (n, p), n >= k.

    Returns:
        centres float32 (k, p), none of them empty unless points coincide, and labels int64 (n,).

    >>> centres, labels = kmeans(np.array([[0], [1], [10], [11]], np.float32), 2)
    >>> sorted(centres[:, 0].tolist()), bool(labels[0] == labels[1] != labels[2])
    ([0.5, 10.5], True)
    """
    rng = np.random.default_rng(0)
    centres = points[rng.integers(len(points), size=1)]
    squares = np.einsum("np,np->n", points, points)
    far = _squared_distances(points, squares, centres)[:, 0]
    for _ in range(k - 1):
        chosen = (
            rng.choice(len(points), p=far / far.sum()) if far.any() else rng.integers(len(points))
        )
        centres = np.concatenate([centres, points[chosen : chosen + 1]])
        far = np.minimum(far, _squared_distances(points, squares, centres[-1:])[:, 0])
    labels = np.full(len(points), -1)
    for _ in range(ROUNDS):
        distances = _squared_distances(points, squares, centres)
        found = distances.argmin(axis=1)
        if np.array_equal(found, labels):
            break
        labels = found
        for c in range(k):
            members = points[labels == c]
            # a centre that lost its last point takes the one that is worst served
            centres[c] = (
                members.mean(axis=0) if len(members) else points[distances.min(axis=1).argmax()]
            )
    return centres, labels


def _squared_distances(points: np.ndarray, squares: np.ndarray, centres: np.ndarray) -> np.ndarray:
    distances = squares[:, None] - 2 * points @ centres.T + np.einsum("kp,kp->k", centres, centres)
    return np.maximum(distances, 0, dtype=np.float64)
