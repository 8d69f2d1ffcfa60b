"""Progress of a running chapter in one line: redrawn on a terminal, a new line elsewhere."""

import threading
import time

import click
from rich.console import Console

TERMINAL_INTERVAL_S, PLAIN_INTERVAL_S = 1.0, 10.0


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class ChapterProgress:
    """The state of one running chapter; also a file object for the kernel's output.

    Args:
        console: Console to draw on.
        title: Name of the chapter.
        expected_s: Seconds that it took last time, None if it has not run before.
    """

    def __init__(self, console: Console, title: str, expected_s: float | None) -> None:
        self._console = console
        self._title = title
        self._expected = f" of about {clock(expected_s)}" if expected_s else ""
        self._started = time.monotonic()
        self._position = "starts"
        self._note = ""
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "ChapterProgress":
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._ticker.join()

    @property
    def seconds(self) -> float:
        """Seconds since the chapter began."""
        return time.monotonic() - self._started

    def cell(self, index: int, count: int) -> None:
        """Note that cell `index` (from 0) of `count` begins."""
        self._position, self._note = f"cell {index + 1} of {count}", ""

    def write(self, text: str) -> None:
        """Take the kernel's output: its last line, such as a progress bar, becomes the note."""
        lines = click.unstyle(text).replace("\r", "\n").splitlines()  # a bar moves the cursor
        self._note = next((line.strip() for line in reversed(lines) if line.strip()), self._note)

    def flush(self) -> None:
        """Do nothing; no output is held back."""

    def _line(self) -> str:
        note = f" · {self._note}" if self._note else ""
        return f"{self._title}  {self._position}  {clock(self.seconds)}{self._expected}{note}"

    def _tick(self) -> None:
        redraws, width = self._console.is_terminal, self._console.width
        interval = TERMINAL_INTERVAL_S
        while not self._stop.wait(interval):
            if redraws:
                print(f"\r{self._line()[: width - 1]:<{width - 1}}", end="", flush=True)
            else:
                print(self._line(), file=self._console.file, flush=True)
                interval = PLAIN_INTERVAL_S
        if redraws:
            print("\r" + " " * (width - 1), end="\r", flush=True)
