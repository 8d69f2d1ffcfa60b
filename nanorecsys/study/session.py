"""What a notebook sees of the study: `start` checks its parameters, `finish` writes its record.

::

    chapter = study.start("01_data", globals())
    ...
    chapter.finish(Result(...), files={"interactions": "interactions.parquet"}, seeds={})

The same two calls serve `nanorecsys run`, plain papermill from any folder, and a notebook opened by
hand.
"""

import datetime
import os
import resource
import sys
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from nanorecsys.study import provenance, records
from nanorecsys.study.layout import Layout, layout
from nanorecsys.study.parameters import RUN_NAME, chapter_module, read_parameters, unknown
from nanorecsys.study.protocol import read_protocol
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.files import write_atomically

OUT_VARIABLE = "NANORECSYS_OUT"
BY_HAND = "by-hand"
STARTED = "_chapter_started"  # in a notebook's globals once it has called `start`
ATTEMPT = ".spent"  # in a chapter's folder from its start to its end: seconds spent before


@dataclass(frozen=True)
class Upstream:
    """An earlier chapter of the same run: its record, and the folder of its files."""

    folder: Path
    record: records.Record[Any]

    def path(self, name: str) -> Path:
        """Path of the file that the record calls `name`."""
        return self.folder / self.record.files[name]


@dataclass(frozen=True)
class Session:
    """A chapter being run. Everything that it leaves goes to its folder `out`."""

    name: str
    out: Path
    parameters: dict[str, Any]
    folders: Layout
    started: float = field(default_factory=time.time)
    spent: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the chapter began, including killed attempts that it resumes."""
        return self.spent + time.time() - self.started

    def path(self, name: str) -> Path:
        """Path of a file in the chapter's folder, by its name there."""
        return self.out / name

    def upstream(self, name: str) -> Upstream:
        """The record and files of chapter `name` in the run that `run_name` names.

        Raises:
            RecordError: The chapter has not run there; the message gives the command.
        """
        folder = self.folders.run(self.parameters[RUN_NAME]) / name
        notebook = nbformat.read(self.folders.notebooks / f"{name}.ipynb", as_version=4)
        return Upstream(folder, records.read_record(folder, chapter_module(notebook, name).Result))

    def finish(
        self,
        result: Any,
        files: Mapping[str, str] | None = None,
        seeds: Mapping[str, int] | None = None,
    ) -> None:
        """Write the result record, and read it back so that a malformed one fails here.

        Args:
            result: Instance of the chapter's `Result`.
            files: Raw rows and artefacts in the chapter's folder, as file names by meaning.
            seeds: Every random seed that the result depends on.
        """
        started = datetime.datetime.fromtimestamp(self.started, datetime.UTC)
        record = records.Record(
            format=records.FORMAT,
            chapter=self.name,
            parameters=self.parameters,
            provenance=provenance.Provenance(
                commit=provenance.commit(self.folders.root),
                definitions_sha256=read_protocol(self.folders).sha256(self.name),
                started_utc=started.isoformat(timespec="seconds"),
                seconds=round(self.seconds, 2),
                peak_rss_mib=round(_peak_rss_mib(), 1),
                machine=provenance.machine(),
                threads=provenance.threads(),
                versions=provenance.versions(),
                seeds=dict(seeds or {}),
            ),
            files=dict(files or {}),
            result=result,
        )
        records.write_record(self.out, record)
        records.read_record(self.out, type(result))
        self.path(ATTEMPT).unlink(missing_ok=True)


def start(name: str, namespace: MutableMapping[str, Any]) -> Session:
    """Begin a chapter: check its parameters, make its folder, set the house style for figures.

    Args:
        name: Name of the chapter, for example `01_data`.
        namespace: The notebook's `globals()`, which hold the parameters and receive their types.

    Raises:
        ParameterError: A value of the wrong type, or an unknown parameter (papermill only logs
            these). A name in capitals is a constant and not checked.
    """
    from nanorecsys.study import plots

    folders = layout()
    notebook = nbformat.read(folders.notebooks / f"{name}.ipynb", as_version=4)
    parameters = read_parameters(notebook, name)
    # A reader who changes a parameter runs this again, when the notebook's own names exist too.
    for key, value in ({} if STARTED in namespace else namespace).items():
        is_own = key.startswith("_") or key == "In" or key.isupper()
        if isinstance(value, int | float | str | list) and key not in parameters and not is_own:
            raise unknown(key, parameters, name)
    namespace[STARTED] = True
    # papermill -p passes a list and a bool as their text
    values = {key: p.parse(namespace[key], name) for key, p in parameters.items()}
    namespace.update(values)
    out = Path(os.environ.get(OUT_VARIABLE) or folders.run(BY_HAND)) / name
    plots.use_house_style()
    return Session(name, out, values, folders, spent=begin(out))


def begin(out: Path) -> float:
    """Note in the folder `out` that a chapter begins.

    A killed attempt counts up to the last file that it wrote, since later work is done again.

    Returns:
        Seconds that killed attempts in this folder have spent.
    """
    spent, note = 0.0, out / ATTEMPT
    if note.exists():
        last = max(file.stat().st_mtime for file in out.rglob("*"))
        spent = float(note.read_text()) + last - note.stat().st_mtime
    write_atomically(note, str(spent).encode())
    return spent


def glue(name: str, value: Any) -> None:
    """Keep `value` under `name` for the pages of the book, shown by a `glue` role or directive.

    Numbers become Python's own (a numpy scalar renders as nothing).

    Raises:
        NanorecsysError: None, NaN or an infinity, which would render as nothing or as nonsense.
    """
    import myst_nb

    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or (isinstance(value, float) and not abs(value) < float("inf")):
        raise NanorecsysError(f"glue {name!r}: expected a finite value, got {value!r}")
    myst_nb.glue(name, value, display=False)


def machine_line() -> str:
    """The machine in a few words, for captions."""
    return str(provenance.machine())


def _peak_rss_mib() -> float:
    """Largest resident memory of any one process, this or a child that has ended, in MiB.

    Not the sum, since on Linux a child inherits its parent's peak until it runs another program.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in processes) * unit / 2**20
