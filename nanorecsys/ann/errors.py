"""Named errors of the nearest-neighbour search."""

import msgspec

from nanorecsys.serving.errors import SpecificationError
from nanorecsys.system.errors import NanorecsysError


class AnnError(NanorecsysError):
    """The chapter or an export cannot do what its arguments ask for."""


class CrashError(AnnError):
    """A child process died before it returned a result, for example because memory ran out."""


class VectorsError(SpecificationError):
    """Vectors are not float32 (n, d), not finite or not of unit norm."""


class Failure(msgspec.Struct, frozen=True):
    """An index that could not be built or searched: the error's class and message."""

    factory: str
    error: str
    message: str
