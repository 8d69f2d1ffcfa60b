"""Small unit vectors in clusters, with duplicates, and queries that lie elsewhere."""

import numpy as np


def unit(array):
    return np.ascontiguousarray(array / np.linalg.norm(array, axis=1, keepdims=True), np.float32)


def clustered(n=1200, d=32, seed=0, clusters=20):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, d))
    return unit(centres[rng.integers(0, clusters, n)] + 0.5 * rng.standard_normal((n, d)))


def few_directions(q=60, d=32, directions=6, seed=2, leak=0.1):
    """Queries that lie almost entirely in the last few coordinates."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((q, d)) * np.where(np.arange(d) >= d - directions, 1, leak))


def users(q=60, d=32, seed=1):
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((q, d)) + 0.3)
