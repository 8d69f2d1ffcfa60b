"""Claims: figures that the study promises, judged by code from the result records."""

from collections.abc import Callable, Iterable
from operator import eq, ge, gt, le
from typing import Any, Literal

import msgspec

from nanorecsys.study.tables import cell

Verdict = Literal["holds", "limited", "fails", "not_run"]
Operator = Literal["==", ">", ">=", "<="]
Agreement = Literal["exact", "ratio", "quality", "machine"]

VERDICTS: dict[Verdict, str] = {
    "holds": "holds",
    "limited": "holds with a limit",
    "fails": "does not hold",
    "not_run": "not run",
}
OPERATORS = {"==": eq, ">": gt, ">=": ge, "<=": le}
# How values with these units are compared between machines; other units belong to one machine.
UNITS: dict[str, Agreement] = {"x": "ratio", "": "quality", "recall": "quality"}


class Target(msgspec.Struct, frozen=True):
    """A bound for a value, and a looser `limit` that still counts as `limited`."""

    operator: Operator
    bound: float
    limit: float | None = None

    def judge(self, value: float | None) -> Verdict:
        """The verdict on a measured value; None (not measured in this run) is `not_run`.

        >>> Target(">=", 0.155, limit=0.13).judge(0.14)
        'limited'
        """
        if value is None:
            return "not_run"
        meets = OPERATORS[self.operator]
        if meets(value, self.bound):
            return "holds"
        return "limited" if self.limit is not None and meets(value, self.limit) else "fails"

    def __str__(self) -> str:
        return f"{self.operator} {self.bound:,.10g}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One promise of a chapter.

    Args:
        id: `chapter.short_name`.
        statement: One sentence that is true if the verdict is `holds`.
        value: Function from the chapter's result to the measured figure, or to None if this run did
            not measure it.
        unit: Unit of the value, empty for a count or a share.
        target: Bound for the value.
        original: Figure of the earlier benchmark or of the published source, if there is one.
        agrees: Kind of comparison between machines, if the operator and the unit do not tell it.
    """

    id: str
    statement: str
    value: Callable[[Any], float | None]
    unit: str
    target: Target
    original: float | str | None = None
    agrees: Agreement | None = None

    @property
    def agreement(self) -> Agreement:
        """How two runs are compared on this claim.

        `exact`: by the verdict, at any size; `ratio` and `quality`: by about the same value;
        `machine`: not at all, as for seconds or bytes.

        >>> Claim(id="a.b", statement="", value=float, unit="x", target=Target(">=", 2.0)).agreement
        'ratio'
        """
        if self.agrees:
            return self.agrees
        return "exact" if self.target.operator == "==" else UNITS.get(self.unit, "machine")


class JudgedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A row of claims.json.

    Args:
        shown: Value as the pages show it.
        over_original: Value divided by the original's figure, one ratio per figure.
    """

    id: str
    chapter: str
    statement: str
    original: float | str | None
    value: float | None
    shown: str = "-"
    over_original: list[float] = []
    unit: str
    target: str
    verdict: Verdict


def judge(chapter: str, claims: Iterable[Claim], result: Any | None) -> list[JudgedClaim]:
    """Judge a chapter's claims from its result; without a result each is `not_run`."""
    judged = []
    for claim in claims:
        value = None if result is None else claim.value(result)
        judged.append(
            JudgedClaim(
                id=claim.id,
                chapter=chapter,
                statement=claim.statement,
                original=claim.original,
                value=None if value is None else float(value),
                shown=cell(value),
                unit=claim.unit,
                target=str(claim.target),
                verdict=claim.target.judge(value),
            )
        )
    return judged
