"""Named errors of the training."""

from nanorecsys.system.errors import NanorecsysError


class TrainingError(NanorecsysError):
    """Training cannot start as asked, or cannot go on."""
