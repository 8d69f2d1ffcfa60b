"""Two runs side by side, claim by claim: a reader's and the published one, or a run and its repeat.

Claims are judged anew from the result records of both, by the code that is here. What has to come
out the same is the verdict, or a value near the published one, never a time: `Claim.agreement` says
which kind a claim is of.
"""

import html
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable

from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import Claim, JudgedClaim, judge
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import OWN
from nanorecsys.study.records import FILE, Record, RecordError, read_record, write_atomically
from nanorecsys.study.runner import AGAIN
from nanorecsys.study.summary import VERDICTS, figure
from nanorecsys.study.tables import Markup, cell, code, table
from nanorecsys.system.errors import NanorecsysError

Outcome = Literal["agrees", "differs", "not comparable", "not judged"]

PUBLISHED = "published"
SECOND = "again"  # among the published results: the records of a second run
OTHER_MACHINE = "other-machine"  # and those of a run on another machine
COMPARED, RULED, REPEATED = (
    "compare.html",
    "rules.html",
    "repeat.html",
)  # what book/compare.md and book/runs.md take in
RATIO = 2.0  # processors gain that differently from int8, from wide vectors, from caches and from a second core
QUALITY = 0.02  # two standard errors of HitRate@10 over the 671 users of the bundled data
ELSEWHERE = ", at other parameters"
ALONE = NOT_HERE, NOT_THERE = "has not run", "has not run in the other"
NOT_MEASURED = (OWN, "seconds_limit")  # parameters that no figure depends on
RANK = {"fails": 0, "limited": 1, "holds": 2}
NAMED = 3  # parameters named in a note; the rest are counted
NUMBER = re.compile(
    r"(?<![\w.,=])\d[\d,]*(?:\.\d+)?(?=x?(?!\w))"
)  # not within a name, as of an index

RULES = {
    "exact": (
        "counts that have to be right, bounds that hold anywhere",
        "the verdict is no worse, at any parameters",
    ),
    "ratio": (
        "two things measured side by side in one run",
        f"it holds no worse, or is at most {RATIO:g} times worse; at other parameters the order of the two is kept",
    ),
    "quality": (
        "figures of a model or an index: HitRate, NDCG, recall, fidelity",
        f"it holds no worse, or is at most {QUALITY:g} worse; at other parameters only the verdict counts",
    ),
    "machine": ("seconds, requests a second, bytes", "shown, not judged"),
}


class CompareError(NanorecsysError):
    """There is nothing to compare."""


@dataclass(frozen=True)
class Row:
    """One claim in two runs, what comes of it and by what; `elsewhere` says that their parameters differ."""

    claim: JudgedClaim
    other: JudgedClaim
    elsewhere: bool
    outcome: Outcome
    why: str

    @property
    def told(self) -> str:
        """What comes of it and by what, in words."""
        if self.outcome == "not judged":
            return self.why
        measured = self.claim.value is not None and self.other.value is not None
        return (f"{self.outcome}: {self.why}" if measured else self.why) + (
            ELSEWHERE if self.elsewhere else ""
        )


@dataclass(frozen=True)
class Section:
    """A chapter's claims in two runs, and what keeps them from being comparable, in words."""

    chapter: str
    note: str
    rows: tuple[Row, ...]

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows worth showing: none if the chapter ran in one of the two alone."""
        return () if self.note in ALONE else self.rows


@dataclass(frozen=True)
class Comparison:
    """A run beside another, by default the published one."""

    run: str
    beside: str
    origins: tuple[str, str]
    sections: tuple[Section, ...]

    @property
    def rows(self) -> list[Row]:
        """All claims."""
        return [row for section in self.sections for row in section.rows]

    @property
    def differing(self) -> list[Row]:
        """Those that came out otherwise."""
        return [row for row in self.rows if row.outcome == "differs"]

    def __str__(self) -> str:
        counts = Counter(row.outcome for row in self.rows)
        return (
            f"{counts['agrees']} claims agree, {counts['differs']} differ, "
            f"{counts['not comparable']} are not comparable, {counts['not judged']} belong to the machine"
        )


def compare(where: Layout, run: Path, beside: Path) -> Comparison:
    """The claims of the records in the folder `run`, set beside those in the folder `beside`.

    Raises:
        CompareError: one of the two has no result record, or a damaged one.
    """
    ours, theirs = records(where, run), records(where, beside)
    sections = []
    for chapter in chapters(where).values():
        if chapter.needs_all:  # judges the others' claims, measures nothing
            continue
        own, other = ours.get(chapter.name), theirs.get(chapter.name)
        changed = other_parameters(chapter, ours, theirs) if own and other else []
        pairs = zip(
            chapter.claims,
            judge(chapter.name, chapter.claims, own and own.result),
            judge(chapter.name, chapter.claims, other and other.result),
            strict=True,
        )
        rows = tuple(
            Row(a, b, bool(changed), *set_beside(claim, a, b, bool(changed)))
            for claim, a, b in pairs
        )
        sections.append(Section(chapter.name, _note(own, other, changed), rows))
    return Comparison(
        _name(where, run), _name(where, beside), (_origin(ours), _origin(theirs)), tuple(sections)
    )


def records(where: Layout, folder: Path) -> dict[str, Record]:
    """The records of a run, or of published results, by chapter; those that have not run are left out.

    Raises:
        CompareError: there is none, or one is damaged or of another version.
    """
    try:
        found = {
            name: read_record(folder / name, chapter.result, raw_rows=False)
            for name, chapter in chapters(where).items()
            if not chapter.needs_all and (folder / name / FILE).exists()
        }
    except RecordError as error:
        raise CompareError(f"{_name(where, folder)}: {error.message}", error.remedy) from error
    if found:
        return found
    if folder.is_relative_to(where.published):
        again = " --again" if folder.name == SECOND else ""
        what = "second run among the published results" if again else "published result"
        raise CompareError(f"there is no {what}", f"nanorecsys publish PROFILE{again}")
    first = folder.name.removesuffix(AGAIN)
    held = sorted(p.parent.parent.name for p in where.runs.glob(f"*/*/{FILE}"))
    raise CompareError(
        f"run {folder.name!r} has no results; there are: {', '.join(dict.fromkeys(held)) or 'none'}",
        f"nanorecsys run {first}" + (" --again" if first != folder.name else ""),
    )


def other_parameters(
    chapter: Chapter, ours: Mapping[str, Record], theirs: Mapping[str, Record]
) -> list[str]:
    """Names of the parameters, its own first, then those of the chapters that it reads, in which two runs differ."""
    changed = []
    for name in (chapter.name, *chapter.needs):
        if name in ours and name in theirs:
            a, b = ours[name].parameters, theirs[name].parameters
            changed += sorted(
                k for k in a.keys() | b.keys() if k not in NOT_MEASURED and a.get(k) != b.get(k)
            )
    return list(dict.fromkeys(changed))


def set_beside(
    claim: Claim, own: JudgedClaim, other: JudgedClaim, elsewhere: bool
) -> tuple[Outcome, str]:
    """Whether a claim came out in one run as in the other, and by what that was judged.

    Args:
        claim: what is claimed.
        own: what the run measured of it.
        other: what the published run measured.
        elsewhere: whether they were measured at other parameters, so that the values may differ.
    """
    if own.value is None or other.value is None:
        return (
            "not comparable",
            "not measured" if own.value is None else "not measured in the other",
        )
    kind = claim.agreement
    if kind == "machine":
        return "not judged", "belongs to the machine"
    verdict = VERDICTS[own.verdict]
    no_worse = RANK[own.verdict] >= RANK[other.verdict]
    if no_worse and (kind == "exact" or own.verdict != "fails"):
        return "agrees", verdict
    change = verdict if no_worse else f"{VERDICTS[other.verdict]} → {verdict}"
    if kind == "exact":
        return "differs", change
    if elsewhere and kind == "ratio":
        kept = (own.value >= 1) == (other.value >= 1)
        return ("agrees", "the order is kept") if kept else ("differs", "the order is turned round")
    if elsewhere:
        return ("agrees", verdict) if no_worse else ("not comparable", change)
    allowed, told = (
        (QUALITY, f"{QUALITY:g}")
        if kind == "quality"
        else (_share(claim, other.value), f"{RATIO:g}x")
    )
    if behind(claim, own.value, other.value) <= allowed:
        return "agrees", f"{change}, within {told}"
    return "differs", f"{change}, more than {told} behind"


def behind(claim: Claim, own: float, other: float) -> float:
    """By how much `own` is worse than `other`, in the direction of the claim's target; negative if it is better."""
    return own - other if claim.target.operator == "<=" else other - own


def _share(claim: Claim, value: float) -> float:
    """By how much a ratio may be behind `value`."""
    return abs(value) * (RATIO - 1 if claim.target.operator == "<=" else 1 - 1 / RATIO)


def _note(own: Record | None, other: Record | None, changed: Sequence[str]) -> str:
    if own is None:
        return NOT_HERE
    if other is None:
        return NOT_THERE
    if own.provenance == other.provenance:
        return "the same run"
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f"other parameters: {', '.join(changed[:NAMED])}{more}" if changed else ""


def machine_of(found: Mapping[str, Record]) -> str:
    """What the records of a run were measured on, in words."""
    machine = next(iter(found.values())).provenance.machine
    return f"{machine.processor}, {machine.cores} cores"


def _origin(found: Mapping[str, Record]) -> str:
    """The machine of a run, and the code by its commits: chapters that were run anew may have a later one."""
    return f"{machine_of(found)}, code {', '.join(dict.fromkeys(r.provenance.commit for r in found.values()))}"


def _name(where: Layout, folder: Path) -> str:
    """What the tables call the results in `folder`."""
    names = {
        where.published: PUBLISHED,
        where.published / SECOND: "second run",
        where.published / OTHER_MACHINE: "another machine",
    }
    return names.get(folder, folder.name)


def show(found: Comparison, console: Console) -> None:
    """Print a comparison: a line a claim, chapter by chapter, then the counts."""
    drawn = TerminalTable(
        box=box.SIMPLE, title=f"{found.run} beside {found.beside}", pad_edge=False
    )
    drawn.add_column("claim", no_wrap=True)
    drawn.add_column(found.beside, justify="right")
    drawn.add_column(found.run, justify="right")
    drawn.add_column("outcome")
    colours = {"agrees": "green", "differs": "bold red"}
    for section in found.sections:
        drawn.add_section()
        drawn.add_row(f"[bold]{section.chapter}[/]", "", "", section.note)
        for row in section.shown:
            told = row.told.replace(ELSEWHERE, " *")
            colour = colours.get(row.outcome, "dim")
            drawn.add_row(
                row.claim.id, figure(row.other), figure(row.claim), f"[{colour}]{told}[/]"
            )
    console.print(drawn)
    if any(row.elsewhere for row in found.rows):
        console.print("* at other parameters: only the verdict or the order counts")
    console.print(str(found), highlight=False)


def comparison_part(found: Comparison) -> str:
    """A comparison as the book shows it, as HTML."""
    (run, own), (beside, other) = zip((found.run, found.beside), found.origins, strict=True)
    lead = f"<p>{code(run)} ({html.escape(own)}) beside {code(beside)} ({html.escape(other)}): {found}.</p>"
    rows = (
        (_claim(row), figure(row.other), figure(row.claim), row.told)
        for section in found.sections
        for row in section.shown
    )
    shown = table(("claim, unit", beside, run, "outcome"), rows, align="lrr", stacked=True)
    notes = "".join(
        f"<li>{code(s.chapter)}: {html.escape(s.note)}</li>" for s in found.sections if s.note
    )
    return "\n".join([lead, *([f"<ul>{notes}</ul>"] if notes else []), shown._repr_html_(), ""])


def _claim(row: Row) -> Markup:
    return Markup(f"{code(row.claim.id)} {html.escape(row.claim.unit)}")


def rules_part() -> str:
    """By what each kind of claim is judged, as HTML."""
    return table(
        ("kind", "which claims", "agrees if"), ((k, *rule) for k, rule in RULES.items())
    )._repr_html_()


def write_page(path: Path, found: Comparison) -> None:
    """A comparison as a page that needs no other file."""
    page = f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>{html.escape(found.run)} beside {html.escape(found.beside)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }} td, th {{ border-bottom: 1px solid #ccc;
padding: .2rem .6rem; vertical-align: top }}
</style>
<h1>{html.escape(found.run)} beside {html.escape(found.beside)}</h1>
{comparison_part(found)}
<h2>Rules</h2>
{rules_part()}
</html>
"""
    write_atomically(path, page.encode())


def repeat_part(where: Layout, first: Path, second: Path) -> str:
    """How far two runs of the same chapters with the same parameters lie apart, as HTML.

    Raises:
        CompareError: one of them has no result, or a damaged one.
    """
    if not second.is_dir():
        return "<p>These chapters ran once, so nothing here says how far their figures move by chance.</p>\n"
    before, after = records(where, first), records(where, second)
    repeated = [n for n in after if n in before and after[n].provenance != before[n].provenance]
    sections = [s for s in compare(where, second, first).sections if s.chapter in repeated]
    rows = [
        row
        for s in sections
        for row in s.rows
        if row.claim.value is not None or row.other.value is not None
    ]
    headlines = table(
        ("figure", "first run", "second run", "apart"),
        (
            row
            for name in repeated
            for row in _headlines(chapters(where)[name], before[name], after[name])
        ),
        align="wllr",
        stacked=True,
    )
    claims = table(
        ("claim, unit", "first run", "second run", "apart", "verdict", "unchanged"),
        (
            (
                _claim(row),
                figure(row.other),
                figure(row.claim),
                _percent(apart(row.other.value, row.claim.value)),
                " → ".join(
                    dict.fromkeys((VERDICTS[row.other.verdict], VERDICTS[row.claim.verdict]))
                ),
                row.claim.verdict == row.other.verdict,
            )
            for row in rows
        ),
        align="lrrr",
        stacked=True,
    )
    return f"{_repeat_lead(repeated, rows)}\n{headlines._repr_html_()}\n{claims._repr_html_()}\n"


def _repeat_lead(repeated: Sequence[str], rows: Sequence[Row]) -> str:
    changed = [row.claim.id for row in rows if row.claim.verdict != row.other.verdict]
    verdicts = (
        f"other verdicts on {', '.join(map(code, changed))}"
        if changed
        else "every verdict is unchanged"
    )
    shares = {
        row.claim.id: s
        for row in rows
        if (s := apart(row.other.value, row.claim.value)) is not None
    }
    widest = max(shares, key=shares.__getitem__, default="")
    spread = (
        f" The two values of a claim lie {statistics.median(shares.values()):.1%} apart in the median, "
        f"{shares[widest]:.1%} at most ({code(widest)})."
    )
    told = f"A second run of {', '.join(map(code, repeated))} with the same parameters: {verdicts}."
    return f"<p>{told}{spread if shares else ''}</p>"


def apart(first: float | None, second: float | None) -> float | None:
    """How far two values lie apart, as a share of their mean; None where they have no common sign.

    >>> apart(9.0, 11.0)
    0.2
    """
    if first is None or second is None or (first != second and first * second <= 0):
        return None
    return abs(first - second) / (abs(first + second) / 2) if first != second else 0.0


def apart_in_text(first: str, second: str) -> float | None:
    """How far the numbers in two texts lie apart at most; None where the texts differ in more than numbers.

    >>> apart_in_text("1 ms, 10x", "3 ms, 10x")
    1.0
    >>> apart_in_text("IVF256,SQ8 nprobe=8", "IVF512,SQ8 nprobe=8") is None
    True
    """
    if NUMBER.sub("", first) != NUMBER.sub("", second):
        return None
    pairs = zip(NUMBER.findall(first), NUMBER.findall(second), strict=True)
    shares = [apart(*(float(text.replace(",", "")) for text in pair)) for pair in pairs]
    return None if None in shares else max(shares, default=0.0)


def _headlines(
    chapter: Chapter, before: Record, after: Record
) -> list[tuple[str, Markup, Markup, str]]:
    headline = import_module(f"{chapter.package}.chapter").headline
    second = {
        NUMBER.sub("", label): text for label, text in headline(after.result)
    }  # labels may hold a figure too
    rows = []
    for label, text in headline(before.result):
        again = second.get(NUMBER.sub("", label))
        share = None if again is None else apart_in_text(text, again)
        rows.append((label, _breaking(text), _breaking(cell(again)), _percent(share)))
    return rows


def _breaking(text: str) -> Markup:
    """`text`, which a line may end in after a comma within a name, as of an index."""
    return Markup(re.sub(r",(?=[A-Za-z])", ",<wbr>", html.escape(text)))


def _percent(share: float | None) -> str:
    return cell(None) if share is None else f"{share:.1%}"


def parts(where: Layout, results: Path) -> dict[str, str]:
    """What the pages of a book over `results` take in, by file name; what cannot be compared is said there.

    A run is set beside the published one, and a second run of it beside the first. Beside the
    published results stands the run on another machine, or the second run where there is none.
    """
    if results == where.published:
        second, beside = results / SECOND, results
        compared = results / OTHER_MACHINE if (results / OTHER_MACHINE).is_dir() else second
    else:
        second, beside = results.with_name(results.name + AGAIN), where.published
        compared = results
    return {
        COMPARED: _or_why_not(lambda: comparison_part(compare(where, compared, beside))),
        REPEATED: _or_why_not(lambda: repeat_part(where, results, second)),
        RULED: f"{rules_part()}\n",
    }


def _or_why_not(part: Callable[[], str]) -> str:
    """A part, or why there is none: the rest of the book is worth showing without it."""
    try:
        return part()
    except NanorecsysError as error:
        return f"<p>Nothing to set side by side: {html.escape(error.message)}.</p>\n"
