"""What a generator is, and what its input has to be."""

from typing import Protocol

import numpy as np

from nanorecsys.scaleup.errors import VectorsError

UNIT_TOLERANCE = 1e-3  # of a norm; float32 rounding is 1e-6, a forgotten normalisation far more


class Fitted(Protocol):
    """A generator fitted on a catalogue; safe to share between threads."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n new items, unit float32 (n, d), a function of the state of `rng` alone."""


class Generator(Protocol):
    """A way to make up items that resemble those of a catalogue.

    `neighbours` is the fewest vectors that `fit` takes; `version` goes up when the bytes of a
    sample change.
    """

    version: int
    neighbours: int

    def fit(self, vectors: np.ndarray, total: int) -> Fitted:
        """Learn from real items.

        Args:
            vectors: unit float32 (items, d), checked by `check_vectors`.
            total: size of the catalogue that the samples and the real items will make up; a
                generator that looks at neighbourhoods makes them denser for a larger one.
        """


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Unit float32 rows; the argument is overwritten where it is float32.

    >>> normalised(np.array([[3.0, 4.0]], np.float32))
    array([[0.6, 0.8]], dtype=float32)
    """
    vectors = vectors.astype(np.float32, copy=False)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    vectors *= (1 / np.sqrt(squares))[:, None]
    return vectors


def check_vectors(vectors: np.ndarray, neighbours: int) -> None:
    """Refuse item vectors that a generator cannot be fitted on.

    Args:
        vectors: should be finite unit float32 (items, d).
        neighbours: the fewest items.

    Raises:
        VectorsError: says which of these does not hold, and of which row.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise VectorsError(
            f"Item vectors should be float32 (items, d), these are {vectors.dtype} {vectors.shape}.",
            "Pass the item_vectors.npy of the training chapter.",
        )
    if len(vectors) < neighbours:
        raise VectorsError(
            f"{len(vectors)} item vectors are fewer than the {neighbours} that this generator needs.",
            "Give it more items, or choose the generator 'independent'.",
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise VectorsError(
            f"{np.count_nonzero(~finite)} item vectors are not finite, the first in row {np.argmin(finite)}.",
            "Train again; NaN in item vectors means that the training diverged.",
        )
    norms = np.linalg.norm(vectors, axis=1)
    unit = np.abs(norms - 1) <= UNIT_TOLERANCE
    if not unit.all():
        row = np.argmin(unit)
        raise VectorsError(
            f"{np.count_nonzero(~unit)} item vectors are not unit norm, the first in row {row}: {norms[row]:.4g}.",
            "Divide each row by its norm first.",
        )
