"""What pages of the book include as HTML: claims by machine, and the protocol.

The folder `templates` has the HTML, pages.yaml says what the pages show of the claims and where.
"""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import jinja2
import msgspec
import pandas as pd
import yaml
from markupsafe import Markup

from nanorecsys.study import compare, decide
from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.layout import Layout
from nanorecsys.study.original import anchor
from nanorecsys.study.protocol import ORIGINAL, Finding, read_protocol
from nanorecsys.study.runner import SECOND_RUN
from nanorecsys.study.tables import styled

_SHOWN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
HEADLINES: dict[str, dict[str, str]] = _SHOWN["headlines"]
SECTIONS: dict[str, str] = _SHOWN["sections"]
UNITS: dict[str, tuple[str, float]] = _SHOWN["units"]


def parts(folders: Layout, results: Path, *, staged: bool = False) -> dict[str, str]:
    """The parts that the pages of a book over `results` include, by file name.

    Args:
        folders: Folders of the study.
        results: Folder of a run, or of the published results.
        staged: Whether `results` is about to replace the published results.
    """
    everything, protocol = chapters(folders), read_protocol(folders)
    sides = _sides(folders, results, staged or results == folders.published)
    run, has_run = next(iter(sides.items()))
    judged, compared, changed = {}, {}, {}
    for name, side in sides.items():
        judged[name] = {claim.id: claim for claim in compare.judge_all(everything, side)}
        compared[name] = compare.compare(everything, has_run, side).set_index("claim")
        changed[name] = compare.other_parameters(has_run, side)

    def section(chapter: str, heading: str) -> str:
        """The address of a section; empty where its chapter has not run."""
        return f"results/{chapter}.html#{anchor(heading)}" * (chapter in has_run)

    findings = {f.id: section(f.chapter, SECTIONS.get(f.id, "")) for f in protocol.findings}
    headlines = [claim_id for ids in HEADLINES.values() for claim_id in ids if claim_id in findings]
    original = {
        f"original.{row.id}": section(row.chapter, row.section)
        for row in ORIGINAL
        if row.chapter in everything
    }
    # a cell shows plain text: the marks of code would stay in it
    rows = [
        (row.claim, row.original, row.target, row.source.replace("`", ""), row.kind)
        for row in ORIGINAL
    ]
    titles = ["claim", "original", "rule", "source", "kind"]
    claims = {claim_id: f"{claim_id} {claim}" for claim_id, claim in judged[run].items()}
    # what an amendment led to is a text, or the id of a claim of this run
    amendments = [a | {"after": claims.get(a["after"], a["after"])} for a in protocol.amendments]
    templates = _templates()
    templates.globals |= {"run": run, "sides": sides, "judged": judged, "compared": compared}
    templates.globals |= {"changed": changed}
    older = {name: compare.older_definitions(everything, side) for name, side in sides.items()}

    def rendered(name: str, **values: object) -> str:
        return templates.get_template(f"{name}.html").render(values)

    return {
        "machines.html": rendered("machines", older=older),
        "headlines.html": rendered("headlines", headlines=HEADLINES),
        "by_run.html": rendered("claims", targets={name: findings[name] for name in headlines}),
        "findings.html": rendered("claims", targets=findings),
        "original.html": rendered("claims", targets=original),
        "decide.html": rendered("decide"),
        "definitions.html": rendered("definitions", protocol=protocol),
        "families.html": rendered("terms", terms=protocol.families),
        "rows.html": _table(pd.DataFrame(rows, columns=titles)),
        "amendments.html": rendered("amendments", amendments=amendments),
    }


def _templates() -> jinja2.Environment:
    """The templates, with the functions that they call."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    functions: list[Callable[..., object]] = [compare.counts, compare.machine_of, figure]
    functions += [compare.other_seeds]
    functions += [decide.choices, decide.expected, decide.large_catalogue, decide.cached]
    found.globals |= {function.__name__: function for function in functions}
    found.globals |= {"definition": _definition, "middle": _middle, "bound": _bound}
    found.globals["table"] = _table
    return found


def _sides(folders: Layout, results: Path, is_published: bool) -> dict[str, compare.Records]:
    """The records of `results`, of its second run and of what is published beside it, by title."""
    if is_published:
        places = {compare.PUBLISHED: results}
        places |= {title: results / name for name, title in compare.TITLES.items()}
    else:
        again = results.name + SECOND_RUN
        places = {results.name: results, again: folders.run(again)}
        places |= {compare.PUBLISHED: folders.published}
    found: dict[str, compare.Records] = {next(iter(places)): {}}
    for title, place in places.items():
        # there may be none, or one that was made under other definitions
        with contextlib.suppress(compare.CompareError):
            found[title] = compare.records(folders, place)
    return found


def figure(claim: JudgedClaim) -> str:
    """The figures of a claim in its unit, with their intervals, as a reader expects them."""
    if not claim.interval:
        return claim.shown
    texts = []
    for name, value in claim.value.items():
        middle, low, high = (_in_unit(claim, v) for v in (value, *claim.interval[name]))
        texts.append(f"{middle} ({low} to {high})")
    return "; ".join(texts)


def _middle(claim: JudgedClaim, style: str) -> str:
    """The figures of a claim without their intervals, in the style of its card."""
    before, number, after = re.split(r"(\{.*\})", style)
    figures = "; ".join(number.format(value) for value in claim.value.values())
    return f"{before}{figures}{after}" if figures else claim.verdict


def _bound(claim: JudgedClaim) -> str:
    """The bound of a finding in the unit of its figures."""
    operator, value = claim.target.split()
    return f"{operator} {_in_unit(claim, float(value)) if float(value) else 0}"


def _in_unit(claim: JudgedClaim, value: float) -> str:
    style, factor = UNITS.get(claim.unit, ("{:,.4g}", 1))
    return style.format(value * factor)


def _definition(finding: Finding) -> dict[str, str]:
    """The fields that define a finding, by their names in words."""
    fields = msgspec.structs.asdict(finding)
    return {name.replace("_", " "): str(value) for name, value in fields.items() if value}


def _table(frame: pd.DataFrame) -> Markup:
    return Markup("<p>None.</p>\n" if frame.empty else styled(frame).to_html() + "\n")
