"""What pages of the book include as HTML: claims by machine, and the protocol."""

import html
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pandas as pd

from nanorecsys.study import compare
from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.layout import Layout
from nanorecsys.study.original import address
from nanorecsys.study.protocol import ORIGINAL, Finding, read_protocol
from nanorecsys.study.runner import SECOND_RUN
from nanorecsys.study.tables import styled

Sides = dict[str, compare.Records]  # by title; the first is the run that the book is built over


def parts(folders: Layout, results: Path) -> dict[str, str]:
    """The parts that the pages of a book over `results` include, by file name."""
    everything, protocol = chapters(folders), read_protocol(folders)
    sides = _sides(folders, results)
    has_run = next(iter(sides.values()))
    findings = {
        f.id: (f"protocol.html#{f.id}", f.statement, f"{f.rule} {f.unit}")
        for f in protocol.findings
    }
    headlines = {f.id: findings[f.id] for f in protocol.findings if f.headline}
    original = {
        f"original.{row.id}": (
            f"results/{address(row)}" * (row.chapter in has_run),
            row.claim,
            row.original,
        )
        for row in ORIGINAL
        if row.chapter in everything
    }
    rows = [(r.kind, r.claim, r.original, r.target, r.source, r.id) for r in ORIGINAL]
    amendments = pd.DataFrame(protocol.amendments)
    claims = {claim.id: str(claim) for claim in compare.judge_all(everything, has_run)}
    return {
        "machines.html": _machines(everything, sides),
        "headlines.html": _claims(everything, sides, headlines, "bound"),
        "findings.html": _claims(everything, sides, findings, "bound"),
        "original.html": _claims(everything, sides, original, "original"),
        "definitions.html": "".join(map(_definition, protocol.findings)),
        "families.html": _terms(protocol.families),
        "rows.html": _table(
            pd.DataFrame(rows, columns=["kind", "claim", "original", "rule", "source", "id"])
        ),
        "amendments.html": _table(amendments.replace({"after": claims})),
    }


def _sides(folders: Layout, results: Path) -> Sides:
    """The records of `results`, of its second run and of what is published beside it."""
    places = [results, folders.run(results.name + SECOND_RUN), folders.published]
    if results == folders.published:
        places = [results, results / compare.REPEATED, results / compare.OTHER_MACHINE]
    found: Sides = {compare.title(folders, results): {}}
    for place in places:
        try:
            found[compare.title(folders, place)] = compare.records(folders, place)
        except compare.CompareError:  # there is none, or it was made under other definitions
            continue
    return found


def _machines(everything: Mapping[str, Chapter], sides: Sides) -> str:
    """What each side was measured on, and how many of its claims agree with the first's."""
    texts = []
    for name, side in sides.items():
        if side:
            texts.append(f"{name}: {compare.machine_of(side)}")
            first = next(iter(sides.values()))
            if side is not first:
                compared = compare.compare(everything, first, side)
                texts[-1] += f"; {compare.counts(compared)}"
    return "".join(f"<p>{html.escape(text)}.</p>\n" for text in texts) or "<p>None.</p>\n"


def _claims(
    everything: Mapping[str, Chapter],
    sides: Sides,
    wanted: Mapping[str, tuple[str, str, str]],
    beside: str,
) -> str:
    """A table of claims with a column for each side.

    Args:
        everything: All chapters.
        sides: Records by side.
        wanted: Target of a link, text, and the bound or figure beside it, by the claim's id.
        beside: Title of the last.
    """
    (run, first), *others = sides.items()
    judged = {claim.id: claim for claim in compare.judge_all(everything, first)}
    ids = list(wanted)
    frame = pd.DataFrame(
        {
            "verdict": [judged[i].verdict for i in ids],
            "claim": [_link(target, text) for target, text, _ in wanted.values()],
            beside: [figure for *_, figure in wanted.values()],
            run: [judged[i].shown for i in ids],
        }
    )
    for name, side in others:
        compared = compare.compare(everything, first, side).set_index("claim").loc[ids]
        frame[name] = [f"{c.other} ({c.outcome})" for c in compared.itertuples()]
    return _table(frame.assign(id=ids), "claim")


def _link(target: str, text: str) -> str:
    text = html.escape(text)
    return f'<a href="{target}">{text}</a>' if target else text


def _definition(finding: Finding) -> str:
    """Everything that defines a finding, under its question as a heading."""
    fields = msgspec.structs.asdict(finding)
    values = {name.replace("_", " "): str(value) for name, value in fields.items() if value}
    return f'<h3 id="{finding.id}">{html.escape(finding.question)}</h3>\n{_terms(values)}'


def _terms(texts: Mapping[str, str]) -> str:
    """A list of terms with their texts."""
    pairs = ((html.escape(term), html.escape(text)) for term, text in texts.items())
    found = "\n".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in pairs)
    return f"<dl>\n{found}\n</dl>\n"


def _table(frame: pd.DataFrame, *html_columns: str) -> str:
    return "<p>None.</p>\n" if frame.empty else styled(frame, {}, html_columns).to_html() + "\n"
