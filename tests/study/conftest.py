"""A study of two small chapters in its own folder, run by the real runner with real kernels."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nanorecsys import cli
from nanorecsys.study.layout import Layout

CHAPTER = '''
"""A chapter of the test study."""
import msgspec
from nanorecsys.study.chapters import EARLIER, Estimate
from nanorecsys.study.spread import Interval

NEEDS = {needs}
FINDINGS = {{"total": lambda r: {{"toys": Interval(r.total, r.total, r.total)}}}}

class Result(msgspec.Struct, frozen=True, kw_only=True):
    total: float

    @property
    def dataset(self):
        return "toys"

def estimate(parameters):
    needed = [parameters.get(name, 0.0) for name in ("memory_gib", "disk_gib")]
    return Estimate(*needed)

def inputs(parameters):
    return []
'''

PROTOCOL = """
families: {{}}
findings:
{findings}
"""

FINDING = """
- id: {name}.total
  chapter: {chapter}
  question: Is it large?
  statement: The total is large.
  measured: The total.
  baseline: None.
  sample: One.
  rule: {{operator: ">=", bound: 5}}
  interval: None.
  data: first
  unit: toys
  refuted_by: A small total.
  agreement: quality
"""

ALPHA = """
import time
from mini.alpha.chapter import Result
from mini.alpha.logic import total
from nanorecsys import study
chapter = study.start("01_alpha", globals())
checkpoint = chapter.path("checkpoint")
resumed = checkpoint.exists()
log = chapter.folders.root / "executions.log"
log.open("a").write("alpha-resumed\\n" if resumed else "alpha\\n")
checkpoint.write_text("half way")
print("halfway there")
time.sleep(0 if resumed else sleep_s)
if fail:
    raise ValueError("this cell was told to fail")
result = Result(total=total(n_items))
chapter.finish(result, files={"checkpoint": "checkpoint"}, seeds={"seed": seed})
"""

BETA = """
from mini.beta.chapter import Result
from nanorecsys import study
chapter = study.start("02_beta", globals())
(chapter.folders.root / "executions.log").open("a").write("beta\\n")
before = chapter.upstream("01_alpha")
assert before.path("checkpoint").read_text() == "half way"
chapter.finish(Result(total=before.record.result.total + extra))
"""

PARAMETERS = {
    "01_alpha": """n_items: int = 3  # number of items
seed: int = 0  # random seed
fail: bool = False  # whether a cell fails
sleep_s: float = 0.0  # seconds of sleep
memory_gib: float = 0.0  # estimated memory
disk_gib: float = 0.0  # estimated disk
run_name: str = "quick"  # run that it reads""",
    "02_beta": """extra: float = 0.5  # added
seed: int = 0  # random seed
run_name: str = "quick"  # run that it reads""",
}


class MiniStudy(Layout):
    """The study's folders, and its command line."""

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run `nanorecsys` on this study, in this process."""
        code, out, err = 0, io.StringIO(), io.StringIO()
        with (
            patch.object(sys, "argv", ["nanorecsys", *arguments]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
        done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def process(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run `nanorecsys` on this study, in a process of its own."""
        command = self.command(*arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from nanorecsys.cli import main; main()", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"NANORECSYS_ROOT": str(self.root), "PYTHONPATH": str(self.root)}

    def executions(self) -> list[str]:
        """The chapters executed since the last call, in order."""
        log = self.root / "executions.log"
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    def result(self, chapter: str, run: str = "quick") -> dict:
        return json.loads((self.run(run) / chapter / "result.json").read_text())

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        (self.root / path).write_text(text.replace(old, new))


def write_notebook(path: Path, package: str, parameters: str, body: str) -> None:
    """A notebook source as the study commits them."""
    cells = [
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, body.split("\n---\n")),
    ]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "nanorecsys": {"package": package},
    }
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def mini(tmp_path: Path) -> Iterator[MiniStudy]:
    """The test study, also importable in this process."""
    with study_in(tmp_path) as folders:
        yield folders


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the test study."""
    with study_in(tmp_path_factory.mktemp("finished")) as folders:
        folders.cli("run")
        return folders.run("quick")


@pytest.fixture
def ran(mini: MiniStudy, finished: Path) -> MiniStudy:
    """The test study with a finished run."""
    shutil.copytree(finished, mini.run("quick"))
    return mini


@contextmanager
def study_in(folder: Path) -> Iterator[MiniStudy]:
    """Write the test study into a folder; until the end of the block it is the study."""
    folders = MiniStudy(folder)
    folders.profiles.mkdir(parents=True)
    folders.published.parent.mkdir()
    (folders.profiles / "quick.yaml").write_text("01_alpha:\n  n_items: 4\n")
    for chapter, body, needs in (("01_alpha", ALPHA, ()), ("02_beta", BETA, ("01_alpha",))):
        name = chapter[3:]
        write_notebook(
            folders.notebooks / f"{chapter}.ipynb", f"mini.{name}", PARAMETERS[chapter], body
        )
        package = folder / "mini" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "chapter.py").write_text(CHAPTER.format(name=name, needs=needs))
    (folder / "mini" / "__init__.py").touch()
    findings = (FINDING.format(name=c[3:], chapter=c) for c in PARAMETERS)
    folders.protocol.parent.mkdir(parents=True)
    folders.protocol.write_text(PROTOCOL.format(findings="".join(findings)))
    (folder / "mini" / "alpha" / "logic.py").write_text("def total(n):\n    return float(n * 2)\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        patched.setenv("NANORECSYS_ROOT", str(folder))
        patched.setenv("PYTHONPATH", str(folder))
        yield folders
    for name in [n for n in sys.modules if n.split(".")[0] == "mini"]:
        del sys.modules[name]
