"""The protocol: what is claimed, on what, against which baseline and by which rule, before a run.

protocol.yaml has the study's findings and the amendments, original.yaml the original's rows.
"""

import hashlib
from collections.abc import Iterable
from operator import ge, gt, le
from pathlib import Path
from typing import Literal

import msgspec

from nanorecsys.study.layout import Layout
from nanorecsys.study.spread import Interval
from nanorecsys.system.errors import NanorecsysError

Verdict = Literal["holds", "fails", "undecided", "not run"]
Agreement = Literal["exact", "ratio", "quality", "machine"]
Kind = Literal["comparison", "document", "scale", "absolute"]

OPERATORS = {">": gt, ">=": ge, "<=": le}


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bound that a figure has to keep with its whole interval."""

    operator: Literal[">", ">=", "<="]
    bound: float

    def keeps(self, value: float) -> bool:
        """Whether `value` is inside the bound."""
        return OPERATORS[self.operator](value, self.bound)

    def judge(self, intervals: Iterable[Interval]) -> Verdict:
        """The verdict on the intervals of the data sets: all have to be inside, none outside.

        >>> Rule(operator=">=", bound=0.5).judge([Interval(0.52, 0.49, 0.55)])
        'undecided'
        """
        ends = [(self.keeps(i.low), self.keeps(i.high)) for i in intervals]
        if not ends:
            return "not run"
        if (False, False) in ends:
            return "fails"
        return "holds" if set(ends) == {(True, True)} else "undecided"

    def __str__(self) -> str:
        return f"{self.operator} {self.bound:,.10g}"


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the study claims, and how it is decided; protocol.yaml says what the fields mean."""

    id: str
    chapter: str
    question: str
    statement: str
    measured: str
    baseline: str
    sample: str
    rule: Rule
    interval: str
    data: Literal["first", "both"]
    unit: str
    refuted_by: str
    agreement: Agreement
    family: str = ""
    headline: bool = False

    @property
    def name(self) -> str:
        """The part of the id after the chapter's name."""
        return self.id.partition(".")[2]


class OriginalRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure or claim of the original; original.yaml says what the fields mean."""

    id: str
    kind: Kind
    claim: str
    original: str
    source: str
    chapter: str = "06_loadtest"
    section: str
    shown: str
    rule: Rule | None = None
    factor: float = 1.0
    agreement: Agreement = "machine"

    @property
    def target(self) -> str:
        """The rule in words; empty where there is none."""
        return f"{self.rule} of {self.factor:g}" if self.factor != 1 else str(self.rule or "")


class Protocol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of protocol.yaml, whose comments say what the fields mean."""

    families: dict[str, str]
    findings: list[Finding]
    amendments: list[dict[str, str]] = []

    def sha256(self, chapter: str) -> str:
        """Hash of every row that defines a finding or a row of the original for `chapter`.

        A chapter without such a row, as the summary, judges all of them.
        """
        rows: list[Finding | OriginalRow] = [*self.findings, *ORIGINAL]
        own = [row for row in rows if row.chapter == chapter]
        return hashlib.sha256(msgspec.json.encode(own or rows)).hexdigest()


def read_protocol(folders: Layout) -> Protocol:
    """The study's protocol.

    Raises:
        NanorecsysError: The table is not of this form; the message names the row and the field.
    """
    try:
        return msgspec.yaml.decode(folders.protocol.read_bytes(), type=Protocol)
    except (msgspec.DecodeError, FileNotFoundError) as error:
        raise NanorecsysError(f"{folders.relative(folders.protocol)}: {error}") from error


ORIGINAL = msgspec.yaml.decode(
    Path(__file__).with_name("original.yaml").read_bytes(), type=tuple[OriginalRow, ...]
)
