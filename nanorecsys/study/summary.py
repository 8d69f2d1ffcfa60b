"""The summary over a run's records: which chapters ran, and one tidy table of every figure."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import JudgedClaim, OriginalVerdict
from nanorecsys.study.parameters import RUN_NAME
from nanorecsys.study.protocol import Verdict
from nanorecsys.study.records import FILE, Record, encode, read_record
from nanorecsys.study.session import Session
from nanorecsys.system.files import write_atomically


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of chapter 07: the chapters that had run, and the verdict of every claim by its id."""

    chapters_run: list[str]
    chapters_missing: list[str]
    original: dict[str, OriginalVerdict]
    findings: dict[str, Verdict]


def collect(session: Session) -> tuple[dict[str, Chapter], dict[str, Record]]:
    """The chapters before this one, and the records of those that have run, by name."""
    run = session.folders.run(session.parameters[RUN_NAME])
    everything = chapters(session.folders)
    earlier = {name: c for name, c in everything.items() if name < session.name}
    records = {
        name: read_record(run / name, chapter.module.Result)
        for name, chapter in earlier.items()
        if (run / name / FILE).exists()
    }
    return earlier, records


def write_files(
    session: Session, records: Mapping[str, Record], claims: Iterable[JudgedClaim]
) -> dict[str, str]:
    """Write claims.json and results.csv (chapter, figure, value); return the record's files."""
    rows = [
        (name, figure, value)
        for name, record in records.items()
        for figure, value in flatten(msgspec.to_builtins(record.result))
    ]
    table = pd.DataFrame(rows, columns=["chapter", "figure", "value"])
    write_atomically(session.path("claims.json"), encode(list(claims)))
    write_atomically(session.path("results.csv"), table.to_csv(index=False).encode())
    return {"claims": "claims.json", "results": "results.csv"}


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and scalars of nested mappings; lists are raw rows and left out.

    >>> dict(flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x"}))
    {'a.b': 1, 'd': 'x'}
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, int | float | str):
        yield prefix, value


def size_mib(folder: Path) -> float:
    """Total size of the files in a folder and below, MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
