"""Progress of a running chapter in one line: live on a terminal, plain lines elsewhere."""

import threading
import time

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL_S = 10.0  # between plain lines where there is no terminal


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
        self._cell = self._cells = 0
        self._note = ""
        self._stop = threading.Event()
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "ChapterProgress":
        if self._console.is_terminal:
            self._live.start()
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._ticker.join()
        self._live.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the chapter began."""
        return time.monotonic() - self._started

    def cell(self, index: int, count: int) -> None:
        """Note that cell `index` (from 0) of `count` begins."""
        self._cell, self._cells, self._note = index + 1, count, ""

    def write(self, text: str) -> None:
        """Take the kernel's output: its last line, such as a progress bar, becomes the note."""
        lines = click.unstyle(text).replace("\r", "\n").splitlines()  # a bar moves the cursor
        self._note = next((line.strip() for line in reversed(lines) if line.strip()), self._note)

    def flush(self) -> None:
        """Do nothing; no output is held back."""

    def _line(self) -> str:
        note = f" · {self._note}" if self._note else ""
        took = f"{clock(self.seconds)}{self._expected}"
        return f"{self._title}  cell {self._cell} of {self._cells}  {took}{note}"

    def _tick(self) -> None:
        last_plain = -PLAIN_INTERVAL_S
        while not self._stop.wait(1.0):
            if self._live.is_started:
                line = Text(self._line(), no_wrap=True, overflow="ellipsis")
                self._live.update(line, refresh=True)
            elif self._cell and self.seconds - last_plain >= PLAIN_INTERVAL_S:
                last_plain = self.seconds
                print(self._line(), file=self._console.file, flush=True)
