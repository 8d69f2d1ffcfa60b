"""Generators of synthetic item vectors, by name.

A generator is fitted on real items and then sampled:

fitted = generator_of("local")(vectors, 3_000_000)
more = fitted.sample(10_000, np.random.default_rng(0))
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from nanorecsys.ann.indexes import check_vectors
from nanorecsys.scaleup.errors import GeneratorInputError, UnknownGeneratorError
from nanorecsys.scaleup.generators.distributions import fit_independent
from nanorecsys.scaleup.generators.neighbourhoods import fit_local, fit_recombined

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
        VectorsError: They are not float32 (items, d), not of unit norm, or not finite.
        GeneratorInputError: There are fewer than `FEWEST`.
    """
    check_vectors(vectors)
    if len(vectors) < FEWEST:
        raise GeneratorInputError(
            f"{len(vectors)} item vectors are fewer than the {FEWEST} that a generator needs.",
            "Give it more items.",
        )
