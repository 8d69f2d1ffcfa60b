"""Named errors of the load test."""

from nanorecsys.system.errors import NanorecsysError


class LoadTestError(NanorecsysError):
    """A load test cannot run as asked."""
