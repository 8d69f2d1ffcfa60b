"""The line of a running chapter."""

import io

from rich.console import Console

from nanorecsys.study import progress
from nanorecsys.study.progress import ChapterProgress


def test_what_a_bar_prints_becomes_the_note_without_the_moves_of_its_cursor():
    shown = ChapterProgress(Console(file=io.StringIO()), "06_loadtest", 4, None)
    shown.cell(None, 1)
    shown.write("\rfaults:  10%")
    shown.write("\x1b[A")  # from the inner of two bars
    assert shown.get_renderable().plain.endswith("cell 2 of 4  0:00:00 · faults:  10%")
    shown.write("\x1b[A\n\rfaults:  20%\x1b[A\r")
    assert shown.get_renderable().plain.endswith(" · faults:  20%")


def test_a_log_gets_a_line_from_time_to_time_and_nothing_that_is_redrawn(monkeypatch):
    with ChapterProgress(Console(file=io.StringIO(), width=20), "a", 2, 60) as shown:
        shown.cell(None, 0)
        shown.write("left out")
        monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0)
        shown.write("[1/2] of a note longer than the console")
    assert shown.console.file.getvalue().splitlines() == [
        "a  cell 1 of 2  0:00:00 of about 0:01:00",
        "a  cell 1 of 2  0:00:00 of about 0:01:00 · [1/2] of a note longer than the console",
    ]


def test_a_terminal_shows_one_line_that_is_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    with ChapterProgress(console, "a", 2, None) as shown:
        shown.cell(None, 0)
        shown.write("[red] is no colour here, and the line is cut")
        shown.refresh()
    told = console.file.getvalue()
    assert "a  cell 1 of 2  0:00:00 · [red] is no c" in told
    assert told.endswith("\x1b[2K")  # erased
