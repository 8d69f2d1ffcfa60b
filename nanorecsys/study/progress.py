"""Progress of a running chapter in one line: redrawn on a terminal, a new line elsewhere."""

import time
from datetime import timedelta
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_INTERVAL_S = 10.0  # shortest time between two lines where none can be redrawn


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


class ChapterProgress(Live):
    """The state of one running chapter; also a file object for the kernel's output.

    Args:
        console: Console to draw on.
        title: Name of the chapter.
        n_cells: Number of cells that run.
        expected_s: Seconds that it took last time, None if it has not run before.
    """

    def __init__(
        self, console: Console, title: str, n_cells: int, expected_s: float | None
    ) -> None:
        self._title, self._n_cells = title, n_cells
        self._expected = f" of about {clock(expected_s)}" if expected_s else ""
        self._began = time.monotonic()
        self._printed = float("-inf")
        self._position, self._note = "starts", ""
        super().__init__(console=console, refresh_per_second=1, transient=True)

    @property
    def seconds(self) -> float:
        """Seconds since the chapter began."""
        return time.monotonic() - self._began

    def cell(self, cell: Any, cell_index: int) -> None:
        """Note that the cell of this index (from 0) begins."""
        self._position, self._note = f"cell {cell_index + 1} of {self._n_cells}", ""
        self._print()

    def write(self, text: str) -> None:
        """Take the kernel's output: its last line, such as a progress bar, becomes the note."""
        lines = click.unstyle(text).replace("\r", "\n").splitlines()  # a bar moves the cursor
        self._note = next((line.strip() for line in reversed(lines) if line.strip()), self._note)
        self._print()

    def flush(self) -> None:
        """Do nothing; no output is held back."""

    def get_renderable(self) -> Text:
        """The line as it is now."""
        note = f" · {self._note}" if self._note else ""
        line = f"{self._title}  {self._position}  {clock(self.seconds)}{self._expected}{note}"
        return Text(line, no_wrap=True, overflow="crop")

    def _print(self) -> None:
        """Print the line where it cannot be redrawn, unless another was printed just before."""
        if not self.console.is_terminal and self.seconds - self._printed >= PLAIN_INTERVAL_S:
            self._printed = self.seconds
            self.console.out(self.get_renderable().plain, highlight=False)
