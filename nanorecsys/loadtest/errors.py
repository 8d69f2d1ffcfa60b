"""Named errors of the load test."""

from nanorecsys.system.errors import NanorecsysError


class LoadTestError(NanorecsysError):
    """A load test cannot be done as asked."""


class PopulationError(LoadTestError):
    """Users cannot be made, or there are too few of them."""


class PlanError(LoadTestError):
    """A run that makes no sense as asked: a rate, a time, a bound or a template."""


class RemoteHostError(LoadTestError):
    """The server is on another machine, and it was not said that it may be loaded."""


class UnreachableError(LoadTestError):
    """Nothing answers at the URL."""


class ServerStartError(LoadTestError):
    """The server ended, or was not ready in time."""


class GeneratorError(LoadTestError):
    """The generating process ended without its rows."""
