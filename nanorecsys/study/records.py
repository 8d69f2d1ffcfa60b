"""Result records: what a chapter leaves for the book and for later chapters, typed and checked."""

from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from nanorecsys.study.provenance import Provenance
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.files import write_atomically

FORMAT: Final = 1
FILE = "result.json"
T = TypeVar("T")


class RecordError(NanorecsysError):
    """A result record that is missing, malformed or of another format."""


class Record(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One chapter's result.

    Args:
        files: Raw rows and artefacts, as paths relative to the record's folder.
    """

    format: Literal[1]
    chapter: str
    parameters: dict[str, Any]
    provenance: Provenance
    files: dict[str, str]
    result: T


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
        folder: The chapter's folder in a run or among the published results.
        result: The chapter's result type.
        raw_rows: Whether the files that it names have to exist; published results lack them.

    Raises:
        RecordError: The record is missing, not JSON or of another format, a field is missing, of a
            wrong type or not finite, or a file that the record names is missing.
    """
    path, name = folder / FILE, f"{folder.name}/{FILE}"
    command = f"nanorecsys run {folder.parent.name} --only {folder.name}"
    if not path.exists():
        raise RecordError(f"expected a result record at {name}, found none", command)
    content = path.read_bytes()
    try:
        record = msgspec.json.decode(content, type=Record[result])  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        message = f"{name} is not a valid record: {error}"
        raise RecordError(message, f"{command} --force") from error
    missing = [file for file in record.files.values() if not (folder / file).exists()]
    if raw_rows and missing:
        raise RecordError(f"{name} names files that do not exist: {', '.join(missing)}", command)
    return record
