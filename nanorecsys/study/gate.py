"""The gate: a notebook counts only if all of it ran and none of it failed.

papermill leaves an output notebook also after a failure, and the book would build over it.
"""

from pathlib import Path

import nbformat

from nanorecsys.study.chapters import Chapter
from nanorecsys.study.records import Record, read_record
from nanorecsys.system.errors import NanorecsysError


class GateError(NanorecsysError):
    """An executed notebook or its record that may not be shown."""


def check_executed(notebook: nbformat.NotebookNode, name: str) -> None:
    """Check that every code cell ran, that none failed and that papermill completed.

    Raises:
        GateError: Names the first cell that did not.
    """
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                failure = f"{output.ename}: {output.evalue}"
                raise GateError(f"{name}: cell {number} failed with {failure}")
        if cell.execution_count is None:
            raise GateError(f"{name}: cell {number} was not executed")
        if cell.metadata.get("papermill", {}).get("status") != "completed":
            raise GateError(f"{name}: papermill did not complete cell {number}")
    if notebook.metadata.get("papermill", {}).get("exception"):
        raise GateError(f"{name}: papermill recorded an exception")


def check_chapter(chapter: Chapter, results: Path, *, raw_rows: bool = True) -> Record:
    """Check the executed notebook and the typed record of `chapter` in a folder of results.

    Args:
        chapter: The chapter.
        results: Folder of a run, or of the published results.
        raw_rows: Whether the files that the record names have to exist.

    Raises:
        GateError: The notebook is missing or may not be shown, or it ran under other definitions.
        RecordError: The record is missing or malformed.
    """
    path = results / f"{chapter.name}.ipynb"
    if not path.exists():
        raise GateError(
            f"{chapter.name} has not run in {results.name}",
            f"nanorecsys run {results.name} --only {chapter.name}",
        )
    check_executed(nbformat.read(path, as_version=4), chapter.name)
    record = read_record(results / chapter.name, chapter.module.Result, raw_rows=raw_rows)
    check_definitions(chapter, record)
    return record


def check_definitions(chapter: Chapter, record: Record) -> None:
    """Check that a record was made under the definitions of protocol.yaml and original.yaml.

    Raises:
        GateError: The definitions of the chapter have changed since then.
    """
    if record.provenance.definitions_sha256 != chapter.definitions_sha256:
        raise GateError(
            f"{chapter.name} ran under other definitions of its claims",
            "take the change of protocol.yaml or original.yaml back, or add an amendment for it "
            f"and run {chapter.name} again",
        )
