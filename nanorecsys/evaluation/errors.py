"""The named error of the evaluation."""

from nanorecsys.system.errors import NanorecsysError


class EvaluationError(NanorecsysError):
    """Targets, seen items, scores or a metric's name cannot be evaluated as given."""
