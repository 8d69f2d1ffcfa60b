"""`nanorecsys run`: chapters in order, skipped when nothing that they depend on changed, each result kept whole or not.

A chapter runs in `.work/NAME-KEY` of its run's folder, where KEY is its fingerprint: after a kill
the same folder is taken up again, so that a chapter finds its own checkpoints. When the notebook
has passed the gate, `seal` moves notebook and folder to their place; it can be repeated after a
kill at any point.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import nbformat
import papermill
import psutil
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from rich.console import Console

from nanorecsys.study.chapters import Chapter, Estimate
from nanorecsys.study.fingerprint import Fingerprint, fingerprint
from nanorecsys.study.gate import check_chapter, check_executed, failure
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import OWN, ParameterError, unknown
from nanorecsys.study.progress import ChapterProgress, clock
from nanorecsys.study.records import encode, read_record, write_atomically
from nanorecsys.study.session import OUT_VARIABLE
from nanorecsys.system.environment import environment
from nanorecsys.system.errors import NanorecsysError

STATE = "run.json"
WORK = ".work"
KERNEL = {
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm asks for widgets, which no page shows
    "GOMP_SPINCOUNT": "20000",  # threads that wait spinning for longer slow a shared machine several times
}
AGAIN = "-again"  # after a run's name: the folder of its second run
READY = ".ready"  # in a work folder: it passed the gate and only has to be moved


class ChapterError(NanorecsysError):
    """A chapter that did not complete; the last good one is still in its place."""


class ResourceError(NanorecsysError):
    """Not enough memory or disk for a chapter, found before it started."""


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner keeps beside a chapter's record: what it depended on, and which files it left."""

    fingerprint: Fingerprint
    seconds: float
    files: dict[str, int]


class _Engine(NBClientEngine):
    """papermill's own engine, which also says which cell begins."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *, progress: ChapterProgress, **options: Any
    ):
        cell_start = nb_man.cell_start

        def announced(cell: Any, cell_index: int, **more: Any) -> None:
            progress.cell(cell_index, len(nb_man.nb.cells))
            cell_start(cell, cell_index, **more)

        nb_man.cell_start = announced
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register("nanorecsys", _Engine)


def load_profile(where: Layout, name: str) -> dict[str, dict[str, Any]]:
    """The parameters that profile `name` sets, by chapter.

    Raises:
        ParameterError: there is no such profile, or its file is no mapping of chapters to
            parameters.
    """
    path = where.profiles / f"{name}.yaml"
    if not path.exists():
        raise unknown(name, (p.stem for p in where.profiles.glob("*.yaml")), "run", "profile")
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, dict) or not all(
        isinstance(v, dict | None) for v in content.values()
    ):
        raise ParameterError(f"{where.relative(path)}: expected chapters, each with its parameters")
    return content


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for this process; the lock ends with it, however it ends.

    Raises:
        NanorecsysError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise NanorecsysError(
                f"another run (process {lock.read().strip()}) is writing to {run.name}",
                "wait for it, or end it",
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def state_of(chapter: Chapter, run: Path) -> RunState | None:
    """The runner's note on the last good run of `chapter` here, None if there is none or another run lends its own."""
    if (run / chapter.name).is_symlink():
        return None
    path = run / chapter.name / STATE
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def why_stale(chapter: Chapter, run: Path, now: Fingerprint) -> str:
    """Why `chapter` has to run, in words; empty if its result is up to date."""
    state = state_of(chapter, run)
    if state is None:
        return "has not run"
    if changed := now.changed_since(state.fingerprint):
        return f"changed: {changed}"
    lost = [
        n
        for n, size in state.files.items()
        if not (run / n).is_file() or (run / n).stat().st_size != size
    ]
    if lost:
        return f"lost or altered: {', '.join(lost)}"
    try:
        check_chapter(chapter, run)
    except NanorecsysError as error:
        return error.message
    return ""


def require(estimates: Mapping[str, Estimate], folder: Path) -> None:
    """Refuse work that this machine cannot finish, before any of it starts.

    Raises:
        ResourceError: names the chapter, what it needs and what there is.
    """
    memory = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(folder).free / 2**30
    needed_disk = sum(e.disk_gib for e in estimates.values())
    for name, estimate in estimates.items():
        if estimate.memory_gib > memory:
            raise ResourceError(
                f"{name} needs about {estimate.memory_gib:.1f} GiB of memory, {memory:.1f} GiB are available",
                "end other programs, or choose a smaller profile or smaller parameters",
            )
    if needed_disk > disk:
        largest = max(estimates, key=lambda n: estimates[n].disk_gib)
        raise ResourceError(
            f"these chapters need about {needed_disk:.1f} GiB of disk ({largest} most), {disk:.1f} GiB are free",
            "make room, or choose a smaller profile or smaller parameters",
        )


def run_chapters(
    where: Layout,
    run: Path,
    selected: Iterable[Chapter],
    parameters: Mapping[str, dict[str, Any]],
    console: Console,
    *,
    upstream: Path | None = None,
    first: Path | None = None,
    force: bool = False,
    resume_command: str = "",
) -> list[str]:
    """Run the selected chapters that are not up to date, in order.

    Args:
        where: the study's folders.
        run: the folder that takes the results.
        selected: chapters in their order.
        parameters: every chapter's resolved parameters.
        console: where progress goes.
        upstream: the run whose earlier chapters they read; `run` itself unless given.
        first: the run of which `run` is a repeat; it lends the chapters that are not selected.
        force: run them although they are up to date.
        resume_command: told to the user when a chapter fails.

    Returns:
        Names of the chapters that ran; the others were up to date.

    Raises:
        ResourceError: before anything runs.
        ChapterError: a chapter failed; what it held before is untouched.
    """
    upstream = upstream or run
    with locked(run):
        for work in sorted((run / WORK).glob(f"*/{READY}")):
            seal(work.parent, run)
        selected = list(selected)
        if first:
            borrow(first, run, set(parameters) - {c.name for c in selected})
        steps = plan(where, run, selected, parameters, upstream=upstream, force=force)
        require({c.name: c.estimate(parameters[c.name]) for c, why in steps if why}, run)
        ran = []
        for chapter, why in steps:
            if not why:
                _clear_work(run, chapter)
                console.print(f"{chapter.name}  up to date", highlight=False)
                continue
            if absent := [
                n for n in chapter.needs if not chapter.needs_all and not (upstream / n).is_dir()
            ]:
                raise ChapterError(
                    f"{chapter.name} reads {', '.join(absent)}, which has not run in {(first or upstream).name}",
                    f"nanorecsys run {(first or upstream).name} --from {absent[0]}",
                )
            console.print(
                f"{chapter.name}  runs: {why}", highlight=False, markup=False, soft_wrap=True
            )
            seconds = _execute(
                chapter,
                parameters[chapter.name],
                where,
                run,
                upstream,
                console,
                fresh=force,
                resume=resume_command,
            )
            console.print(f"{chapter.name}  done in {clock(seconds)}", highlight=False)
            ran.append(chapter.name)
        return ran


def borrow(first: Path, second: Path, names: Iterable[str]) -> None:
    """Link the chapters called `names` of the run `first` into the run `second`, where it has none of its own."""
    for name in (file for chapter in names for file in (chapter, f"{chapter}.ipynb")):
        if (first / name).exists() and not os.path.lexists(second / name):
            (second / name).symlink_to(os.path.relpath(first / name, second))


def plan(
    where: Layout,
    run: Path,
    selected: Iterable[Chapter],
    parameters: Mapping[str, dict[str, Any]],
    *,
    upstream: Path | None = None,
    force: bool = False,
) -> list[tuple[Chapter, str]]:
    """Each selected chapter with the reason why it has to run, empty where its result is up to date."""
    steps: list[tuple[Chapter, str]] = []
    for chapter in selected:
        before = [c.name for c, why in steps if why and c.name in chapter.needs]
        if force:
            why = "forced"
        elif before:
            why = f"{', '.join(before)} runs before it"
        else:
            why = why_stale(
                chapter, run, fingerprint(chapter, parameters[chapter.name], where, upstream or run)
            )
        steps.append((chapter, why))
    return steps


def _execute(
    chapter: Chapter,
    parameters: dict[str, Any],
    where: Layout,
    run: Path,
    upstream: Path,
    console: Console,
    *,
    fresh: bool,
    resume: str,
) -> float:
    """Run one chapter in its work folder and seal it; returns its seconds."""
    now = fingerprint(chapter, parameters, where, upstream)
    work = run / WORK / f"{chapter.name}-{now.key[:16]}"
    _clear_work(run, chapter, keep=None if fresh else work)
    work.mkdir(parents=True, exist_ok=True)
    output = work / f"{chapter.name}.ipynb"
    last = state_of(chapter, run)
    with ChapterProgress(console, chapter.name, last.seconds if last else None) as progress:
        try:
            with environment(
                {OUT_VARIABLE: str(work), "NANORECSYS_ROOT": str(where.root), **KERNEL}
            ):
                papermill.execute_notebook(
                    chapter.notebook,
                    output,
                    parameters={**now.parameters, OWN: where_name(upstream, where)},
                    engine_name="nanorecsys",
                    progress=progress,
                    stdout_file=progress,
                    stderr_file=progress,
                    progress_bar=False,
                    extra_arguments=[
                        "--IPKernelApp.log_level=ERROR"
                    ],  # it warns of TCP, which stays on this machine
                )
            check_executed(nbformat.read(output, as_version=4), chapter.name)
            read_record(work / chapter.name, chapter.result)
        except (PapermillExecutionError, DeadKernelError, NanorecsysError) as error:
            told = failure(nbformat.read(output, as_version=4)) or str(error)
            raise ChapterError(
                f"{chapter.name}: {told}\n  executed so far: {where.relative(output)}\n"
                "  the last good result, if there is one, is untouched",
                f"mend it, then resume: {resume}"
                if resume
                else "mend it, then run the same command again",
            ) from error
        seconds = progress.seconds
    _finish(work, chapter, now, seconds, where)
    seal(work, run)
    return seconds


def _clear_work(run: Path, chapter: Chapter, keep: Path | None = None) -> None:
    """Remove the work folders of `chapter`, but for the one to take up again."""
    for work in (run / WORK).glob(f"{chapter.name}-*"):
        if work != keep:
            shutil.rmtree(work)


def where_name(run: Path, where: Layout) -> str:
    """A run's name as a notebook's `run` parameter takes it: its folder below `data/runs`."""
    return run.relative_to(where.runs).as_posix()


def _finish(work: Path, chapter: Chapter, now: Fingerprint, seconds: float, where: Layout) -> None:
    """Complete a work folder: scrub this machine's paths from the notebook, note the state, mark it ready."""
    path = work / f"{chapter.name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.papermill.update(
        input_path=where.relative(chapter.notebook), output_path=path.name, environment_variables={}
    )
    write_atomically(path, nbformat.writes(notebook).replace(str(where.root), ".").encode())
    found = (
        p for p in work.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != STATE
    )
    files = {p.relative_to(work).as_posix(): p.stat().st_size for p in found}
    state = RunState(fingerprint=now, seconds=round(seconds, 2), files=files)
    write_atomically(work / chapter.name / STATE, encode(state))
    write_atomically(work / READY, b"")


def seal(work: Path, run: Path) -> None:
    """Move a ready work folder's notebook and results to their place in `run`; safe to repeat after a kill."""
    name = work.name.rpartition("-")[0]
    if (work / name).is_dir():
        old = work / "replaced"
        if (run / name).exists():
            os.rename(run / name, old)  # after a kill here the next run finds `ready` and goes on
        os.rename(work / name, run / name)
    if (work / f"{name}.ipynb").exists():
        os.replace(work / f"{name}.ipynb", run / f"{name}.ipynb")
    shutil.rmtree(work)
