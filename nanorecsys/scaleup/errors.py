"""Named errors of the scale-up chapter."""

from nanorecsys.system.errors import NanorecsysError


class ScaleupError(NanorecsysError):
    """A catalogue cannot be expanded, written or searched as asked."""


class VectorsError(ScaleupError):
    """Item vectors that no generator can be fitted on: wrong shape, not finite, not unit norm, too few."""


class UnknownGeneratorError(ScaleupError):
    """A name that is not one of the generators'."""


class OtherRunError(ScaleupError):
    """The file in place was begun or finished by a run with other settings."""


class DiskSpaceError(ScaleupError):
    """The catalogue does not fit on the disk; found out before anything is written."""


class MemorySpaceError(ScaleupError):
    """The catalogue or its indexes do not fit in memory; found out before anything is built."""
