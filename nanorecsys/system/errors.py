"""The error type of every user's mistake."""


class NanorecsysError(Exception):
    """A mistake that the user can correct; the command line prints it without a traceback.

    Args:
        message: What was expected and what was found.
        remedy: What to do about it, in one sentence, shown on a separate line.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.remedy}" if self.remedy else self.message
