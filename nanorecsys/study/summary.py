"""The summary over a run's records: judged claims, a row a run, one tidy table of every figure."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from nanorecsys.study import doctor
from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import JudgedClaim, judge
from nanorecsys.study.records import FILE, Record, encode, read_record, write_atomically
from nanorecsys.study.session import Session
from nanorecsys.study.tables import Table, cell, code, link, table

VERDICTS = {
    "holds": "holds",
    "limited": "holds with a limit",
    "fails": "does not hold",
    "not_run": "not run",
}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Result of chapter 07: how many chapters had run, and how many claims got which verdict."""

    chapters_run: list[str]
    chapters_missing: list[str]
    verdicts: dict[str, int]


class Collected(msgspec.Struct, frozen=True):
    """A chapter of the study, its record in this run, None where it has not run, and what its folder takes."""

    chapter: Chapter
    record: Record | None
    disk_mib: float = 0.0


def collect(session: Session) -> list[Collected]:
    """The chapters before this one, in order, each with its record if it has run."""
    run = session.where.run(session.parameters["run_name"])
    earlier = [c for c in chapters(session.where).values() if c.name < session.name]
    return [
        Collected(c, read_record(run / c.name, c.result), size_mib(run / c.name))
        if (run / c.name / FILE).exists()
        else Collected(c, None)
        for c in earlier
    ]


def size_mib(folder: Path) -> float:
    """What the files in a folder and below take, MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def judged_claims(collected: list[Collected]) -> list[JudgedClaim]:
    """Every claim of every chapter with its verdict."""
    return [
        row
        for item in collected
        for row in judge(item.chapter.name, item.chapter.claims, item.record and item.record.result)
    ]


def summarise(collected: list[Collected], claims: list[JudgedClaim]) -> Summary:
    """The counts that the record keeps."""
    counts = Counter(claim.verdict for claim in claims)
    return Summary(
        chapters_run=[c.chapter.name for c in collected if c.record],
        chapters_missing=[c.chapter.name for c in collected if not c.record],
        verdicts={verdict: counts[verdict] for verdict in VERDICTS},
    )


def write_files(
    session: Session, collected: list[Collected], claims: list[JudgedClaim]
) -> dict[str, str]:
    """Write claims.json and results.csv (chapter, figure, value) and return them as the record's files."""
    write_atomically(session.path("claims.json"), encode(claims))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("chapter", "figure", "value"))
    for item in collected:
        if item.record:
            rows = flatten(msgspec.to_builtins(item.record.result))
            writer.writerows((item.chapter.name, figure, value) for figure, value in rows)
    write_atomically(session.path("results.csv"), text.getvalue().encode())
    return {"claims": "claims.json", "results": "results.csv"}


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and scalars of nested mappings; lists are raw rows, not figures, and left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (int, float, str)):
        yield prefix, value


def claims_table(claims: list[JudgedClaim]) -> Table:
    """Claims as a table for the page."""
    return table(
        ("id", "claim", "original", "this run", "target", "verdict"),
        (
            (
                code(c.id),
                c.statement,
                c.original,
                figure(c),
                f"{c.target} {c.unit}".strip(),
                VERDICTS[c.verdict],
            )
            for c in claims
        ),
        align="lwlrll",
        stacked=True,
    )


def runs_table(collected: list[Collected]) -> Table:
    """One row a notebook: when, from which commit, how long, how much memory, what it left on the disk; and all."""
    rows: list[tuple[Any, ...]] = []
    for item in collected:
        if item.record:
            p = item.record.provenance
            started = p.started_utc[:16].replace("T", " ")
            used = (round(p.seconds), round(p.peak_rss_mib), round(item.disk_mib))
            rows.append((item.chapter.name, started, code(p.commit), *used))
        else:
            rows.append((item.chapter.name, "not run", None, None, None, None))
    disk = round(sum(item.disk_mib for item in collected))
    rows.append(
        (
            "all",
            None,
            None,
            round(60 * total_minutes(collected)),
            round(1024 * peak_gib(collected)),
            disk,
        )
    )
    header = (
        "chapter",
        "started (UTC)",
        "commit",
        "seconds",
        "largest process, MiB",
        "left on disk, MiB",
    )
    return table(header, rows, align="lllrrr", stacked=True)


def parameters_table(collected: list[Collected]) -> Table:
    """Every parameter of every notebook: meaning, default and the value of this run, where it had one then."""
    rows = [
        (
            code(f"{item.chapter.name}.{name}"),
            p.help,
            code(repr(p.default)),
            code(repr(item.record.parameters[name])),
        )
        for item in collected
        if item.record
        for name, p in item.chapter.settable.items()
        if name in item.record.parameters
    ]
    return table(("parameter", "meaning", "default", "this run"), rows, align="lw", stacked=True)


def headline_table(collected: list[Collected]) -> Table:
    """The figures that each chapter puts first, in its own words."""
    rows = [
        (link(item.chapter.name, f"{item.chapter.name}.html"), label, figure)
        for item in collected
        if item.record
        for label, figure in import_module(f"{item.chapter.package}.chapter").headline(
            item.record.result
        )
    ]
    return table(("chapter", "figure", "this study"), rows, align="lwr")


def hardware(collected: list[Collected]) -> str:
    """The machine that the chapters ran on; each, where there was more than one."""
    lines = dict.fromkeys(str(c.record.provenance.machine) for c in collected if c.record)
    return "; ".join(lines) or "no machine yet"


def total_minutes(collected: list[Collected]) -> float:
    """What the chapters took together."""
    return sum(c.record.provenance.seconds for c in collected if c.record) / 60


def peak_gib(collected: list[Collected]) -> float:
    """The most memory that a chapter took."""
    return (
        max((c.record.provenance.peak_rss_mib for c in collected if c.record), default=0.0) / 1024
    )


def environment_table() -> Table:
    """What `nanorecsys doctor` said on the machine of this run."""
    return table(
        ("check", "found", "status"), ((c.name, c.value, c.status) for c in doctor.examine())
    )


def figure(claim: JudgedClaim) -> str:
    """A claim's value as the pages show it."""
    return cell(
        None
        if claim.value is None
        else int(claim.value)
        if claim.value.is_integer()
        else claim.value
    )
