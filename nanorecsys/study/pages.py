"""What pages of the book include as HTML: claims by machine, and the protocol."""

import html
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pandas as pd

from nanorecsys.study import compare, decide
from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.layout import Layout
from nanorecsys.study.original import address, anchor
from nanorecsys.study.protocol import ORIGINAL, Finding, read_protocol
from nanorecsys.study.runner import SECOND_RUN
from nanorecsys.study.tables import styled

Sides = dict[str, compare.Records]  # by title; the first is the run that the book is built over
Judged = dict[str, JudgedClaim]  # a claim by side
Outcomes = dict[str, dict[str, str]]  # by side and the claim's id

# The cards of the landing page, and the protocol's headlines that each shows.
HEADLINES = {
    "Requests on two virtual CPUs": ["loadtest.rate"],
    "Against the best PyTorch server": ["loadtest.baseline"],
    "Encoding a user": ["export.speed"],
    "Three million items": ["scaleup.speed", "scaleup.fidelity"],
    "Quality": ["training.leave_one_out", "training.temporal"],
}
# The section that shows a finding; the heading without its number.
SECTIONS = {
    "data.leakage": "What leaks",
    "training.leave_one_out": "Quality of what is served",
    "training.last_ten": "Quality of what is served",
    "training.temporal": "Quality of what is served",
    "training.events_read": "How many events are worth reading",
    "training.ranker": "Does the ranker pay for itself",
    "export.speed": "The choice",
    "export.int8": "What int8 costs on two data sets",
    "ann.recall_99": "The choice",
    "ann.recall_second": "The recommended index where it serves",
    "ann.end_task": "The recommended index where it serves",
    "scaleup.speed": "Building and searching",
    "scaleup.fidelity": "The held-out test",
    "loadtest.rate": "Scenarios on the final server",
    "loadtest.baseline": "The baseline and the final server",
    "loadtest.computed_goodput": "Overload",
    "loadtest.overload_p99": "Overload",
}
# Format and factor of a finding's unit.
UNITS = {
    "relative change of NDCG@10": ("{:+.1%}", 1),
    "difference of NDCG@10": ("{:+.4f}", 1),
    "of the test events": ("{:.0%}", 1),
    "of the peak": ("{:.0%} of the peak", 1),
    "recall@10": ("{:.3f}", 1),
    "recall@100": ("{:.3f}", 1),
    "requests/s": ("{:,.0f}/s", 1),
    "times 100 ms": ("{:.0f} ms", 100),
    "x": ("{:.1f}x", 1),
}


def parts(folders: Layout, results: Path) -> dict[str, str]:
    """The parts that the pages of a book over `results` include, by file name."""
    everything, protocol = chapters(folders), read_protocol(folders)
    sides = _sides(folders, results)
    has_run = next(iter(sides.values()))
    judged: dict[str, Judged] = {}
    outcomes: Outcomes = {}
    for name, side in sides.items():
        for claim in compare.judge_all(everything, side):
            judged.setdefault(claim.id, {})[name] = claim
        compared = compare.compare(everything, has_run, side)
        outcomes[name] = dict(zip(compared.claim, compared.outcome, strict=True))
    findings = {
        f.id: f"results/{f.chapter}.html#{anchor(SECTIONS[f.id])}" * (f.chapter in has_run)
        for f in protocol.findings
    }
    original = {
        f"original.{row.id}": f"results/{address(row)}" * (row.chapter in has_run)
        for row in ORIGINAL
        if row.chapter in everything
    }
    rows = [(r.claim, r.original, r.target, r.source, r.kind) for r in ORIGINAL]
    claims = {claim_id: str(next(iter(of.values()))) for claim_id, of in judged.items()}
    amendments = pd.DataFrame(protocol.amendments)
    return {
        "machines.html": _machines(everything, sides),
        "headlines.html": _headlines(sides, judged),
        "findings.html": _claims(sides, judged, findings, outcomes),
        "original.html": _claims(sides, judged, original, outcomes),
        "decide.html": _decisions(sides),
        "definitions.html": "".join(map(_definition, protocol.findings)),
        "families.html": _terms(protocol.families),
        "rows.html": _table(
            pd.DataFrame(rows, columns=["claim", "original", "rule", "source", "kind"])
        ),
        "amendments.html": _table(amendments.replace({"after": claims})),
    }


def _decisions(sides: Sides) -> str:
    """The tables of the page for someone who has to decide, one for each machine."""
    texts = []
    for name, side in sides.items():
        if side:
            title = html.escape(f"{name}: {compare.machine_of(side)}")
            texts += [
                f"<h3>{title}</h3>\n",
                _table(decide.choices(side)),
                _table(decide.table(side)),
            ]
    return "".join(texts) or "<p>None.</p>\n"


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


def _headlines(sides: Sides, judged: Mapping[str, Judged]) -> str:
    """Cards of the landing page: the figures of the protocol's headlines, on each side."""
    cards = []
    for title, ids in HEADLINES.items():
        lines = [f"<h3>{title}</h3>"]
        for of_sides in map(judged.__getitem__, ids):
            own, *others = (of_sides[name] for name in sides)
            lines.append(f'<p class="figure">{html.escape(_middle(own))}</p>')
            lines.append(f"<p><b>{own.verdict}:</b> {html.escape(own.statement)}</p>")
            for name, other in zip(list(sides)[1:], others, strict=True):
                text = f"{name}: {_middle(other)}, {other.verdict}"
                lines.append(f'<p class="side">{html.escape(text)}</p>')
        cards.append('<div class="card">' + "\n".join(lines) + "</div>")
    return '<div class="cards">\n' + "\n".join(cards) + "\n</div>\n"


def _claims(
    sides: Sides, judged: Mapping[str, Judged], targets: Mapping[str, str], outcomes: Outcomes
) -> str:
    """A table of claims, one sentence each, with a column for each side; cards on a phone.

    Args:
        sides: Records by side.
        judged: Each claim on each side, by its id.
        targets: Address of the section that shows a claim, by the claim's id; "" for none.
        outcomes: How a claim of a further side compares with the first's, by side and id.
    """
    run, *others = sides
    heads = "".join(f"<th>{html.escape(text)}</th>" for text in ("verdict", "claim", *sides))
    rows = []
    for claim_id, target in targets.items():
        own = judged[claim_id][run]
        beside = f"It said: {own.original}." if own.original else f"Bound: {own.target}."
        cells = [
            f'<td class="verdict">{own.verdict}</td>',
            f"<td>{_link(target, own.statement)} <small>{html.escape(beside)}</small></td>",
            f'<td data-side="{html.escape(run)}"><span>{html.escape(figure(own))}</span></td>',
        ]
        for name in others:
            other = judged[claim_id][name]
            outcome = outcomes[name][claim_id]
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
    return "; ".join(_in_unit(claim, value) for value in claim.value.values()) or "-"


def _in_unit(claim: JudgedClaim, value: float) -> str:
    style, factor = UNITS.get(claim.unit, ("{:,.4g}", 1))
    return style.format(value * factor)


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


def _table(frame: pd.DataFrame) -> str:
    return "<p>None.</p>\n" if frame.empty else styled(frame).to_html() + "\n"
