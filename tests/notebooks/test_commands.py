"""Every command that README, the pages, the notebooks and `--help` print, as printed. 60 s.

They run in a copy of the clone whose runs quick, full and full-again are the smoke run. Commands
that take minutes run with an option that ends them early; `EARLY` and `ELSEWHERE` list them all.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pandas as pd
import pytest

from nanorecsys import cli
from nanorecsys.study.layout import Layout, layout
from nanorecsys.training import __main__ as training
from server.__main__ import serve
from server.settings import make_command
from tests.records import as_committed

FOLDERS = layout()
PROGRAMS = (
    r"(?:\.venv/bin/)?"
    "(?:nanorecsys|make|python|pytest|papermill|torchrun|jupyter-book|locust|conda)"
)
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}(_[A-Z]+)*\b(?!=)")  # PROFILE, or NN_NAME
# Options that end a long command after its arguments are read.
EARLY = {
    r"nanorecsys run\b": "--list",  # the smoke tier runs every chapter
    r"make\b": "-n",  # `make study` and `make test` take minutes
    r"papermill\b": "--prepare-only",  # test_papermill.py runs notebooks
    r"python benchmarks/": "--help",  # benchmarks take minutes
    r"python -m benchmarks\.wrk\.order": (
        "--rounds 1 --seconds 1 --server index --server 'second worker'"
    ),
}
# Commands that are not run here, and what covers them.
ELSEWHERE = {
    r"source ": "the other commands run in that environment",
    r"conda": "needs conda; tests/study/test_environment.py compares its file with the pins",
    r"docker": "needs Docker; tests/server/test_container.py reads its files",
    r"locust": "needs Locust; tests/data/test_id_files.py runs its file",
    r"nanorecsys serving|.* --retrieval ": "needs a Milvus; tests/server/test_milvus.py runs both",
    r"nanorecsys book|jupyter-book": "tests/book builds the pages",
    r"torchrun|python -m nanorecsys\.training": "needs a download; tests/training runs both",
    r"pytest|python tests/tiers\.py": "the tests themselves",
}
# Exit codes that say that something differs or is missing, which is no failure of the command.
MAY_DIFFER = {
    r"nanorecsys (compare|check)": 1,
    r"nanorecsys publish .*--other-machine": 1,
    r"python -m benchmarks\.wrk\.order": 1,
}


def printed() -> dict[str, str]:
    """Every command, and the page that prints it."""
    found = {}
    pages = ["README.md", "CONTRIBUTING.md", "data/README.md", "book/*.md", "notebooks/*.ipynb"]
    for path in (path for page in pages for path in sorted(FOLDERS.root.glob(page))):
        text = path.read_text()
        if path.suffix == ".ipynb":
            text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        fenced = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = re.sub(r"\\\n\s*", "", "\n".join(fenced)).splitlines()
        lines += re.findall(rf"`({PROGRAMS} [^`\n]+)`", text)
        found |= dict.fromkeys(lines, path.name)
    helps = {"training": training.__doc__ or "", "server": make_command(serve).help or ""}
    helps |= {f"nanorecsys {name}": text for name, text in help_texts(cli.cli)}
    for name, text in helps.items():
        lines = [line.strip() for line in text.splitlines()]
        example = re.compile(rf"([A-Z_]+=\S+ )?{PROGRAMS} ")
        found |= {line: f"{name} --help" for line in lines if example.match(line)}
    found = {re.split(r"\s{2,}|\s*# ", line)[0]: page for line, page in found.items()}
    return {
        command: page
        for command, page in found.items()
        if shlex.split(command) and not PLACEHOLDER.search(command)
    }


def help_texts(group: click.Group) -> list[tuple[str, str]]:
    """Name and help of every command."""
    found = []
    for name, command in group.commands.items():
        found.append((name, command.help or ""))
        if isinstance(command, click.Group):
            found += help_texts(command)
    return found


def matching(table: dict, command: str):
    bare = command.replace(".venv/bin/", "")
    return next((value for pattern, value in table.items() if re.match(pattern, bare)), None)


COMMANDS = printed()
BENCHMARKS = [
    path
    for path in sorted((FOLDERS.root / "benchmarks").rglob("*.py"))
    if "EPILOG" in path.read_text()
]
SERVERS = [
    command
    for command in COMMANDS
    if "python -m server" in command
    and "--help" not in command
    and not matching(ELSEWHERE, command)
]
REQUESTS = [c for c in COMMANDS if c.startswith("curl")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Layout:
    """A copy of the clone with the runs and files that the commands name."""
    root = tmp_path_factory.mktemp("clone")
    own = ("book", "data", "notebooks", "_build")
    for path in FOLDERS.root.iterdir():
        if path.name not in own and not path.name.startswith("."):
            (root / path.name).symlink_to(path)
    shutil.copytree(FOLDERS.root / "book", root / "book")
    shutil.copytree(FOLDERS.notebooks, root / "notebooks")
    (root / ".venv").symlink_to(sys.prefix)
    folders = Layout(root)
    for name in ("smoke", "quick", "full", "full-again"):
        ignored = shutil.ignore_patterns(".*", "bundle*")
        shutil.copytree(FOLDERS.run("smoke"), folders.run(name), ignore=ignored)
        as_committed(folders.run(name))
    for path in FOLDERS.root.glob("data/*.zip"):
        (root / "data" / path.name).symlink_to(path)
    (root / "my").mkdir()
    ids = pd.Series(range(900))
    table = pd.DataFrame({"uid": ids % 100, "sku": ids % 70, "t": 10**9 + ids})
    for name in ("my/ratings.csv", "data/my-ratings.csv"):
        table.to_csv(root / name, index=False)
    return folders


@pytest.fixture
def run(clone, monkeypatch, capsys):
    """A function that runs a command in the clone; `nanorecsys` itself in this process."""
    monkeypatch.chdir(clone.root)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in {"NANORECSYS_ROOT": str(clone.root), "PATH": path}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(FOLDERS.root))

    def run_it(command: str) -> tuple[int, str]:
        words = shlex.split(command.replace("/srv/", f"{clone.root}/"))
        if Path(words[0]).name != "nanorecsys":
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            return done.returncode, done.stdout + done.stderr
        monkeypatch.setattr(sys, "argv", words)
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, "".join(capsys.readouterr())

    return run_it


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c not in SERVERS + REQUESTS and not matching(ELSEWHERE, c)]
)
def test_a_printed_command_works(command, run):
    if "bundle --check" in command:
        run("nanorecsys bundle full --output /srv/bundle")
    code, output = run(f"{command} {matching(EARLY, command) or ''}")
    assert code in (0, matching(MAY_DIFFER, command)), output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", SERVERS)
def test_a_printed_server_starts_and_answers(command, run, clone):
    port = int((re.findall(r"NANORECSYS_PORT=(\d+)", command) or ["8000"])[0])
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            pytest.skip(f"another program listens on port {port}")
    if not (clone.run("quick") / "bundle").exists():
        assert run("nanorecsys bundle quick")[0] == 0
    with (clone.root / "server.log").open("w+") as log:
        running = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"], stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until_ready(port, running, log)
            for request in REQUESTS if port == 8000 else ():
                code, output = run(request)
                assert (code, output.split(maxsplit=2)[1]) == (0, "200"), output
        finally:
            running.terminate()
            running.wait(30)


def wait_until_ready(port: int, running: subprocess.Popen, log) -> None:
    for _ in range(300):
        ready = ["curl", "-sf", f"127.0.0.1:{port}/readyz"]
        if subprocess.run(ready, capture_output=True).returncode == 0:
            return
        if running.poll() is not None:
            break
        time.sleep(0.2)
    log.seek(0)
    pytest.fail(log.read())


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_the_examples_in_the_help_of_a_benchmark_have_its_options(path):
    """The examples themselves take minutes."""
    variables = os.environ | {"PYTHONPATH": str(FOLDERS.root)}
    command = [sys.executable, path, "--help"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    options, examples = re.split(r"\n *examples?\b.*\n", done.stdout)
    lines = re.findall(r"^ +(?:[A-Z_]+=\S+ )*(python .*?)(?:   .*)?$", examples, re.MULTILINE)
    option = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
    used = [word for line in lines for word in shlex.split(line) if option.fullmatch(word)]
    assert used
    assert set(used) <= {*option.findall(options), "-m"}  # python -m


def test_the_commands_are_found_on_every_kind_of_page():
    pages = set(COMMANDS.values())
    assert {"README.md", "CONTRIBUTING.md", "server.md", "server --help", "training"} & pages
    assert {page.partition(" ")[0] for page in pages} >= {"README.md", "server", "nanorecsys"}
    assert len(COMMANDS) > 30
    assert len(SERVERS) > 2
    assert REQUESTS


@pytest.mark.parametrize("table", [EARLY, ELSEWHERE, MAY_DIFFER], ids=["early", "elsewhere", "may"])
def test_no_exception_is_listed_in_vain(table):
    for pattern in table:
        assert any(matching({pattern: True}, command) for command in COMMANDS), pattern
