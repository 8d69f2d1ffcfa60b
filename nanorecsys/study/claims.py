"""Claims: every figure that the study promises, judged by code from the result records."""

from collections.abc import Callable, Iterable
from operator import eq, ge, gt, le
from typing import Any, Literal

import msgspec

Verdict = Literal["holds", "limited", "fails", "not_run"]
Operator = Literal["==", ">", ">=", "<="]
Agreement = Literal["exact", "ratio", "quality", "machine"]

UNITS: dict[str, Agreement] = {
    "x": "ratio",
    "": "quality",
    "recall": "quality",
}  # any other belongs to the machine


class Target(msgspec.Struct, frozen=True):
    """What a value has to reach: `value operator bound` holds; `limit`, a looser bound, is still `limited`."""

    operator: Operator
    bound: float
    limit: float | None = None

    def judge(self, value: float | None) -> Verdict:
        """The verdict on a measured value; `None` (not measured in this run) is `not_run`.

        >>> Target(">=", 0.155, limit=0.13).judge(0.14)
        'limited'
        """
        if value is None:
            return "not_run"
        if self._meets(value, self.bound):
            return "holds"
        return "limited" if self.limit is not None and self._meets(value, self.limit) else "fails"

    def _meets(self, value: float, bound: float) -> bool:
        return {"==": eq, ">": gt, ">=": ge, "<=": le}[self.operator](value, bound)

    def __str__(self) -> str:
        return f"{self.operator} {self.bound:,.10g}"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One promise of a chapter.

    Args:
        id: `chapter.short_name`.
        statement: one sentence, true if the verdict is `holds`.
        value: the measured figure, from the chapter's result; None where this run did not measure
            it.
        unit: of the value, empty for a count or a ratio.
        target: what the value has to reach.
        original: the figure of the earlier benchmark or of the published source, where there is
            one.
        agrees: how a run on another machine is set beside this one, where `agreement` would say it
            wrongly.
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
        """What of this claim has to come out the same on another machine.

        `exact`: the verdict, at any size; `ratio`: of two things measured side by side, about the
        value; `quality`: of a model or an index, about the value; `machine`: nothing, as of seconds
        or bytes. The operator and the unit say which, unless `agrees` does.

        >>> Claim(id="a.b", statement="", value=float, unit="x", target=Target(">=", 2.0)).agreement
        'ratio'
        """
        return self.agrees or (
            "exact" if self.target.operator == "==" else UNITS.get(self.unit, "machine")
        )


def keeps_time(chapter: str, limits: str) -> Claim:
    """The claim that a chapter, whose result has `seconds` and `seconds_limit`, keeps to its limit.

    Args:
        chapter: the part of the claim's id before the dot.
        limits: those of the profiles, in words.
    """
    return Claim(
        id=f"{chapter}.time",
        statement=f"The chapter takes no more than its share of time: {limits}.",
        value=lambda r: r.seconds / r.seconds_limit,
        unit="of the limit",
        target=Target("<=", 1.0, limit=1.25),
    )


class JudgedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A row of claims.json."""

    id: str
    chapter: str
    statement: str
    original: float | str | None
    value: float | None
    unit: str
    target: str
    verdict: Verdict


def judge(chapter: str, claims: Iterable[Claim], result: Any | None) -> list[JudgedClaim]:
    """Judge a chapter's claims from its result; `None` (the chapter has not run) makes each of them `not_run`."""
    rows = []
    for claim in claims:
        value = None if result is None else claim.value(result)
        rows.append(
            JudgedClaim(
                id=claim.id,
                chapter=chapter,
                statement=claim.statement,
                original=claim.original,
                value=None if value is None else float(value),
                unit=claim.unit,
                target=str(claim.target),
                verdict=claim.target.judge(value),
            )
        )
    return rows
