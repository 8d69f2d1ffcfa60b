"""Generators of synthetic item vectors, by name.

A generator is fitted on real items and then sampled:

fitted = generator_of("local")(vectors, 3_000_000)
more = fitted.sample(10_000, np.random.default_rng(0))
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from nanorecsys.scaleup.errors import GeneratorInputError, UnknownGeneratorError
from nanorecsys.scaleup.generators.distributions import fit_gaussian, fit_independent, fit_mixture
from nanorecsys.scaleup.generators.neighbourhoods import fit_local, fit_recombined

UNIT_TOLERANCE = 1e-3  # deviation of a norm from 1; rounding of float32 is 1e-6
FEWEST = 16  # real items that a generator needs


class Fitted(Protocol):
    """A generator fitted on a catalogue. Threads may share it."""

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n new items, unit float32 (n, d), that depend on the state of `rng` alone."""


# A generator takes real items, unit float32 (items, d), and the size of the expanded catalogue: one
# that looks at neighbourhoods makes them denser in a larger catalogue. The settings of the last two
# were chosen by recall curves on held-out items.
GENERATORS: dict[str, Callable[[np.ndarray, int], Fitted]] = {
    "independent": fit_independent,
    "gaussian": fit_gaussian,
    "mixture": fit_mixture,
    "local": partial(fit_local, neighbours=16, partners=5, noise=0.5),
    "recombined": partial(fit_recombined, donors=900, own=(0.5, 0.8)),
}


def generator_of(name: str) -> Callable[[np.ndarray, int], Fitted]:
    """Return the generator of that name.

    Raises:
        UnknownGeneratorError: The name is unknown.
    """
    if name not in GENERATORS:
        raise UnknownGeneratorError(
            f"There is no generator {name!r}.", f"Choose one of {', '.join(GENERATORS)}."
        )
    return GENERATORS[name]


def check_items(vectors: np.ndarray) -> None:
    """Check that a generator can be fitted on item vectors.

    Raises:
        GeneratorInputError: They are not float32 (items, d), not of unit norm, not finite,
            or fewer than `FEWEST`.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise GeneratorInputError(
            f"Item vectors must be float32 (items, d), not {vectors.dtype} {vectors.shape}.",
            "Pass the item_vectors.npy of the training chapter.",
        )
    if len(vectors) < FEWEST:
        raise GeneratorInputError(
            f"{len(vectors)} item vectors are fewer than the {FEWEST} that a generator needs.",
            "Give it more items.",
        )
    norms = np.linalg.norm(vectors, axis=1)
    unit = np.abs(norms - 1) <= UNIT_TOLERANCE  # False for NaN
    if not unit.all():
        row = np.argmin(unit)
        raise GeneratorInputError(
            f"{np.count_nonzero(~unit)} item vectors are not finite and of unit norm; "
            f"the first is row {row} with norm {norms[row]:.4g}.",
            "Divide each row by its norm; NaN means that the training diverged.",
        )


__all__ = ["GENERATORS", "Fitted", "check_items", "generator_of"]
