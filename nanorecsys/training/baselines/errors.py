"""Named errors of the baselines."""

from nanorecsys.system.errors import NanorecsysError


class BaselineError(NanorecsysError):
    """A baseline cannot be fitted on this data with this memory, or has no such parameter."""
