"""Two runs side by side, claim by claim: a reader's and the published one, or a run and its repeat.

Claims are judged again from the result records of both, by the code of this clone. A verdict or a
value has to come out about the same, a time never: `Claim.agreement` says which kind a claim is of.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import VERDICTS, Claim, JudgedClaim, judge
from nanorecsys.study.fingerprint import differing, some_of
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import RUN_NAME
from nanorecsys.study.records import FILE, Record, RecordError, read_record
from nanorecsys.study.runner import SECOND_RUN
from nanorecsys.study.tables import styled
from nanorecsys.system.errors import NanorecsysError

Outcome = Literal["agrees", "differs", "not comparable", "not judged"]

PUBLISHED = "published"
REPEATED = "again"  # among the published results: the records of a second run
OTHER_MACHINE = "other-machine"  # and those of a run on another machine
TITLES = {REPEATED: "second run", OTHER_MACHINE: "another machine"}
COMPARE_PART, REPEAT_PART = "compare.html", "repeat.html"  # included by compare.md and runs.md
RATIO = 2.0  # processors gain that differently from int8, wide vectors, caches and a second core
QUALITY = 0.02  # two standard errors of HitRate@10 over the 671 users of the bundled data
COLUMNS = ["chapter", "claim", "unit", "other", "run", "apart", "outcome", "reason", "changed"]
RANK = {"fails": 0, "limited": 1, "holds": 2}


class CompareError(NanorecsysError):
    """There is nothing to compare."""


def compare(folders: Layout, run: Path, other: Path) -> pd.DataFrame:
    """Compare the claims of the records in the folder `run` with those in the folder `other`.

    Returns:
        One row per claim, with `COLUMNS`; `changed` names parameters that differ.

    Raises:
        CompareError: One of the two has no result record, or a damaged one.
    """
    ours, theirs = records(folders, run), records(folders, other)
    rows = []
    for name, chapter in chapters(folders).items():
        here, there = ours.get(name), theirs.get(name)
        changed = changed_parameters(chapter, ours, theirs)
        for claim, a, b in zip(
            chapter.claims,
            judge(name, chapter.claims, here and here.result),
            judge(name, chapter.claims, there and there.result),
            strict=True,
        ):
            outcome, reason = agreement(claim, a, b, same_parameters=not changed)
            shown = (name, a.id, a.unit, b.shown, a.shown, apart(a.value, b.value))
            rows.append((*shown, outcome, reason, ", ".join(some_of(changed))))
    return pd.DataFrame(rows, columns=COLUMNS)


def counts(claims: pd.DataFrame) -> str:
    """How many claims of a comparison had each outcome, in words."""
    number = Counter(claims.outcome)
    return (
        f"{number['agrees']} claims agree, {number['differs']} differ, "
        f"{number['not comparable']} are not comparable, "
        f"{number['not judged']} belong to the machine"
    )


def records(folders: Layout, results: Path) -> dict[str, Record]:
    """The records in a folder of results by chapter; chapters that have not run are left out.

    Raises:
        CompareError: There is no record, or one is damaged or of another version.
    """
    try:
        found = {
            name: read_record(results / name, chapter.result, raw_rows=False)
            for name, chapter in chapters(folders).items()
            if not chapter.is_summary and (results / name / FILE).exists()
        }
    except RecordError as error:
        remedy = error.remedy
        if results.is_relative_to(folders.published):
            remedy = f"replace {folders.relative(results)} with a new publication, or delete it"
        raise CompareError(f"{title(folders, results)}: {error.message}", remedy) from error
    if found:
        return found
    existing = sorted({path.parent.parent.name for path in folders.runs.glob(f"*/*/{FILE}")})
    raise CompareError(
        f"{title(folders, results)!r} has no results; runs: {', '.join(existing) or 'none'}",
        "nanorecsys run PROFILE, with --again for a second run; nanorecsys publish PROFILE",
    )


def changed_parameters(
    chapter: Chapter, ours: Mapping[str, Record], theirs: Mapping[str, Record]
) -> list[str]:
    """Parameters of a chapter, and of those that it reads, in which two runs differ."""
    both = [name for name in (chapter.name, *chapter.needs) if name in ours and name in theirs]
    changed = [
        n for name in both for n in differing(ours[name].parameters, theirs[name].parameters)
    ]
    return [name for name in dict.fromkeys(changed) if name != RUN_NAME]


def agreement(
    claim: Claim, own: JudgedClaim, other: JudgedClaim, *, same_parameters: bool
) -> tuple[Outcome, str]:
    """Whether a claim came out in one run as in the other, and why.

    Args:
        claim: The claim.
        own: The claim as judged in the run.
        other: The claim as judged in the other run.
        same_parameters: Whether both ran with the same parameters, so that values are comparable.
    """
    if own.value is None or other.value is None:
        missing_in = "" if own.value is None else " in the other"
        return "not comparable", f"not measured{missing_in}"
    kind = claim.agreement
    if kind == "machine":
        return "not judged", "belongs to the machine"
    no_worse = RANK[own.verdict] >= RANK[other.verdict]
    verdict = VERDICTS[own.verdict]
    if no_worse and (kind == "exact" or own.verdict != "fails"):
        return "agrees", verdict
    change = verdict if no_worse else f"{VERDICTS[other.verdict]} → {verdict}"
    if kind == "exact":
        return "differs", change
    if kind == "ratio" and not same_parameters:
        same_order = (own.value >= 1) == (other.value >= 1)
        return ("agrees", "the same order") if same_order else ("differs", "the opposite order")
    if not same_parameters:
        return ("agrees" if no_worse else "not comparable"), change
    less_is_better = claim.target.operator == "<="
    behind = own.value - other.value if less_is_better else other.value - own.value
    if kind == "quality":
        allowed, bound = QUALITY, f"{QUALITY:g}"
    else:
        allowed = abs(other.value) * (RATIO - 1 if less_is_better else 1 - 1 / RATIO)
        bound = f"{RATIO:g}x"
    if behind <= allowed:
        return "agrees", f"{change}, within {bound}"
    return "differs", f"{change}, more than {bound} behind"


def apart(first: float | None, second: float | None) -> float | None:
    """Distance of two values as a share of their mean; None if they have no common sign.

    >>> apart(9.0, 11.0)
    0.2
    """
    if first is None or second is None or (first != second and first * second <= 0):
        return None
    return abs(first - second) / (abs(first + second) / 2) if first != second else 0.0


def machine_of(found: Mapping[str, Record]) -> str:
    """The machine that the records of a run were measured on, in words."""
    machine = next(iter(found.values())).provenance.machine
    return f"{machine.processor}, {machine.cores} cores"


def title(folders: Layout, results: Path) -> str:
    """The name of a folder of results in tables and messages."""
    if results == folders.published:
        return PUBLISHED
    return TITLES[results.name] if results.parent == folders.published else results.name


def show(claims: pd.DataFrame, run: str, other: str, console: Console) -> None:
    """Print a comparison: one line per claim, chapter by chapter, then the counts."""
    table = Table(box=box.SIMPLE, title=f"{run} beside {other}", pad_edge=False)
    table.add_column("claim", no_wrap=True)
    table.add_column(other, justify="right")
    table.add_column(run, justify="right")
    table.add_column("outcome")
    colours = {"agrees": "green", "differs": "bold red"}
    for (name, changed), of_chapter in claims.groupby(["chapter", "changed"]):
        table.add_section()
        note = f"other parameters: {changed}" if changed else ""
        table.add_row(f"[bold]{name}[/]", "", "", note)
        for row in of_chapter.itertuples():
            outcome = f"[{colours.get(row.outcome, 'dim')}]{row.outcome}: {row.reason}[/]"
            table.add_row(row.claim, row.other, row.run, outcome)
    console.print(table)
    console.print(counts(claims), highlight=False)


def parts(folders: Layout, results: Path) -> dict[str, str]:
    """The comparisons that the pages of a book over `results` include, as HTML by file name.

    A run is compared with the published one, and a second run of it with the first. The published
    results are compared with the run on another machine, or with the second run if there is none.
    """
    if results == folders.published:
        second, run, other = results / REPEATED, results / OTHER_MACHINE, results
        run = run if run.is_dir() else second
    else:
        second, run, other = folders.run(results.name + SECOND_RUN), results, folders.published
    return {
        COMPARE_PART: _part(folders, run, other),
        REPEAT_PART: _part(folders, second, results),
    }


def _part(folders: Layout, run: Path, other: Path) -> str:
    """A comparison as HTML, or why there is none, so that the rest of the book can be shown."""
    try:
        claims = compare(folders, run, other)
    except CompareError as error:
        return f"<p>Nothing to compare: {error.message}.</p>\n"
    machines = [f"{title(folders, r)} ({machine_of(records(folders, r))})" for r in (run, other)]
    claims = claims[claims.outcome != "not comparable"]
    changed = claims.chapter[claims.changed != ""].unique()
    lead = f"{' and '.join(machines)}: {counts(claims)}."
    if len(changed):
        lead += f" These chapters ran with other parameters: {', '.join(changed)}."
    shown = claims[["outcome", "claim", "unit", "other", "run", "apart", "reason"]]
    names = {"other": title(folders, other), "run": title(folders, run)}
    table = styled(shown.rename(columns=names), {"apart": "{:.1%}"})
    return f"<p>{lead}</p>\n{table.to_html()}\n"
