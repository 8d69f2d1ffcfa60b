"""Named errors of the training."""

from nanorecsys.errors import NanorecsysError


class TrainingError(NanorecsysError):
    """Training cannot start as asked, or cannot go on."""
