"""Generators of synthetic item catalogues, by name.

fitted = make("local").fit(vectors, total=3_000_000)
more = fitted.sample(10_000, np.random.default_rng(0))
"""

from nanorecsys.scaleup.errors import UnknownGeneratorError
from nanorecsys.scaleup.generators.base import Fitted, Generator, check_vectors
from nanorecsys.scaleup.generators.gaussian import Gaussian, Independent
from nanorecsys.scaleup.generators.local import Local
from nanorecsys.scaleup.generators.mixture import Mixture
from nanorecsys.scaleup.generators.recombined import Recombined

GENERATORS: dict[str, Generator] = {
    "independent": Independent(),
    "gaussian": Gaussian(),
    "mixture": Mixture(),
    # settings of the last three: chosen by recall curves of a catalogue whose hidden items they had
    # to make up
    "local": Local(neighbours=16, partners=5, noise=0.5),
    "tangent": Local(neighbours=12, partners=0, noise=0.7),
    "recombined": Recombined(donors=900, own=(0.5, 0.8)),
}


def by_name(name: str) -> Generator:
    """The generator of that name.

    Raises:
        UnknownGeneratorError: there is none; lists those that there are.
    """
    if name not in GENERATORS:
        raise UnknownGeneratorError(
            f"There is no generator {name!r}.", f"Choose one of {', '.join(GENERATORS)}."
        )
    return GENERATORS[name]


__all__ = ["GENERATORS", "Fitted", "Generator", "by_name", "check_vectors"]
