"""One line a chapter: live on a terminal, plain lines elsewhere."""

import threading
import time

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

EVERY_S = 10.0  # between plain lines, where there is no terminal


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class ChapterProgress:
    """The state of one running chapter, drawn once a second; also a file object for the kernel's output.

    Args:
        console: where to draw.
        title: the chapter.
        expected_s: seconds that it took last time, if it has run before.
    """

    def __init__(self, console: Console, title: str, expected_s: float | None) -> None:
        self._console = console
        self._title = title
        self._expected_s = expected_s
        self._started = time.monotonic()
        self._cell = self._cells = 0
        self._note = ""
        self._last_plain = -EVERY_S
        self._stop = threading.Event()
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "ChapterProgress":
        if self._live:
            self._live.start()
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._ticker.join()
        if self._live:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the chapter began."""
        return time.monotonic() - self._started

    def cell(self, index: int, count: int) -> None:
        """Cell `index` (from 0) of `count` begins."""
        self._cell, self._cells, self._note = index + 1, count, ""

    def write(self, text: str) -> None:
        """Take what the kernel prints: its last line (a bar of tqdm, say) becomes the note of the live line.

        A bar inside another moves the cursor; that is no note.
        """
        lines = [
            line for line in click.unstyle(text).replace("\r", "\n").splitlines() if line.strip()
        ]
        if lines:
            self._note = lines[-1].strip()

    def flush(self) -> None:
        """Nothing is held back."""

    def _line(self) -> str:
        expected = f" of about {clock(self._expected_s)}" if self._expected_s else ""
        note = f" · {self._note}" if self._note else ""
        return f"{self._title}  cell {self._cell} of {self._cells}  {clock(self.seconds)}{expected}{note}"

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            if self._live:
                self._live.update(
                    Text(self._line(), no_wrap=True, overflow="ellipsis"), refresh=True
                )
            elif self._cell and self.seconds - self._last_plain >= EVERY_S:
                self._last_plain = self.seconds
                print(self._line(), file=self._console.file, flush=True)
