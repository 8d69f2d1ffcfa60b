"""Named errors of the scale-up chapter."""

from nanorecsys.system.errors import NanorecsysError


class ScaleupError(NanorecsysError):
    """A catalogue cannot be made or searched as asked."""


class GeneratorInputError(ScaleupError):
    """Item vectors have the wrong shape, are not finite, not of unit norm or too few."""


class UnknownGeneratorError(ScaleupError):
    """The name of a generator is unknown."""
