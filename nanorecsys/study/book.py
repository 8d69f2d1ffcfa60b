"""The book: assemble its sources with a run's executed notebooks, build it strictly, check what came out."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
import yaml
from bs4 import BeautifulSoup
from rich.console import Console

from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.compare import (
    OTHER_MACHINE,
    PUBLISHED,
    SECOND,
    machine_of,
    other_parameters,
    parts,
    records,
)
from nanorecsys.study.doctor import chromium
from nanorecsys.study.gate import check_chapter
from nanorecsys.study.layout import Layout
from nanorecsys.study.records import FILE, write_atomically
from nanorecsys.study.runner import AGAIN, STATE, locked
from nanorecsys.study.summary import VERDICTS, figure, size_mib
from nanorecsys.system.errors import NanorecsysError

RESULTS = "book/results"
SUMMARY = "07_summary"
PRINT_S = 120  # longest that printing may take
RESULT_FILES = ("*.json", "*.csv")  # what the pages offer for download; raw rows stay in the run


class BookError(NanorecsysError):
    """The book cannot be built, or what was built is wrong."""


def build(where: Layout, run: str | None, console: Console) -> Path:
    """Build the book over the run called `run`, or over the published results, and check it.

    The last good pages stay in place until the new ones have passed.

    Returns:
        The folder of the pages, `_build/NAME/html`.

    Raises:
        BookError: no summary in that run, a warning of Sphinx, or a page that fails `check_html`.
        GateError, RecordError: a notebook that may not be shown.
    """
    name = run or PUBLISHED
    results = where.run(run) if run else where.published
    if not (results / f"{SUMMARY}.ipynb").exists():
        raise BookError(
            f"{name} has no {SUMMARY}: the pages take their numbers from it",
            f"nanorecsys run {name}" if run else "nanorecsys publish PROFILE",
        )
    work = where.build / name
    source, output = work / "source", work / "output"
    console.print(f"book  builds from {where.relative(results)}", highlight=False)
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(output, ignore_errors=True)
    assemble(where, results, source)
    html = _sphinx(where, source, output, "html")
    if problems := check_html(html, source / RESULTS):
        raise BookError("the pages are wrong:\n" + "\n".join(f"    {p}" for p in problems[:30]))
    pages = work / "html"
    shutil.rmtree(pages, ignore_errors=True)
    html.rename(pages)
    shutil.rmtree(output)
    console.print(f"book  open {where.relative(pages)}/index.html", highlight=False)
    return pages


def print_pdf(where: Layout, run: str | None, console: Console) -> Path:
    """Print the book that `build` has built last over `run` into one file, `_build/NAME/nanorecsys.pdf`.

    Raises:
        BookError: there is no Chromium, which prints, or it fails; or a warning of Sphinx.
    """
    browser = chromium()
    if browser is None:
        raise BookError(
            "a PDF is printed by Chromium, and there is none", "apt-get install chromium"
        )
    work = where.build / (run or PUBLISHED)
    output, pdf = work / "output", work / "nanorecsys.pdf"
    shutil.rmtree(output, ignore_errors=True)
    html = _sphinx(where, work / "source", output, "singlehtml")
    first = yaml.safe_load((work / "source" / "_toc.yml").read_text())["root"]
    page = (html / f"{first}.html").replace(
        html / "index.html"
    )  # its links are relative to the folder of all
    options = [
        "--headless",
        "--no-pdf-header-footer",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    printed = output / pdf.name
    command = [browser, *options, f"--print-to-pdf={printed}", page.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PRINT_S)
    except subprocess.TimeoutExpired:
        raise BookError(
            f"Chromium did not print in {PRINT_S} s", "print the pages from a browser"
        ) from None
    if done.returncode or not printed.exists():
        raise BookError(
            f"Chromium ended with {done.returncode}: {done.stderr.strip()[-500:]}",
            "print the pages from a browser",
        )
    printed.replace(pdf)
    shutil.rmtree(output)
    console.print(f"book  printed to {where.relative(pdf)}", highlight=False)
    return pdf


def _sphinx(where: Layout, source: Path, output: Path, builder: str) -> Path:
    """Build the source strictly; the folder of what came out."""
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        source,
        "--path-output",
        output,
    ]
    log = source.parent / "build.log"
    with log.open("wb") as file:
        strict = ("--all", "-W", "-n", "--keep-going", "--builder", builder)
        done = subprocess.run([*command, *strict], stdout=file, stderr=file)
    if done.returncode:
        told = [
            line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line
        ]
        shown = "\n".join(f"    {line.replace(str(source), '.')}" for line in told[:20])
        raise BookError(
            f"Sphinx ended with {done.returncode}:\n{shown}",
            f"the whole log: {where.relative(log)}",
        )
    return output / "_build" / builder


def assemble(where: Layout, results: Path, source: Path) -> None:
    """Lay out a Sphinx source: hand-written pages, those notebooks of `results` that may be shown, a fitting contents.

    Raises:
        GateError, RecordError: a notebook of `results` may not be shown.
    """
    shutil.copytree(where.root / "book", source / "book", ignore=shutil.ignore_patterns("results"))
    shutil.copy(where.root / "_config.yml", source)
    shown = [c for c in chapters(where).values() if (results / f"{c.name}.ipynb").exists()]
    for chapter in shown:
        check_chapter(chapter, results, raw_rows=results != where.published)
        copy_results(chapter, results, source / RESULTS)
    write_parts(where, results, source / RESULTS)
    contents = yaml.safe_load((where.root / "_toc.yml").read_text())
    names = {f"{RESULTS}/{c.name}" for c in shown}
    for part in contents["parts"]:
        part["chapters"] = [
            e for e in part["chapters"] if not e["file"].startswith(RESULTS) or e["file"] in names
        ]
    contents["parts"] = [part for part in contents["parts"] if part["chapters"]]
    (source / "_toc.yml").write_text(yaml.safe_dump(contents, sort_keys=False))


def copy_results(chapter: Chapter, results: Path, target: Path) -> None:
    """Copy a chapter's executed notebook and its result files, without raw rows and the runner's note."""
    (target / chapter.name).mkdir(parents=True, exist_ok=True)
    shutil.copy(results / f"{chapter.name}.ipynb", target)
    for pattern in RESULT_FILES:
        for path in sorted((results / chapter.name).glob(pattern)):
            if path.name != STATE:
                shutil.copy(path, target / chapter.name)


def copy_second(where: Layout, first: Path, second: Path, target: Path) -> None:
    """Copy the records of a second run, but for the chapters that the first lent it.

    Raises:
        BookError: it has no chapter of its own, or one at other parameters.
        CompareError, GateError: it has no record, or one that may not be shown.
    """
    before, after = records(where, first), records(where, second)
    own = [
        c
        for c in chapters(where).values()
        if c.name in after and not (second / c.name).is_symlink()
    ]
    if not own:
        raise BookError(
            f"{second.name} has only what {first.name} lent it",
            f"nanorecsys run {first.name} --again",
        )
    for chapter in own:
        check_chapter(chapter, second)
        if changed := other_parameters(chapter, before, after):
            raise BookError(
                f"{second.name}: {chapter.name} ran at another {', '.join(changed)} than in {first.name}",
                f"nanorecsys run {first.name} --again --only {chapter.name}",
            )
        copy_record(chapter, second, target)


def copy_record(chapter: Chapter, results: Path, target: Path) -> None:
    """Copy a chapter's record alone."""
    (target / chapter.name).mkdir(parents=True)
    shutil.copy(results / chapter.name / FILE, target / chapter.name)


def write_parts(where: Layout, results: Path, target: Path) -> None:
    """Write what hand-written pages take in of `results` into the folder `target`."""
    for name, text in parts(where, results).items():
        write_atomically(target / name, text.encode())


def publish(where: Layout, run: str, console: Console, *, again: bool = False) -> None:
    """Replace the published results by those of a finished run: every chapter there, whole and valid.

    Args:
        where: the study's folders.
        run: name of the run.
        console: where it is told.
        again: with them the records of that run's repeat; a second run that was published before is
            gone otherwise. One on another machine stays, unless this run's machine is that one.

    Raises:
        BookError: a chapter of the study has not run, or the repeat is none.
        CompareError: the records from another machine are damaged, or of another version.
        GateError, RecordError: one may not be shown; what was published is untouched then.
    """
    results = _existing(where, run)
    staged = where.published.with_name(".results")
    with locked(results):
        shutil.rmtree(staged, ignore_errors=True)
        for chapter in chapters(where).values():
            check_chapter(chapter, results)
            copy_results(chapter, results, staged)
        if again:
            copy_second(where, results, where.run(run + AGAIN), staged / SECOND)
        other = where.published / OTHER_MACHINE
        if other.is_dir() and machine_of(records(where, other)) != machine_of(
            records(where, results)
        ):
            shutil.copytree(other, staged / OTHER_MACHINE)
        shutil.rmtree(where.published, ignore_errors=True)
        staged.rename(where.published)
        write_parts(where, where.published, where.published)
    console.print(
        f"published {run}: {size_mib(where.published):.1f} MiB in {where.relative(where.published)}",
        highlight=False,
    )


def publish_other_machine(where: Layout, run: str, console: Console) -> None:
    """Lay the records of a run on another machine beside the published results, for the comparison's page.

    Args:
        where: the study's folders.
        run: name of the run; chapters that have not run are left out.
        console: where it is told.

    Raises:
        BookError: it has not run, or ran on the machine of the published results.
        CompareError, GateError, RecordError: there is no record in one of the two, or one that may
        not be shown; what
            was published is untouched then.
    """
    results, target = _existing(where, run), where.published / OTHER_MACHINE
    with locked(results):
        found = records(where, results)
        machine = machine_of(found)
        if machine == machine_of(records(where, where.published)):
            raise BookError(
                f"{run} ran on the machine of the published results, {machine}",
                f"a second run on one machine: nanorecsys publish {run} --again",
            )
        measured = [chapters(where)[name] for name in found]
        for chapter in measured:
            check_chapter(chapter, results)
        shutil.rmtree(target, ignore_errors=True)
        for chapter in measured:
            copy_record(chapter, results, target)
    write_parts(where, where.published, where.published)
    console.print(f"laid {run} ({machine}) beside the published results", highlight=False)


def _existing(where: Layout, run: str) -> Path:
    """Where a run's results lie, before anything is locked or written there; BookError if it never ran."""
    results = where.run(run)
    if not results.is_dir():
        raise BookError(f"{run} has not run", f"nanorecsys run {run}")
    return results


def check_run(where: Layout, run: str | None) -> list[str]:
    """What is wrong with a run, or with the published results, and with pages built since: a line a problem."""
    results = where.run(run) if run else where.published
    problems = []
    for chapter in chapters(where).values():
        try:
            check_chapter(chapter, results, raw_rows=run is not None)
        except NanorecsysError as error:
            problems.append(str(error))
    if not problems and run is None:
        stale = [n for n, text in parts(where, results).items() if _text(results / n) != text]
        problems += (
            f"{where.relative(results / name)} is not what the records say: publish again"
            for name in stale
        )
    pages = where.build / (run or PUBLISHED) / "html"
    summary = results / f"{SUMMARY}.ipynb"
    if (
        not problems and pages.is_dir() and pages.stat().st_mtime >= summary.stat().st_mtime
    ):  # not of an older run
        problems += check_html(pages, results)
    return problems


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def check_html(html: Path, results: Path) -> list[str]:
    """What is wrong with built pages: missing ones, numbers that differ from the JSON, dead links, foreign requests.

    Args:
        html: the built pages.
        results: the result files that they were built from.
    """
    pages = {
        path: BeautifulSoup(path.read_text(), "html.parser")
        for path in sorted(html.rglob("*.html"))
        if "_static" not in path.parts
    }
    expected = [
        html / "book" / f"{name}.html"
        for name in ("intro", "claims", "runs", "compare", "environment", "api")
    ]
    expected += [html / RESULTS / f"{path.stem}.html" for path in results.glob("*.ipynb")]
    problems = [f"{path.relative_to(html)} was not built" for path in expected if path not in pages]
    if not problems:
        problems += _check_claims(pages[html / "book" / "claims.html"], results)
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        problems += (
            f"{path.relative_to(html)}: {problem}"
            for problem in _check_links(path, page, anchors, html)
        )
    return problems


def _check_claims(page: BeautifulSoup, results: Path) -> Iterator[str]:
    """Each claim's row must show the value and the verdict of claims.json."""
    rows = {}
    for row in page.select("table tr"):
        cells = [cell.get_text(" ", strip=True) for cell in row.find_all(["td", "th"])]
        rows[cells[0]] = cells
    claims = msgspec.json.decode(
        (results / SUMMARY / "claims.json").read_bytes(), type=list[JudgedClaim]
    )
    for claim in claims:
        shown = rows.get(claim.id)
        if shown is None:
            yield f"claims.html: no row for {claim.id}"
        elif figure(claim) not in shown or VERDICTS[claim.verdict] not in shown:
            yield f"claims.html: {claim.id} shows {shown[3:]}, claims.json has {claim.value} ({claim.verdict})"


def _check_links(
    path: Path, page: BeautifulSoup, anchors: dict[Path, set[str]], html: Path
) -> Iterator[str]:
    """Links that lead nowhere, and files that a reader without a network would lack."""
    for tag in page.find_all(["a", "img", "script", "link", "source", "iframe"]):
        target = tag.get("href") if tag.name in ("a", "link") else tag.get("src")
        if not target or target.startswith(("mailto:", "data:", "javascript:")):
            continue
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            if tag.name != "a":
                yield f"asks another host for {target}"
            continue
        file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        file = file / "index.html" if file.is_dir() else file
        if not file.is_relative_to(html.resolve()) or not file.exists():
            yield f"dead link {target}"
        elif parts.fragment and file in anchors and unquote(parts.fragment) not in anchors[file]:
            yield f"dead anchor {target}"
