"""The gate: a notebook counts only if all of it ran and none of it failed.

papermill leaves an output notebook also after a failure, and the book would build over it.
"""

from pathlib import Path

import click
import nbformat

from nanorecsys.study.chapters import Chapter
from nanorecsys.study.records import Record, read_record
from nanorecsys.system.errors import NanorecsysError


class GateError(NanorecsysError):
    """An executed notebook or its record that may not be shown."""


def check_executed(notebook: nbformat.NotebookNode, name: str) -> None:
    """Check that every code cell ran, that none failed and that papermill completed.

    Raises:
        GateError: names the first cell that did not.
    """
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                raise GateError(
                    f"{name}: cell {number} failed with {output.ename}: {output.evalue}"
                )
        if cell.execution_count is None:
            raise GateError(f"{name}: cell {number} was not executed")
        if cell.metadata.get("papermill", {}).get("status") != "completed":
            raise GateError(f"{name}: papermill did not complete cell {number}")
    if notebook.metadata.get("papermill", {}).get("exception"):
        raise GateError(f"{name}: papermill recorded an exception")


def check_source(notebook: nbformat.NotebookNode, name: str) -> None:
    """Check that a notebook source is committed without outputs.

    Raises:
        GateError: names the first cell that holds some.
    """
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count):
            raise GateError(
                f"{name}: cell {number} holds outputs", "strip the notebook before you commit it"
            )


def check_chapter(chapter: Chapter, run: Path, *, raw_rows: bool = True) -> Record:
    """Check what a run, or the published results without raw rows, hold of `chapter`: notebook and typed record.

    Raises:
        GateError: the notebook is missing or may not be shown.
        RecordError: the record is missing or malformed.
    """
    path = run / f"{chapter.name}.ipynb"
    if not path.exists():
        raise GateError(
            f"{chapter.name} has not run in {run.name}",
            f"nanorecsys run {run.name} --only {chapter.name}",
        )
    check_executed(nbformat.read(path, as_version=4), chapter.name)
    return read_record(run / chapter.name, chapter.result, raw_rows=raw_rows)


def failure(notebook: nbformat.NotebookNode) -> str | None:
    """What went wrong in an executed notebook: cell, its code, the error's last lines; None if nothing did."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                code = "\n".join(f"    {line}" for line in cell.source.splitlines()[:12])
                trace = click.unstyle("\n".join(output.traceback)).splitlines()
                tail = "\n".join(f"    {line}" for line in trace[-12:] if line.strip())
                return f"cell {number} failed with {output.ename}: {output.evalue}\n{code}\n{tail}"
    return None
