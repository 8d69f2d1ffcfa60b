"""`nanorecsys run`: chapters in order, unchanged ones skipped, each result whole or not kept.

A chapter runs in `.work/NAME-KEY` of its run's folder, where KEY is its fingerprint: after a kill
the same folder is used again, so that a chapter finds its own checkpoints. When the notebook has
passed the gate, `seal` moves notebook and folder to their place; it can be repeated after a kill at
any point.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from papermill.exceptions import PapermillExecutionError
from rich.console import Console

from nanorecsys.study.chapters import Chapter, Estimate
from nanorecsys.study.fingerprint import Fingerprint, fingerprint
from nanorecsys.study.gate import check_chapter, check_executed
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import RUN_NAME, ParameterError, unknown
from nanorecsys.study.progress import ChapterProgress, clock
from nanorecsys.study.records import encode, read_record
from nanorecsys.study.session import OUT_VARIABLE
from nanorecsys.system import limits
from nanorecsys.system.environment import environment
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.files import write_atomically

STATE = "run.json"
WORK = ".work"
READY = ".ready"  # in a work folder that passed the gate and only has to be moved
SECOND_RUN = "-again"  # after a run's name: the folder of its second run
TRACE_LINES = 20  # last lines of a failed cell's traceback in a message
KERNEL = {
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm asks for widgets, which no page shows
    # threads that spin longer while they wait slow down a shared machine several times
    "GOMP_SPINCOUNT": "20000",
}
# The kernel warns of TCP, which stays on this machine, and logs its own shutdown. While it shuts
# down it may use a socket that another of its threads has just closed; tornado logs this.
QUIET_KERNEL = [
    "--IPKernelApp.log_level=CRITICAL",
    "--IPKernelApp.exec_lines=__import__('logging').getLogger('tornado').setLevel('CRITICAL')",
]


class ChapterError(NanorecsysError):
    """A chapter that did not complete; its last good result is still in place."""


class ResourceError(NanorecsysError):
    """Not enough memory or disk for a chapter, found before it started."""


@dataclass(frozen=True)
class Run:
    """A run of the study.

    Args:
        folders: Folders of the study.
        folder: Folder for the results, where a chapter also finds those of earlier ones.
        parameters: Resolved parameters by chapter.
        force: Whether to run chapters that are up to date.
    """

    folders: Layout
    folder: Path
    parameters: Mapping[str, dict[str, Any]]
    force: bool = False

    def fingerprint(self, chapter: Chapter) -> Fingerprint:
        """What the result of `chapter` in this run depends on now."""
        return fingerprint(chapter, self.parameters[chapter.name], self.folders, self.folder)

    def work(self, chapter: Chapter, now: Fingerprint) -> Path:
        """The folder that `chapter` runs in, and resumes in while its fingerprint is `now`."""
        return self.folder / WORK / f"{chapter.name}-{now.key[:16]}"


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The runner's note beside a record.

    Args:
        fingerprint: What the chapter depended on.
        seconds: Time that it took.
    """

    fingerprint: Fingerprint
    seconds: float


def command(run: str) -> str:
    """The command that runs the chapters of the run called `run`."""
    return f"nanorecsys run {run}".replace(SECOND_RUN, " --again")


def load_profile(folders: Layout, name: str) -> dict[str, dict[str, Any] | None]:
    """The parameters that profile `name` sets, by chapter.

    Raises:
        ParameterError: There is no such profile, or its file does not map chapters to parameters.
    """
    path = folders.profiles / f"{name}.yaml"
    if not path.exists():
        raise unknown(name, (p.stem for p in folders.profiles.glob("*.yaml")), "run", "profile")
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=dict[str, dict[str, Any] | None])
    except msgspec.DecodeError as error:
        message = f"{folders.relative(path)}: expected chapters, each with its parameters"
        raise ParameterError(message) from error


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for this process; the lock ends with the process.

    Raises:
        NanorecsysError: Another process holds it.
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
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield


def state_of(chapter: Chapter, run: Path) -> RunState | None:
    """The runner's note on `chapter` in this run, None if it has not run here."""
    try:
        return msgspec.json.decode((run / chapter.name / STATE).read_bytes(), type=RunState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def why_stale(chapter: Chapter, run: Path, now: Fingerprint) -> str:
    """Why `chapter` has to run, in words; empty if its result is up to date."""
    state = state_of(chapter, run)
    if state is None:
        return "has not run"
    if changed := now.changed_since(state.fingerprint):
        return f"changed: {changed}"
    try:
        check_chapter(chapter, run)
    except NanorecsysError as error:
        return error.message
    return ""


def require(estimates: Mapping[str, Estimate], folder: Path) -> None:
    """Refuse work that this machine cannot finish, before any of it starts.

    Raises:
        ResourceError: Names the chapter, what it needs and what is available.
    """
    memory, disk = limits.available_bytes() / 2**30, shutil.disk_usage(folder).free / 2**30
    for name, estimate in estimates.items():
        needs = {"memory": (estimate.memory_gib, memory), "disk": (estimate.disk_gib, disk)}
        for kind, (needed, available) in needs.items():
            if needed > available:
                raise ResourceError(
                    f"{name} needs about {needed:.1f} GiB of {kind}, "
                    f"{available:.1f} GiB is available",
                    "make room, or choose a smaller profile or smaller parameters",
                )
        disk -= estimate.disk_gib  # stays after the chapter


def run_chapters(run: Run, selected: Iterable[Chapter], console: Console) -> list[str]:
    """Run the selected chapters that are not up to date, in order.

    Args:
        run: Run that they belong to.
        selected: Chapters in their order.
        console: Console for progress.

    Returns:
        Names of the chapters that ran; the others were up to date.

    Raises:
        ResourceError: Before anything runs.
        ChapterError: A chapter failed; its last good result is untouched.
    """
    selected, folder = list(selected), run.folder
    with locked(folder):
        for work in sorted((folder / WORK).glob(f"*/{READY}")):
            seal(work.parent, folder)
        planned = plan(run, selected)
        stale = [chapter for chapter, why in planned if why]
        require({c.name: c.module.estimate(run.parameters[c.name]) for c in stale}, folder)
        for chapter, why in planned:
            if not why:
                _clear_work(folder, chapter)
                console.print(f"{chapter.name}  up to date", highlight=False)
                continue
            missing = [n for n in chapter.needs if not (folder / n).is_dir()]
            if missing and not chapter.is_summary:
                name = folder.name
                raise ChapterError(
                    f"{chapter.name} reads {', '.join(missing)}, which has not run in {name}",
                    f"{command(name)} --from {missing[0]}",
                )
            message = f"{chapter.name}  runs: {why}"
            console.print(message, highlight=False, markup=False, soft_wrap=True)
            now = run.fingerprint(chapter)
            work = run.work(chapter, now)
            _clear_work(folder, chapter, keep=None if run.force else work)
            work.mkdir(parents=True, exist_ok=True)
            last = state_of(chapter, folder)
            expected_s = last.seconds if last else None
            # papermill adds a cell with the parameters
            n_cells = len(nbformat.read(chapter.notebook, as_version=4).cells) + 1
            with ChapterProgress(console, chapter.name, n_cells, expected_s) as progress:
                _execute(chapter, run, work, progress)
            _finish(work, chapter, now, progress.seconds, run.folders)
            seal(work, folder)
            console.print(f"{chapter.name}  done in {clock(progress.seconds)}", highlight=False)
    return [chapter.name for chapter in stale]


def plan(run: Run, selected: Iterable[Chapter]) -> list[tuple[Chapter, str]]:
    """Each selected chapter with the reason why it has to run, empty if it is up to date."""
    planned: list[tuple[Chapter, str]] = []
    for chapter in selected:
        before = [c.name for c, why in planned if why and c.name in chapter.needs]
        if run.force:
            why = "forced"
        elif before:
            why = f"{', '.join(before)} runs before it"
        else:
            now = run.fingerprint(chapter)
            why = why_stale(chapter, run.folder, now)
            if not why and run.work(chapter, now).exists():  # of --force, failed or killed
                why = "resumes an interrupted run"
        planned.append((chapter, why))
    return planned


def _execute(chapter: Chapter, run: Run, work: Path, progress: ChapterProgress) -> None:
    """Run one chapter's notebook in its work folder and check what it left."""
    output = work / f"{chapter.name}.ipynb"
    name = run.folder.relative_to(run.folders.runs).as_posix()
    variables = {OUT_VARIABLE: str(work), "NANORECSYS_ROOT": str(run.folders.root), **KERNEL}
    try:
        with environment(variables):
            papermill.execute_notebook(
                chapter.notebook,
                output,
                parameters={**run.parameters[chapter.name], RUN_NAME: name},
                on_cell_start=progress.cell,
                stdout_file=progress,
                stderr_file=progress,
                progress_bar=False,
                extra_arguments=QUIET_KERNEL,
            )
        check_executed(nbformat.read(output, as_version=4), chapter.name)
        read_record(work / chapter.name, chapter.module.Result)
    except (PapermillExecutionError, DeadKernelError, NanorecsysError) as error:
        message = str(error)
        if isinstance(error, PapermillExecutionError):
            message = f"cell {error.cell_index + 1} failed with {error.ename}: {error.evalue}"
            trace = click.unstyle("\n".join(error.traceback)).splitlines()
            message = "\n    ".join([message, *filter(None, trace[-TRACE_LINES:])])
        raise ChapterError(
            f"{chapter.name}: {message}\n  executed so far: {run.folders.relative(output)}\n"
            "  the last good result, if there is one, is untouched",
            "fix the cause, then resume with the same command" + " without --force" * run.force,
        ) from error


def _clear_work(run: Path, chapter: Chapter, keep: Path | None = None) -> None:
    """Remove the work folders of `chapter`, except the one to resume."""
    for work in (run / WORK).glob(f"{chapter.name}-*"):
        if work != keep:
            shutil.rmtree(work)


def _finish(
    work: Path, chapter: Chapter, now: Fingerprint, seconds: float, folders: Layout
) -> None:
    """Complete a work folder: tidy the notebook, write the state, mark it ready."""
    path = work / f"{chapter.name}.ipynb"
    content = path.read_text().replace(str(folders.root), ".")  # no paths of this machine
    notebook = nbformat.reads(content, as_version=4)
    # a progress bar keeps its last state alone; otherwise each step is a line outside JupyterLab
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    write_atomically(path, nbformat.writes(notebook).encode())
    state = RunState(fingerprint=now, seconds=round(seconds, 2))
    write_atomically(work / chapter.name / STATE, encode(state))
    write_atomically(work / READY, b"")


def seal(work: Path, run: Path) -> None:
    """Move a ready work folder's notebook and results to their place in `run`.

    A kill at any point leaves the work folder ready, so that the next run goes on from there.
    """
    name = work.name.rpartition("-")[0]
    if (work / name).is_dir():
        if (run / name).exists():
            os.rename(run / name, work / "replaced")
        os.rename(work / name, run / name)
    if (work / f"{name}.ipynb").exists():
        os.replace(work / f"{name}.ipynb", run / f"{name}.ipynb")
    shutil.rmtree(work)
