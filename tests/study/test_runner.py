"""The runner: what runs, what is skipped, what survives a kill or a failure."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from rich.console import Console

from nanorecsys import cli
from nanorecsys.study import plots, runner, session
from nanorecsys.study.chapters import chapters
from nanorecsys.study.fingerprint import fingerprint
from nanorecsys.study.layout import layout
from nanorecsys.study.parameters import ParameterError, resolve
from nanorecsys.system.errors import NanorecsysError


def test_runs_in_order_then_skips_everything(mini, monkeypatch):
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(mini.root))  # no git
        first = mini.process("run")
    assert mini.executions() == ["alpha", "beta"]
    # the profile's n_items, not the notebook's
    assert mini.result("01_alpha")["result"] == {"total": 8.0}
    assert mini.result("02_beta")["result"] == {"total": 8.5}
    assert mini.result("02_beta")["provenance"]["commit"] == "none"
    # plain progress lines, since this is no terminal
    assert re.search(r"of 3  \d+:\d\d:\d\d\n", first.stdout)
    assert first.stderr == ""  # a kernel would log its own shutdown there
    repeated = mini.cli("run")
    assert mini.executions() == []
    assert "0 of 2 chapters ran" in repeated.stdout


# While a kernel shuts down, its last write may find a socket that is closed already. Imports are in
# the function, since the names of a notebook are gone by then.
CLOSED_SOCKET = """
from ipykernel.iostream import OutStream
def late_flush(stream, flush=OutStream.flush):
    import threading, zmq
    if threading.current_thread().name == "Control":
        raise zmq.ZMQError(zmq.ENOTSOCK)
    flush(stream)
OutStream.flush = late_flush
"""


def test_a_kernel_that_stumbles_in_its_shutdown_is_not_heard(mini):
    add_cell(mini, CLOSED_SOCKET)
    assert mini.process("run", "--only", "01_alpha").stderr == ""


def add_cell(mini, code):
    """Append a code cell to the first chapter."""
    path = mini.notebooks / "01_alpha.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_code_cell(code))
    nbformat.write(notebook, path)


def reasons(mini, *overrides):
    """Why each chapter would run; empty where it is up to date."""
    everything = chapters(mini)
    settable = {name: chapter.settable for name, chapter in everything.items()}
    parameters = resolve(settable, runner.load_profile(mini, "quick"), "quick", overrides)
    run = runner.Run(mini, mini.run("quick"), parameters)
    return [why for _, why in runner.plan(run, everything.values())]


def test_a_change_reruns_exactly_what_depends_on_it(ran):
    alpha_before = "01_alpha runs before it"
    assert reasons(ran) == ["", ""]
    assert reasons(ran, "02_beta.extra=1") == ["", "changed: extra 0.5 -> 1.0"]
    assert reasons(ran, "01_alpha.n_items=5") == ["changed: n_items 4 -> 5", alpha_before]
    ran.edit("mini/alpha/logic.py", "n * 2", "n * 3")  # code that only the first chapter imports
    assert reasons(ran) == ["changed: code mini/alpha/logic.py", alpha_before]
    changed = ran.cli("run", "-p", "n_items=5", "-p", "extra=1.0")
    assert ran.executions() == ["alpha", "beta"]
    assert "n_items 4 -> 5; code mini/alpha/logic.py" in changed.stdout
    same = ("n_items=5", "extra=1")
    assert reasons(ran, *same) == ["", ""]
    ran.edit("notebooks/02_beta.ipynb", "# added", "# what is added")
    assert reasons(ran, *same) == ["", "changed: the notebook"]
    ran.cli("run", "-p", "n_items=5", "-p", "extra=1")
    assert ran.executions() == ["beta"]
    (ran.run("quick") / "01_alpha" / "checkpoint").unlink()
    assert reasons(ran, *same)[0].endswith("names files that do not exist: checkpoint")
    ran.cli("run", "-p", "n_items=5", "-p", "extra=1")
    assert ran.executions() == ["alpha", "beta"]
    ran.cli("run", "--only", "02_beta", "--force", "-p", "n_items=5", "-p", "extra=1")
    assert ran.executions() == ["beta"]


def test_input_files_of_one_name_are_told_apart(mini, monkeypatch):
    chapter, run = chapters(mini)["01_alpha"], mini.run("quick")
    paths = [mini.root / name / "ratings.csv" for name in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("old")
    monkeypatch.setattr(chapter.module, "inputs", lambda _: paths)
    before = fingerprint(chapter, {}, mini, run)
    paths[0].write_text("new")
    assert fingerprint(chapter, {}, mini, run).changed_since(before) == "input first/ratings.csv"


def test_a_constant_imported_before_the_start_is_no_parameter(mini, monkeypatch):
    monkeypatch.setattr(plots, "use_house_style", lambda: None)
    monkeypatch.delenv(session.OUT_VARIABLE, raising=False)
    parameters = chapters(mini)["01_alpha"].parameters
    values = {name: parameter.default for name, parameter in parameters.items()}
    assert session.start("01_alpha", values | {"INK": "#222222"}).parameters == values
    with pytest.raises(ParameterError, match="no parameter 'ink'"):
        session.start("01_alpha", values | {"ink": "#222222"})
    notebook = dict(values)  # its own names are no parameters, once it has started
    session.start("01_alpha", notebook)
    session.start("01_alpha", notebook | {"rows": [1, 2]})


def test_list_says_what_would_run_and_runs_nothing(ran):
    shown = ran.cli("run", "--list", "-p", "extra=2").stdout
    assert "up to date" in shown
    assert "extra=2.0" in shown
    assert ran.executions() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-p", "n_itmes=5"], "did you mean n_items?"),
        (["-p", "01_alpha.n_itmes=5"], "did you mean n_items?"),
        (["-p", "1_alpha.n_items=5"], "did you mean 01_alpha?"),
        (["-p", "n_items=many"], "n_items is int, not 'many' (str)"),
        (["-p", "n_items=2.5"], "n_items is int, not 2.5 (float)"),
        (["-p", "fail=1"], "fail is bool, not 1 (int)"),
        (["-p", "run_name=other"], "no parameter 'run_name'"),
        (["-p", "n_items"], "expected name=value"),
        (["--only", "03_gamma"], "no chapter '03_gamma'"),
        (["--from", "02_bta"], "did you mean 02_beta?"),
        (["quik"], "did you mean quick?"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_runs(mini, arguments, told):
    done = mini.cli("run", *arguments, check=False)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert mini.executions() == []
    assert not mini.runs.exists()


def test_a_failing_cell_is_told_and_the_last_good_result_stays(ran):
    good = {
        p: p.read_bytes()
        for p in ran.run("quick").rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }
    done = ran.cli("run", "-p", "fail=true", check=False)
    assert done.returncode == 1
    assert "01_alpha: cell" in done.stderr
    assert "ValueError: this cell was told to fail" in done.stderr
    assert "resume with the same command\n" in done.stderr
    assert "Traceback (most recent call last):\n  File" not in done.stderr  # the runner's own
    assert all(path.read_bytes() == content for path, content in good.items())
    forced = ran.cli("run", "--force", "-p", "fail=true", check=False)
    assert "resume with the same command without --force\n" in forced.stderr
    ran.executions()
    ran.cli("run")
    assert ran.executions() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "interrupted; the same command resumes\n"),
        (["run", "--force"], "interrupted; the same command without --force resumes\n"),
    ],
)
def test_an_interrupt_says_how_to_resume(monkeypatch, capsys, arguments, message):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "cli", interrupted)
    monkeypatch.setattr(sys, "argv", ["nanorecsys", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == message


def test_a_dead_kernel_is_told(mini):
    mini.edit("mini/alpha/logic.py", "return float(n * 2)", "import os; os._exit(1)")
    done = mini.cli("run", check=False)
    assert done.returncode == 1
    assert "died" in done.stderr
    assert "Traceback" not in done.stderr


def test_resumes_after_kill_9_in_mid_chapter(mini):
    slow = ["run", "-p", "sleep_s=60"]
    process = subprocess.Popen(
        mini.command(*slow), env=mini.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(mini.runs.glob("quick/.work/*/01_alpha/checkpoint")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (mini.run("quick") / "01_alpha").exists()
    [checkpoint] = mini.runs.glob("quick/.work/*/01_alpha/checkpoint")
    os.utime(checkpoint, (time.time() + 1000,) * 2)  # as if the chapter had run for so long
    mini.cli(*slow)
    assert mini.executions() == ["alpha", "alpha-resumed", "beta"]
    assert 1000 < mini.result("01_alpha")["provenance"]["seconds"] < 1060
    assert mini.result("02_beta")["result"] == {"total": 8.5}
    assert not list(mini.runs.glob("quick/.work/*"))


class Killed(BaseException):
    """Like `kill -9`, it is not caught."""


def killed_at(monkeypatch, call_number, function):
    """Call `function` with a kill before its n-th change of the disk; True if there was one."""
    calls = 0

    def breaking(real):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == call_number:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for module, name in ((os, "rename"), (os, "replace"), (shutil, "rmtree")):
            patch.setattr(module, name, breaking(getattr(module, name)))
        try:
            function()
        except Killed:
            return True
    return False


def test_a_forced_run_that_was_killed_resumes_without_force(ran, monkeypatch):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_finish", kill)
        with pytest.raises(Killed):
            ran.cli("run", "--force")
    assert ran.executions() == ["alpha"]
    assert reasons(ran) == ["resumes an interrupted run", "01_alpha runs before it"]
    ran.cli("run")
    assert ran.executions() == ["alpha-resumed", "beta"]
    assert reasons(ran) == ["", ""]


def test_sealing_survives_a_kill_at_every_step(mini, monkeypatch, tmp_path_factory):
    run = mini.run("quick")
    selected = [chapters(mini)["01_alpha"]]

    def run_again(n_items=2):
        parameters = resolve(
            {"01_alpha": selected[0].settable}, {}, "quick", [f"n_items={n_items}"]
        )
        this_run = runner.Run(mini, run, parameters)
        return runner.run_chapters(this_run, selected, Console(quiet=True))

    def kill(*_):
        raise Killed

    def killed_in(name):
        with monkeypatch.context() as patch:
            patch.setattr(runner, name, kill)
            with pytest.raises(Killed):
                run_again()

    run_again(n_items=1)
    killed_in("_finish")
    ready = tmp_path_factory.mktemp("ready") / "run"
    killed_in("seal")
    shutil.copytree(run, ready)
    mini.executions()
    step = 1
    while killed_at(monkeypatch, step, run_again):
        assert run_again() == []  # sealing goes on where it stopped, and nothing has to be executed
        assert mini.result("01_alpha")["result"] == {"total": 4.0}
        assert not list((run / ".work").glob("*"))
        shutil.rmtree(run)
        shutil.copytree(ready, run)
        step += 1
    assert step > 4
    assert mini.executions() == []


def test_a_second_run_of_the_same_profile_is_refused(mini):
    with runner.locked(mini.run("quick")):
        done = mini.cli("run", check=False)
    assert done.returncode == 1
    assert f"another run (process {os.getpid()})" in done.stderr


@pytest.mark.parametrize(
    ("name", "told"), [("memory_gib", "GiB of memory"), ("disk_gib", "GiB of disk")]
)
def test_too_little_memory_or_disk_is_refused_before_anything_runs(mini, name, told):
    done = mini.cli("run", "-p", f"{name}=100000", check=False)
    assert done.returncode == 1
    assert "100000.0 " + told in done.stderr
    assert mini.executions() == []


def test_an_upstream_that_has_not_run_is_told_with_the_command(mini):
    done = mini.cli("run", "--only", "02_beta", check=False)
    assert done.returncode == 1
    assert "02_beta reads 01_alpha, which has not run in quick" in done.stderr
    assert "nanorecsys run quick --from 01_alpha" in done.stderr


def test_the_executed_notebook_holds_no_path_of_this_machine(ran):
    for path in ran.run("quick").glob("*.ipynb"):
        assert str(ran.root) not in path.read_text()
    for path in ran.run("quick").rglob("*.json"):
        assert str(ran.root) not in path.read_text()


def test_of_a_progress_bar_the_executed_notebook_keeps_the_last_state(mini):
    bar = "for n in range(3):\n    print('\\rstep', n, end='', file=sys.stderr, flush=True)"
    add_cell(mini, f"import sys\n{bar}")
    mini.cli("run", "--only", "01_alpha")
    executed = nbformat.read(mini.run("quick") / "01_alpha.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.outputs]
    assert [o.text.strip() for o in outputs if o.get("name") == "stderr"] == ["step 2"]


def test_an_installed_package_away_from_its_clone_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("NANORECSYS_ROOT", str(tmp_path))
    with pytest.raises(NanorecsysError, match="run from a clone"):
        layout()
