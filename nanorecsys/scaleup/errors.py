"""Named errors of the scale-up chapter."""

from nanorecsys.system.errors import NanorecsysError


class ScaleupError(NanorecsysError):
    """A catalogue cannot be made or searched as asked."""


class GeneratorInputError(ScaleupError):
    """There are too few real items to fit a generator."""


class UnknownGeneratorError(ScaleupError):
    """The name of a generator is unknown."""
