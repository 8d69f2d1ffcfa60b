"""The book: assemble its sources with a run's executed notebooks, and build it strictly."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from nanorecsys.study import compare
from nanorecsys.study.chapters import Chapter, chapters
from nanorecsys.study.gate import check_chapter
from nanorecsys.study.layout import Layout
from nanorecsys.study.pages import parts
from nanorecsys.study.records import FILE
from nanorecsys.study.runner import STATE, command, locked
from nanorecsys.study.summary import size_mib
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.files import write_atomically

RESULTS = "book/results"
STRICT = ("--all", "-W", "-n", "--keep-going")  # warnings are errors, all of them are shown
RESULT_FILES = (".json", ".csv", ".svg")  # copied into the book; raw rows stay in the run


class BookError(NanorecsysError):
    """The book cannot be built, or results may not be published."""


def build(folders: Layout, run: str | None, console: Console) -> Path:
    """Build the book over the run called `run`, or over the published results.

    The last good pages stay in place until the new ones are complete.

    Returns:
        Folder of the pages, `_build/NAME/html`.

    Raises:
        BookError: Sphinx warns.
        GateError, RecordError: A chapter has not run, or its notebook may not be shown.
    """
    results = folders.run(run) if run else folders.published
    work = folders.build / (run or compare.PUBLISHED)
    source, pages = work / "source", work / "html"
    console.print(f"book  builds from {folders.relative(results)}", highlight=False)
    shutil.rmtree(source, ignore_errors=True)
    assemble(folders, results, source)
    html = _sphinx(folders, work)
    shutil.rmtree(pages, ignore_errors=True)
    html.rename(pages)
    console.print(f"book  open {folders.relative(pages)}/index.html", highlight=False)
    return pages


def _sphinx(folders: Layout, work: Path) -> Path:
    """Build `work`/source with warnings as errors; returns the folder of the pages."""
    output, log = work / "output", work / "build.log"
    shutil.rmtree(output, ignore_errors=True)
    command: list[str | Path] = [Path(sys.executable).with_name("jupyter-book"), "build"]
    command += [work / "source", "--path-output", output, *STRICT]
    with log.open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=file)
    if done.returncode:
        lines = log.read_text().replace(str(work / "source"), ".").splitlines()
        problems = [f"    {line}" for line in lines if "WARNING" in line or "ERROR" in line][:20]
        raise BookError(
            "\n".join([f"Sphinx ended with {done.returncode}:", *problems]),
            f"the whole log: {folders.relative(log)}",
        )
    return output / "_build" / "html"


def assemble(folders: Layout, results: Path, source: Path) -> None:
    """Lay out a Sphinx source: hand-written pages, the notebooks of `results`, the contents.

    Raises:
        GateError, RecordError: A chapter has not run, or its notebook may not be shown.
    """
    other_than_pages = shutil.ignore_patterns("results", ".results-*")
    shutil.copytree(folders.root / "book", source / "book", ignore=other_than_pages)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(folders.root / name, source)
    for chapter in chapters(folders).values():
        check_chapter(chapter, results, raw_rows=results != folders.published)
        copy_results(chapter, results, source / RESULTS)
    write_parts(folders, results, source / RESULTS)


def copy_results(chapter: Chapter, results: Path, target: Path) -> None:
    """Copy a chapter's executed notebook and result files, without raw rows."""
    (target / chapter.name).mkdir(parents=True, exist_ok=True)
    shutil.copy(results / f"{chapter.name}.ipynb", target)
    for path in (results / chapter.name).iterdir():
        if path.suffix in RESULT_FILES and path.name != STATE:
            shutil.copy(path, target / chapter.name)


def write_parts(folders: Layout, results: Path, target: Path, *, staged: bool = False) -> None:
    """Write the parts that the pages of a book over `results` include; for `staged` see `parts`."""
    for name, text in parts(folders, results, staged=staged).items():
        write_atomically(target / name, text.encode())


def publish(folders: Layout, run: str, console: Console) -> None:
    """Replace the published results by those of a finished run, if all of it is valid.

    Records of an earlier second run are removed; those from another machine stay.

    Raises:
        BookError: It ran on more than one machine or with changes that were not committed.
        CompareError, GateError, RecordError: A record is missing or may not be shown. After any
            of these errors the published results are unchanged.
    """
    results, other = folders.run(run), folders.published / compare.OTHER_MACHINE
    records, parent = compare.records(folders, results), folders.published.parent
    with locked(results), tempfile.TemporaryDirectory(prefix=".results-", dir=parent) as hidden:
        staged, made = Path(hidden, "results"), {}
        for name, chapter in chapters(folders).items():
            made[name] = check_chapter(chapter, results)
            copy_results(chapter, results, staged)
        _check_provenance(run, made)
        machine = compare.machine_of(records)
        if other.is_dir() and compare.machine_of(compare.records(folders, other)) != machine:
            shutil.copytree(other, staged / compare.OTHER_MACHINE)
        write_parts(folders, staged, staged, staged=True)
        shutil.rmtree(folders.published, ignore_errors=True)
        staged.rename(folders.published)
    size = f"{size_mib(folders.published):.1f} MiB in {folders.relative(folders.published)}"
    console.print(f"published {run}: {size}", highlight=False)


def publish_beside(folders: Layout, run: str, place: str, console: Console) -> None:
    """Publish the records of another run beside the published results, for comparison.

    Args:
        folders: Folders of the study.
        run: Name of the run.
        place: `compare.REPEATED` for a second run, which has all chapters and the same parameters
            but seeds; `compare.OTHER_MACHINE` for a run on another machine.
        console: Console for messages.

    Raises:
        BookError: The run is not what its place asks for, was on more than one machine or with
            changes that were not committed.
        CompareError, GateError, RecordError: A record is missing or may not be shown. After any
            of these errors the published results are unchanged.
    """
    results = folders.run(run)
    records, first = (compare.records(folders, found) for found in (results, folders.published))
    _check_provenance(run, records)
    machine = compare.machine_of(records)
    if place == compare.REPEATED:
        _check_second_run(folders, run, records, first)
    elif machine == compare.machine_of(first):
        raise BookError(f"{run} did not run on another machine, but on {machine}")
    _copy_records(folders, results, folders.published / place)
    write_parts(folders, folders.published, folders.published)
    console.print(f"published the records of {run} ({machine})", highlight=False)


def _check_provenance(run: str, records: compare.Records) -> None:
    """Check that a run was on one machine from beginning to end, and all its code committed."""
    again = f"{command(run)} --force"
    if len(machines := compare.machines_of(records)) > 1:
        raise BookError(
            f"{run} ran on more than one machine: {'; '.join(machines)}",
            f"run all of it on one machine: {again}",
        )
    changed = [name for name, r in records.items() if r.provenance.commit.endswith("+")]
    if changed:
        raise BookError(
            f"{run}: {', '.join(changed)} ran with changes that were not committed",
            f"commit them or take them back, then {again}",
        )


def _check_second_run(
    folders: Layout, run: str, records: compare.Records, first: compare.Records
) -> None:
    """Check that a second run is whole, with the parameters of the first but seeds."""
    if missing := ", ".join(sorted(first.keys() - records.keys())):
        raise BookError(f"{run} has not run {missing}", command(run))
    for name, chapter in chapters(folders).items():
        if changed := compare.changed_parameters(chapter, records, first):
            raise BookError(f"{run}: {name} ran with another {', '.join(changed)}")


def _copy_records(folders: Layout, results: Path, target: Path) -> None:
    """Replace the folder `target` by the records of a run, if its notebooks may be shown."""
    names = compare.records(folders, results)
    with locked(results):
        for name in names:
            check_chapter(chapters(folders)[name], results)
        shutil.rmtree(target, ignore_errors=True)
        for name in names:
            (target / name).mkdir(parents=True)
            shutil.copy(results / name / FILE, target / name)


def check_run(folders: Layout, run: str | None) -> list[str]:
    """Problems of a run, or of the published results."""
    results = folders.run(run) if run else folders.published
    problems = []
    for chapter in chapters(folders).values():
        try:
            check_chapter(chapter, results, raw_rows=run is not None)
        except NanorecsysError as error:
            problems.append(str(error))
    for part in (compare.REPEATED, compare.OTHER_MACHINE):
        if run is None and (results / part).is_dir():
            try:
                compare.records(folders, results / part)
            except compare.CompareError as error:
                problems.append(str(error))
    return problems
