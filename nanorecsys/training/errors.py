"""The named error of training."""

from nanorecsys.system.errors import NanorecsysError


class TrainingError(NanorecsysError):
    """A model or a baseline cannot be trained as asked, or training cannot continue."""
