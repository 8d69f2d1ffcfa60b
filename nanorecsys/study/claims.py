"""Claims: the study's findings and the original's rows, judged by code from the result records."""

from typing import Any, Literal

import msgspec

from nanorecsys.study.chapters import Chapter
from nanorecsys.study.protocol import Agreement, Verdict
from nanorecsys.study.records import Record
from nanorecsys.study.spread import Interval
from nanorecsys.study.tables import cell

OriginalVerdict = Literal[
    "replicated",
    "refuted",
    "consistent",
    "inconsistent",
    "ours differs",
    "cannot be compared",
    "not run",
]


class JudgedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A row of claims.json.

    Args:
        original: Figure of the original, for its rows alone.
        value: Measured figure by data set; under `ours` for a row of the original.
        interval: Its lowest and highest value by data set; the original's rows have none.
        shown: Values and intervals as the pages show them.
        agreement: Kind of comparison between runs.
    """

    id: str
    chapter: str
    statement: str
    original: str | None = None
    value: dict[str, float] = {}
    interval: dict[str, tuple[float, float]] = {}
    shown: str = "-"
    unit: str = ""
    target: str = ""
    verdict: Verdict | OriginalVerdict
    agreement: Agreement

    def __str__(self) -> str:
        """Verdict and values in one cell."""
        return f"{self.verdict}: {self.shown}" if self.value else self.verdict


def judge(chapter: Chapter, record: Record[Any] | None) -> list[JudgedClaim]:
    """Judge the findings of a chapter from its record; without a record each is `not run`."""
    judged = []
    for finding in chapter.findings:
        found: dict[str, Interval] = {}
        if record:
            found = chapter.module.FINDINGS[finding.name](record.result) or {}
            # The first data set comes first; a record's keys are in the order of the alphabet.
            found = dict(sorted(found.items(), key=lambda pair: pair[0] != record.result.dataset))
        # a finding on both data sets is not judged on one of them
        complete = found.values() if len(found) > (finding.data == "both") else ()
        texts = [f"{cell(i.estimate)} [{cell(i.low)}, {cell(i.high)}]" for i in found.values()]
        judged.append(
            JudgedClaim(
                id=finding.id,
                chapter=finding.chapter,
                statement=finding.statement,
                value={name: i.estimate for name, i in found.items()},
                interval={name: (i.low, i.high) for name, i in found.items()},
                shown="; ".join(texts) or "-",
                unit=finding.unit,
                target=str(finding.rule),
                verdict=finding.rule.judge(complete),
                agreement=finding.agreement,
            )
        )
    return judged
