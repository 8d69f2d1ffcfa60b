"""Named errors of the load test."""

from nanorecsys.system.errors import NanorecsysError


class LoadTestError(NanorecsysError):
    """A load test cannot run as asked."""


class ServerStartError(LoadTestError):
    """The server ended before it was ready, or was not ready in time."""
