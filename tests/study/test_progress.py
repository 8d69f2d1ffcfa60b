"""The line of a running chapter."""

import io

from rich.console import Console

from nanorecsys.study.progress import ChapterProgress


def test_what_a_bar_prints_becomes_the_note_without_the_moves_of_its_cursor():
    progress = ChapterProgress(Console(file=io.StringIO()), "06_loadtest", None)
    progress.cell(1, 4)
    progress.write("\rfaults:  10%")
    progress.write("\x1b[A")  # from the inner of two bars
    assert progress._line().endswith("cell 2 of 4  0:00 · faults:  10%")
    progress.write("\x1b[A\n\rfaults:  20%\x1b[A\r")
    assert progress._line().endswith(" · faults:  20%")
