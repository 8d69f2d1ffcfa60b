"""What goes wrong in the server, as a client hears of it."""

from nanorecsys.system.errors import NanorecsysError


class SettingsError(NanorecsysError):
    """A setting that cannot be: the command line prints it and starts nothing."""


class ProblemError(Exception):
    """A request that is not answered as it was meant: a problem description with this status (RFC 9457).

    Args:
        status: HTTP status.
        title: the kind of problem, the same for all of its kind.
        detail: what was expected and what came.
        headers: to add, such as Retry-After.
    """

    def __init__(
        self, status: int, title: str, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers or {}


class OverloadedError(ProblemError):
    """The queue is full, or a request waited in it beyond the deadline."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(503, "Overloaded", detail, {"Retry-After": str(retry_after_s)})
