"""The one error type that a user's mistake may raise: what was expected, what came, what to do."""


class NanorecsysError(Exception):
    """A mistake that a user can mend; the command line prints it without a traceback.

    Args:
        message: what was expected and what came.
        remedy: what to do about it, one sentence; shown on a line of its own.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.remedy}" if self.remedy else self.message
