"""Small catalogues with known structure."""

import numpy as np
import pytest

from nanorecsys.scaleup.generators import normalised
from nanorecsys.system.blas import faiss

D = 16


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """One thread: several wait for each other where another process has work."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="session")
def curved() -> np.ndarray:
    """600 items on a curved surface of 2 dimensions in 16, unit float32."""
    rng = np.random.default_rng(3)
    place = rng.uniform(-1, 1, (600, 2))
    features = np.concatenate([np.cos(place @ rng.normal(size=(2, D))), np.ones((600, 1))], axis=1)
    return normalised((features @ rng.normal(size=(D + 1, D))).astype(np.float32))


@pytest.fixture(scope="session")
def correlated() -> np.ndarray:
    """2,000 items around one far mean with two strongly correlated dimensions, unit float32."""
    rng = np.random.default_rng(4)
    noise = 0.05 * rng.standard_normal((2000, D))
    noise[:, 1] = noise[:, 0] + 0.01 * rng.standard_normal(2000)
    return normalised((noise + 0.25).astype(np.float32))


@pytest.fixture(scope="session")
def clustered() -> np.ndarray:
    """300, 600 and 900 items around three directions at right angles, unit float32."""
    rng = np.random.default_rng(5)
    centres = np.repeat(np.eye(D)[:3], [300, 600, 900], axis=0)
    return normalised((centres + 0.05 * rng.standard_normal((1800, D))).astype(np.float32))
