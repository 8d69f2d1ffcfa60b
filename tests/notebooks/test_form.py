"""The form of the chapters: code that a reader sees and can change, in pandas and matplotlib."""

import re

import nbformat
import pytest

from nanorecsys.study.chapters import chapters
from nanorecsys.study.layout import layout
from nanorecsys.study.parameters import NO_MEANING

FOLDERS = layout()
CHAPTERS = chapters(FOLDERS)
PLACEHOLDER = re.compile(r"\{(?:glue:\w+|glue|term|cite|download|doc|ref)\}`[^`]*`?")


def cells(name, kind):
    notebook = nbformat.read(FOLDERS.notebooks / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_reader_sees_most_of_the_code(name):
    shown, hidden = 0, 0
    for cell in cells(name, "code"):
        folded = any(re.match("hide-input|remove-", t) for t in cell.metadata.get("tags", []))
        shown += 0 if folded else len(code_lines(cell))
        hidden += len(code_lines(cell)) if folded else 0
    assert shown / (shown + hidden) >= 0.70, (shown, hidden)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_few_parameters(name):
    assert len(CHAPTERS[name].parameters) <= 14
    assert NO_MEANING not in [p.help for p in CHAPTERS[name].parameters.values()]


@pytest.mark.parametrize("name", [name for name in CHAPTERS if not CHAPTERS[name].is_summary])
def test_tables_are_pandas_and_plots_are_matplotlib(name):
    code = "\n".join(cell.source for cell in cells(name, "code"))
    for line in ("import pandas as pd", "import matplotlib.pyplot as plt"):
        assert line in code
    assert "pd." in code.replace("import pandas as pd", "")
    assert "plt." in code.replace("import matplotlib.pyplot", "")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_code_line_fits_the_page(name):
    lines = [line for cell in cells(name, "code") for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 88] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_reads_the_same_outside_the_book(name):
    """Only the book resolves roles; a chapter's sentences come from its cells, links are plain."""
    text = "\n".join(cell.source for cell in cells(name, "markdown"))
    assert PLACEHOLDER.findall(text) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_figure_shown_by_its_cell_has_a_description(name):
    for cell in cells(name, "code"):
        if "plt.show()" in cell.source:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) > 3, cell.source


def test_plots_live_in_the_notebooks():
    assert not list(FOLDERS.root.glob("nanorecsys/**/figures.py"))
