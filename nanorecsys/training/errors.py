"""The named error of training."""

from nanorecsys.system.errors import NanorecsysError


class TrainingError(NanorecsysError):
    """A model or a baseline cannot be trained as asked, or training cannot continue."""


class TooLargeError(TrainingError):
    """A baseline takes more memory than it may at this size."""
