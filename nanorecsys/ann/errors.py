"""Named errors of the nearest-neighbour search. A sweep writes down those of a specification, by name, and goes on."""

from nanorecsys.serving.errors import SettingError, SpecificationError
from nanorecsys.system.errors import NanorecsysError

__all__ = [
    "AnnError",
    "DirectionsError",
    "DivisibilityError",
    "FactoryError",
    "ListsError",
    "NeighboursError",
    "SettingError",
    "SpecificationError",
    "VectorsError",
]


class AnnError(NanorecsysError):
    """A sweep or an export cannot be done as asked."""


class FactoryError(SpecificationError):
    """No index is written so."""


class DivisibilityError(SpecificationError):
    """A product quantizer's number of parts does not divide the dimensions."""


class DirectionsError(SpecificationError):
    """A projection to the users' directions that has none, more than there are, or no user vectors to be fitted on."""


class ListsError(SpecificationError):
    """More inverted lists than vectors to train them with."""


class VectorsError(SpecificationError):
    """Vectors that are not finite, not of unit norm, not float32 or not two-dimensional."""


class NeighboursError(SpecificationError):
    """More neighbours asked for than there are vectors."""
