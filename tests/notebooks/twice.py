"""Copies of executed notebooks in which each code cell comes once more right after itself.

    python tests/notebooks/twice.py data/runs/smoke FOLDER

A reader runs a cell again after a change. The nbval tier runs these copies, so each cell has to
work twice in one kernel, and a marked cell has to print the same both times. The few cells that
measure for longer than `LONGEST_S` come once: all of them twice would take minutes more.
"""

import copy
import shutil
import sys
from pathlib import Path

import nbformat

LONGEST_S = 15.0  # in the run whose notebooks are copied


def doubled(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with every code cell twice in a row, but for the longest ones."""
    found = copy.deepcopy(notebook)
    found.cells = []
    for cell in notebook.cells:
        found.cells.append(cell)
        if cell.cell_type == "code" and cell.metadata.papermill.duration < LONGEST_S:
            again = copy.deepcopy(cell)
            again.id = f"{cell.id}-2"
            found.cells.append(again)
    return found


def main(run: Path, target: Path) -> None:
    """Write the copies of a run's notebooks into a folder that holds nothing else."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(run.glob("*.ipynb")):
        nbformat.write(doubled(nbformat.read(path, as_version=4)), target / path.name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
