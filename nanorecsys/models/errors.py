"""Named errors of the models."""

from nanorecsys.system.errors import NanorecsysError


class ModelError(NanorecsysError):
    """A model cannot have this shape, or cannot take this input."""
