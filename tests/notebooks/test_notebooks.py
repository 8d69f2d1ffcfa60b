"""Every chapter under the runner's smoke profile."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nanorecsys.study.chapters import chapters
from nanorecsys.study.layout import layout

FOLDERS = layout()
CHAPTERS = chapters(FOLDERS)
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_table_is_shown(name):
    """A notebook shows the value of a cell's last line, and no value inside a block."""
    for cell in nbformat.read(FOLDERS.notebooks / f"{name}.ipynb", as_version=4).cells:
        body = ast.parse(cell.source).body if cell.cell_type == "code" else []
        lost = [
            node
            for line in body
            for node in ast.walk(line)
            if isinstance(node, ast.Expr) and node is not body[-1]
        ]
        assert not [n.lineno for n in lost if ast.unparse(n.value).startswith("study.styled(")], (
            cell.source
        )


def test_the_smoke_run_is_whole():
    done = subprocess.run([BIN / "nanorecsys", "check", "smoke"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_second_run_skips_every_chapter():
    done = subprocess.run([BIN / "nanorecsys", "run", "smoke"], capture_output=True, text=True)
    assert f"0 of {len(CHAPTERS)} chapters ran" in done.stdout, done.stdout + done.stderr


def test_the_smoke_run_makes_a_bundle_that_is_whole(tmp_path):
    command = [BIN / "nanorecsys", "bundle"]
    done = subprocess.run(
        [*command, "smoke", "--output", tmp_path / "bundle"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [*command, "--check", tmp_path / "bundle"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    recommended = json.loads((FOLDERS.run("smoke") / "04_ann" / "result.json").read_text())[
        "result"
    ]["recommended"]
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert (manifest["index_factory"], manifest["index_search"]) == (
        recommended["factory"],
        recommended["search"],
    )


def test_running_a_notebook_again_catches_a_changed_result(tmp_path, monkeypatch):
    """A marked cell whose output differs fails, which the nbval tier relies on."""
    monkeypatch.setenv("NANORECSYS_OUT", str(tmp_path / "out"))
    text = (FOLDERS.run("smoke") / "07_summary.ipynb").read_text()
    copies = {"same": text, "other": text.replace(" data.leakage\\n", " data.leak\\n")}
    for name, content in copies.items():
        (tmp_path / f"{name}.ipynb").write_text(content)
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-W", "default", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDERS.root)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert (done.returncode, len(failed)) == (1, 1), done.stdout
    assert "ERROR" not in done.stdout
    assert "other.ipynb" in failed[0]
