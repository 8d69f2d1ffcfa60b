"""Result records: what a chapter leaves for the book and for the chapters after it, typed and checked."""

from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from nanorecsys.study.provenance import Provenance
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.files import atomic_path

FORMAT = 1
FILE = "result.json"
T = TypeVar("T")


class RecordError(NanorecsysError):
    """A result record that is missing, malformed or of another format."""


class Record(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One chapter's result. `files` names raw rows and artefacts, relative to the record's folder."""

    format: int
    chapter: str
    parameters: dict[str, Any]
    provenance: Provenance
    files: dict[str, str]
    result: T


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def encode(value: Any) -> bytes:
    """Indented JSON; a NaN or an infinity becomes null, which the typed reader then refuses."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def write_record(folder: Path, record: Record[Any]) -> Path:
    """Write `record` as result.json into `folder` and return its path."""
    write_atomically(folder / FILE, encode(record))
    return folder / FILE


def read_record(folder: Path, result: type[T], *, raw_rows: bool = True) -> Record[T]:
    """The record of a chapter's folder, checked against the chapter's result type.

    Args:
        folder: the chapter's, in a run or among the published results.
        result: the chapter's result type.
        raw_rows: whether the files that it names have to be there; published results come without
            them.

    Raises:
        RecordError: no record, not JSON, another format, a field missing, of a wrong type or not
            finite, or a file that it names is not there.
    """
    path = folder / FILE
    if not path.exists():
        raise RecordError(
            f"expected a result record at {folder.name}/{FILE}, found none",
            "run the chapter: nanorecsys run --only CHAPTER",
        )
    content = path.read_bytes()
    try:
        found = msgspec.json.decode(content, type=dict[str, Any]).get("format")
        if found != FORMAT:
            raise RecordError(
                f"{folder.name}/{FILE} has format {found!r}, this version reads {FORMAT}"
            )
        record = msgspec.json.decode(content, type=Record[result])  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise RecordError(
            f"{folder.name}/{FILE} is not a valid record: {error}",
            "rerun the chapter: nanorecsys run --force",
        ) from error
    if raw_rows and (
        missing := [name for name in record.files.values() if not (folder / name).exists()]
    ):
        raise RecordError(
            f"{folder.name}/{FILE} names files that are not there: {', '.join(missing)}"
        )
    return record
