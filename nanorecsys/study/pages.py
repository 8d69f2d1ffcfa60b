"""What pages of the book include as HTML: claims by machine, and the protocol."""

import contextlib
import html
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pandas as pd
import yaml

from nanorecsys.study import compare, decide
from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.layout import Layout
from nanorecsys.study.original import address, anchor
from nanorecsys.study.protocol import ORIGINAL, Finding, read_protocol
from nanorecsys.study.runner import SECOND_RUN
from nanorecsys.study.tables import styled

Sides = dict[str, compare.Records]  # by title; the first is the run that the book is built over
Judged = dict[str, dict[str, JudgedClaim]]  # then by the claim's id
Comparisons = dict[str, pd.DataFrame]  # by title; each compares a side with the first
NONE = "<p>None.</p>\n"  # where there is nothing to show

# What the pages show of the claims, and where; its comments say what the tables mean.
_SHOWN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
HEADLINES: dict[str, list[str]] = _SHOWN["headlines"]
SECTIONS: dict[str, str] = _SHOWN["sections"]
UNITS: dict[str, tuple[str, float]] = _SHOWN["units"]


def parts(folders: Layout, results: Path) -> dict[str, str]:
    """The parts that the pages of a book over `results` include, by file name."""
    everything, protocol = chapters(folders), read_protocol(folders)
    sides = _sides(folders, results)
    run = next(iter(sides))
    has_run = sides[run]
    judged: Judged = {}
    comparisons: Comparisons = {}
    for name, side in sides.items():
        judged[name] = {claim.id: claim for claim in compare.judge_all(everything, side)}
        comparisons[name] = compare.compare(everything, has_run, side).set_index("claim")
    findings = {
        f.id: f"results/{f.chapter}.html#{anchor(SECTIONS.get(f.id, ''))}" * (f.chapter in has_run)
        for f in protocol.findings
    }
    original = {
        f"original.{row.id}": f"results/{address(row)}" * (row.chapter in has_run)
        for row in ORIGINAL
        if row.chapter in everything
    }
    rows = [(r.claim, r.original, r.target, r.source, r.kind) for r in ORIGINAL]
    claims = {claim_id: str(claim) for claim_id, claim in judged[run].items()}
    return {
        "machines.html": _machines(sides, comparisons),
        "headlines.html": _headlines(judged),
        "findings.html": _claims(judged, comparisons, findings),
        "original.html": _claims(judged, comparisons, original),
        "decide.html": _decisions(sides),
        "definitions.html": "".join(map(_definition, protocol.findings)),
        "families.html": _terms(protocol.families),
        "rows.html": _table(
            pd.DataFrame(rows, columns=["claim", "original", "rule", "source", "kind"])
        ),
        "amendments.html": "".join(_amendment(a, claims) for a in protocol.amendments) or NONE,
    }


def _decisions(sides: Sides) -> str:
    """The tables of the page for someone who has to decide, one for each machine."""
    texts = [
        f"<h3>{html.escape(f'{name}: {compare.machine_of(side)}')}</h3>\n"
        f"{_table(decide.choices(side))}{_table(decide.table(side))}"
        for name, side in sides.items()
        if side
    ]
    return "".join(texts) or NONE


def _sides(folders: Layout, results: Path) -> Sides:
    """The records of `results`, of its second run and of what is published beside it."""
    places = [results, folders.run(results.name + SECOND_RUN), folders.published]
    if results == folders.published:
        places = [results, results / compare.REPEATED, results / compare.OTHER_MACHINE]
    found: Sides = {compare.title(folders, results): {}}
    for place in places:
        # there may be none, or one that was made under other definitions
        with contextlib.suppress(compare.CompareError):
            found[compare.title(folders, place)] = compare.records(folders, place)
    return found


def _machines(sides: Sides, comparisons: Comparisons) -> str:
    """What each side was measured on, and how many of its claims agree with the first's."""
    run = next(iter(sides))
    texts = []
    for name, side in sides.items():
        if side:
            counts = "" if name == run else f"; {compare.counts(comparisons[name])}"
            text = f"{name}: {compare.machine_of(side)}{counts}"
            texts.append(f"<p>{html.escape(text)}.</p>\n")
    return "".join(texts) or NONE


def _headlines(judged: Judged) -> str:
    """Cards of the landing page: the figures of the protocol's headlines, on each side."""
    run, *others = judged
    cards = []
    for title, ids in HEADLINES.items():
        lines = [f"<h2>{title}</h2>"]
        for own in (judged[run][claim_id] for claim_id in ids if claim_id in judged[run]):
            lines.append(f'<p class="figure">{html.escape(_middle(own))}</p>')
            lines.append(f"<p><b>{own.verdict}:</b> {html.escape(own.statement)}</p>")
            for name in others:
                other = judged[name][own.id]
                text = f"{name}: {_middle(other)}, {other.verdict}"
                lines.append(f'<p class="side">{html.escape(text)}</p>')
        cards.append('<div class="card">' + "\n".join(lines) + "</div>")
    return '<div class="cards">\n' + "\n".join(cards) + "\n</div>\n"


def _claims(judged: Judged, comparisons: Comparisons, targets: Mapping[str, str]) -> str:
    """A table of claims, one sentence each, with a column for each side; cards on a phone.

    Args:
        judged: Every claim on each side.
        comparisons: How the claims of each side compare with the first's.
        targets: Address of the section that shows a claim, by the claim's id; "" for none.
    """
    run, *others = judged
    heads = "".join(f"<th>{html.escape(text)}</th>" for text in ("verdict", "claim", *judged))
    rows = []
    for claim_id, target in targets.items():
        own = judged[run][claim_id]
        claim = html.escape(own.statement)
        if target:
            claim = f'<a href="{target}">{claim}</a>'
        beside = f"It said: {own.original}." if own.original else f"Bound: {own.target}."
        cells = [
            f'<td class="verdict">{own.verdict}</td>',
            f"<td>{claim} <small>{html.escape(beside)}</small></td>",
            f'<td data-side="{html.escape(run)}"><span>{html.escape(figure(own))}</span></td>',
        ]
        for name in others:
            other = judged[name][claim_id]
            outcome = comparisons[name].outcome[claim_id]
            judged_too = f" ({outcome})" if outcome in ("agrees", "differs") else ""
            text = f"{other.verdict}: {figure(other)}{judged_too}" if other.value else other.verdict
            cells.append(f'<td data-side="{html.escape(name)}">{html.escape(text)}</td>')
        rows.append(f'<tr id="{claim_id}">{"".join(cells)}</tr>')
    body = "\n".join(rows)
    return (
        f'<table class="claims"><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>\n'
    )


def figure(claim: JudgedClaim) -> str:
    """The figures of a claim in its unit, with their intervals, as a reader expects them."""
    if not claim.interval:
        return claim.shown
    texts = []
    for name, value in claim.value.items():
        middle, low, high = (_in_unit(claim, v) for v in (value, *claim.interval[name]))
        texts.append(f"{middle} ({low} to {high})")
    return "; ".join(texts)


def _middle(claim: JudgedClaim) -> str:
    """The figures of a claim without their intervals."""
    return "; ".join(_in_unit(claim, value) for value in claim.value.values()) or claim.verdict


def _in_unit(claim: JudgedClaim, value: float) -> str:
    style, factor = UNITS.get(claim.unit, ("{:,.4g}", 1))
    return style.format(value * factor)


def _definition(finding: Finding) -> str:
    """Everything that defines a finding, under its question as a heading."""
    fields = msgspec.structs.asdict(finding)
    values = {name.replace("_", " "): str(value) for name, value in fields.items() if value}
    return f'<h3 id="{finding.id}">{html.escape(finding.question)}</h3>\n{_terms(values)}'


def _amendment(amendment: Mapping[str, str], claims: Mapping[str, str]) -> str:
    """A change of the protocol; its "after" is a text, or the id of a claim of this run."""
    values = {**amendment, "after": claims.get(amendment["after"], amendment["after"])}
    return _terms(values)


def _terms(texts: Mapping[str, str]) -> str:
    """A list of terms with their texts."""
    pairs = ((html.escape(term), html.escape(text)) for term, text in texts.items())
    found = "\n".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in pairs)
    return f'<dl class="terms">\n{found}\n</dl>\n'


def _table(frame: pd.DataFrame) -> str:
    return NONE if frame.empty else styled(frame).to_html() + "\n"
