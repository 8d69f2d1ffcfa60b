"""pyproject.toml, constraints.txt and environment.yml agree; the doctor sees what is installed."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nanorecsys.loadtest.result import FULL_ROUNDS, Search
from nanorecsys.serving.retrieval import LIBRARIES
from nanorecsys.study import doctor, provenance
from nanorecsys.study.chapters import chapters
from nanorecsys.study.layout import layout
from nanorecsys.study.parameters import resolve
from nanorecsys.study.runner import load_profile

FOLDERS = layout()
PROFILES = ("smoke", "quick", "medium", "full", "ml-20m", "ml-32m")
PROJECT = tomllib.loads((FOLDERS.root / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
COMPILED = EXTRAS.pop("lorann")  # only on request, pinned where it is named
MILVUS = EXTRAS.pop("milvus")  # for a server; the tests bring it too


def requirements():
    return [
        Requirement(r)
        for r in (*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra))
    ]


def test_every_requirement_is_pinned_within_its_bounds():
    pins = doctor.pins(FOLDERS)
    assert pins["torch"] == "2.13.0"
    assert [f"pymilvus=={pins['pymilvus']}"] == MILVUS
    for requirement in requirements():
        assert requirement.specifier.contains(
            pins[canonicalize_name(requirement.name)], prereleases=True
        ), requirement


def test_an_extra_that_is_compiled_is_installed_only_on_request():
    assert COMPILED == ["lorann==1.0.1"]
    assert "lorann" not in doctor.pins(FOLDERS)
    planned = make("-n", "-W", "constraints.txt", "install").stdout
    asked = make("-n", "-W", "constraints.txt", "install", "EXTRAS=lorann").stdout
    assert "lorann" not in planned
    assert "-e '.[lorann]' -c constraints.txt" in asked
    assert ".nanorecsys-installed-lorann" in asked


def test_the_pins_are_the_whole_tree_and_nothing_else():
    """Walk the installed packages from the requirements: each is pinned, each pin is reached."""
    reached, waiting = {}, [(r, frozenset()) for r in requirements()]
    while waiting:
        requirement, extras = waiting.pop()
        contexts = [{"extra": e} for e in ("", *extras)]
        if requirement.marker and not any(requirement.marker.evaluate(c) for c in contexts):
            continue
        name = canonicalize_name(requirement.name)
        if reached.get(name, frozenset()) >= requirement.extras and name in reached:
            continue
        reached[name] = reached.get(name, frozenset()) | requirement.extras
        waiting += (
            (Requirement(r), frozenset(requirement.extras)) for r in metadata.requires(name) or ()
        )
    installed = {name: metadata.version(name).partition("+")[0] for name in reached}
    assert doctor.pins(FOLDERS) == installed


def test_conda_installs_the_project_under_the_same_constraints():
    environment = yaml.safe_load((FOLDERS.root / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert pip == "pip"
    assert section["pip"] == ["-c constraints.txt", f"-e .[{','.join(EXTRAS)}]"]
    assert f".[{','.join(EXTRAS)}]" in (FOLDERS.root / "Makefile").read_text()
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(
        python.partition("=")[2]
    )


def test_every_profile_sets_parameters_that_exist():
    everything = {name: c.settable for name, c in chapters(FOLDERS).items()}
    assert {p.stem for p in FOLDERS.profiles.glob("*.yaml")} == set(PROFILES)
    for profile in PROFILES:
        resolve(everything, load_profile(FOLDERS, profile), profile)


def test_the_full_profile_searches_highest_rates_as_the_findings_ask():
    settable = {name: c.settable for name, c in chapters(FOLDERS).items()}
    values = resolve(settable, load_profile(FOLDERS, "full"), "full")["06_loadtest"]
    assert values["rounds"] >= FULL_ROUNDS
    found = Search(
        try_s=values["try_s"],
        min_requests=values["try_requests"],
        confirm_s=values["confirm_s"],
        precision=values["precision"],
    )
    assert found == Search()


@pytest.mark.parametrize("path", sorted(FOLDERS.notebooks.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook_sources_are_committed_in_house_form(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[0].source.splitlines()[0].endswith("?")
    assert any("**Cost**" in cell.source for cell in notebook.cells[:4])
    assert len([c for c in code if "remove-input" not in c.metadata.get("tags", [])]) <= 25
    assert any("# NBVAL_CHECK_OUTPUT" in cell.source for cell in code)
    assert "## What is next" in notebook.cells[-1].source


def make(*arguments):
    return subprocess.run(["make", "-C", FOLDERS.root, *arguments], capture_output=True, text=True)


def test_make_knows_its_targets_and_says_what_it_does():
    shown = make("help").stdout
    for target in ("study", "lab", "book", "test", "serve", "milvus", "lint", "clean"):
        assert f"make {target} " in shown
        planned = make("-n", "-B", target).stdout
        assert f'echo "{target}  ' in planned
        assert ("pip install" in planned) == (target != "clean")


def test_make_uses_the_active_environment_where_venv_is_empty():
    planned = make(
        "-n", "-W", "pyproject.toml", "study", "VENV=", f"PYTHON={sys.executable}", "PROFILE=smoke"
    ).stdout
    assert f"{sys.executable} -m pip install" in planned
    assert "-m venv" not in planned
    assert "\nnanorecsys run smoke" in planned
    assert ".venv/bin/nanorecsys" not in planned


def cli(*arguments, **environment):
    command = [sys.executable, "-c", "from nanorecsys.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_the_doctor_reports_and_passes():
    done = cli("doctor", COLUMNS="200")
    assert done.returncode == 0, done.stdout
    for word in (
        "CPU flags",
        "cores",
        "memory",
        "disk",
        "packages",
        "torch",
        "OMP_NUM_THREADS",
        "scann",
        "lorann",
    ):
        assert word in done.stdout


def test_the_doctor_fails_with_the_remedy(monkeypatch, tmp_path):
    def fails(checks):
        assert not doctor.healthy(checks)
        return {c.name: c for c in checks if c.status == "fails"}

    monkeypatch.setattr(doctor, "pins", lambda _: {"numpy": "2.4.6", "no-such-package": "1.0"})
    assert "no-such-package" in fails(doctor.examine())["packages"].value
    monkeypatch.setattr(doctor, "pins", lambda _: {"numpy": "0.1"})
    different = next(c for c in doctor.examine() if c.name == "packages")
    assert (different.status, "instead of 0.1" in different.value) == ("warning", True)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("U", (), {"free": 2**20})())
    assert "make room" in fails(doctor.examine())["disk"].remedy
    monkeypatch.setattr(doctor.limits, "available_bytes", lambda: 2**20)
    assert "end other programs" in fails(doctor.examine())["memory"].remedy


def test_the_doctor_says_how_to_get_an_index_library(monkeypatch):
    present = [d for d in metadata.distributions() if d.name not in doctor.OPTIONAL]
    monkeypatch.setattr(doctor.metadata, "distributions", lambda: present)
    found = {c.name: c for c in doctor.examine()}
    for name, command in doctor.OPTIONAL.items():
        assert found[name].value == f"not installed, optional: {command}"
        assert found[name].status == found["packages"].status == "ok"
    assert doctor.OPTIONAL.items() <= {n: c for n, (_, c) in LIBRARIES.items()}.items()


def test_the_commit_of_a_clone_is_told(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    git("init", "--quiet")
    assert provenance.commit(tmp_path) == "none"  # before the first commit
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_text("one")
    git("add", ".")
    git("commit", "--quiet", "-m", "Begin")
    assert re.fullmatch("[0-9a-f]{12}", provenance.commit(tmp_path))
    (tmp_path / "inside" / "file").write_text("two")
    assert provenance.commit(tmp_path).endswith("+")
    # an archive that was unpacked in somebody's repository
    assert provenance.commit(tmp_path / "inside") == "none"


def test_the_commit_is_none_without_git_and_outside_a_clone(tmp_path, monkeypatch):
    assert provenance.commit(tmp_path) == "none"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(FOLDERS.root) == "none"


@pytest.mark.parametrize(
    "command", [(), ("run",), ("book",), ("publish",), ("check",), ("doctor",)]
)
def test_help_teaches(command):
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert len(done.stdout.split()) > 20


def test_make_serve_builds_a_bundle_only_where_there_is_none(tmp_path):
    assert (
        "nanorecsys bundle smoke"
        in make("-n", "serve", "PROFILE=smoke", f"BUNDLE={tmp_path}").stdout
    )
    (tmp_path / "manifest.json").write_text("{}")
    planned = make("-n", "serve", "PROFILE=smoke", f"BUNDLE={tmp_path}", "ARGS=--port 9").stdout
    assert "nanorecsys bundle" not in planned
    assert f"-m server --bundle {tmp_path} --port 9" in planned
