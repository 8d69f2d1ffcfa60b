"""Chapters under plain papermill, without the runner, as a reader would use them."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nanorecsys.study.chapters import chapters
from nanorecsys.study.gate import check_executed
from nanorecsys.study.layout import layout

FOLDERS = layout()
CHAPTERS = chapters(FOLDERS)
BIN = Path(sys.executable).parent


def as_arguments(parameters):
    return [
        w
        for k, v in parameters.items()
        for w in ("-p", k, v if isinstance(v, str) else json.dumps(v))
    ]


def papermill(*arguments, cwd, check=True):
    done = subprocess.run([BIN / "papermill", *arguments], cwd=cwd, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("name", CHAPTERS)
def test_papermill_prints_every_parameter_with_its_meaning(name):
    done = papermill("--help-notebook", f"notebooks/{name}.ipynb", cwd=FOLDERS.root)
    assert "Unable to parse" not in done.stderr
    for parameter in CHAPTERS[name].parameters.values():
        assert parameter.name in done.stdout
        assert parameter.help in done.stdout


# The nbval tier also runs every chapter without the runner; here papermill does, from two folders:
# the first test from another one, the others from the root.
def test_plain_papermill_runs_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("NANORECSYS_OUT", str(tmp_path / "out"))
    smoke = json.loads((FOLDERS.run("smoke") / "01_data" / "result.json").read_text())["parameters"]
    output = tmp_path / "out.ipynb"
    # papermill's own parameters, such as PAPERMILL_INPUT_PATH, are none of the chapter's
    arguments = ["--inject-paths", *as_arguments(smoke)]
    papermill(FOLDERS.notebooks / "01_data.ipynb", output, *arguments, cwd=tmp_path)
    assert "PAPERMILL_INPUT_PATH" in output.read_text()
    check_executed(nbformat.read(output, as_version=4), "01_data")
    assert (tmp_path / "out" / "01_data" / "result.json").exists()


@pytest.mark.long
def test_the_index_chapter_runs_on_another_size_and_other_indexes(tmp_path, monkeypatch):
    monkeypatch.setenv("NANORECSYS_OUT", str(tmp_path / "out"))
    small = {
        "run_name": "smoke",
        "n_items": 6500,
        "specs": ["Flat", "IVF32,SQ8"],
        "generator": "local",
    }
    small |= {"points": 2, "timed_queries": 20, "confirm_rounds": 1, "rounds": 1}
    papermill(
        "notebooks/04_ann.ipynb", tmp_path / "out.ipynb", *as_arguments(small), cwd=FOLDERS.root
    )
    result = json.loads((tmp_path / "out" / "04_ann" / "result.json").read_text())["result"]
    assert (result["n_items"], result["generator"]) == (6500, "local")
    assert {p["factory"] for p in result["best"]} == {"Flat", "IVF32,SQ8"}


@pytest.mark.long
def test_the_scale_up_chapter_runs_alone_at_another_size_and_on_a_named_generator(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("NANORECSYS_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("NANORECSYS_MILVUS", "none")
    smoke = json.loads((FOLDERS.run("smoke") / "05_scaleup" / "result.json").read_text())[
        "parameters"
    ]
    small = smoke | {"n_items": 7_500, "generator": "local", "generators": ["local"]}
    small |= {"sizes": []}
    papermill(
        FOLDERS.notebooks / "05_scaleup.ipynb",
        tmp_path / "out.ipynb",
        *as_arguments(small),
        cwd=tmp_path,
    )
    check_executed(nbformat.read(tmp_path / "out.ipynb", as_version=4), "05_scaleup")
    result = json.loads((tmp_path / "out" / "05_scaleup" / "result.json").read_text())["result"]
    assert (result["n_items"], result["generator"]) == (7_500, "local")


def test_plain_papermill_keeps_its_results_apart_from_the_study(tmp_path):
    before = (FOLDERS.run("smoke") / "07_summary" / "result.json").read_bytes()
    papermill(
        "notebooks/07_summary.ipynb",
        tmp_path / "o.ipynb",
        "-p",
        "run_name",
        "smoke",
        cwd=FOLDERS.root,
    )
    check_executed(nbformat.read(tmp_path / "o.ipynb", as_version=4), "07_summary")
    assert (FOLDERS.run("by-hand") / "07_summary" / "result.json").exists()
    assert (FOLDERS.run("smoke") / "07_summary" / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-p", "sample_usres", "5"), "did you mean sample_users?"),
        (("-p", "sample_users", "many"), "sample_users is int, not 'many'"),
        (("-p", "dataset", "ml-20"), "no data set, folder or file 'ml-20'"),
    ],
)
def test_a_wrong_parameter_stops_plain_papermill(arguments, told, tmp_path, monkeypatch):
    monkeypatch.setenv("NANORECSYS_OUT", str(tmp_path / "out"))
    done = papermill(
        "notebooks/01_data.ipynb",
        tmp_path / "o.ipynb",
        *arguments,
        cwd=FOLDERS.root,
        check=False,
    )
    assert done.returncode != 0
    assert told in done.stderr


def test_a_summary_over_nothing_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("NANORECSYS_OUT", str(tmp_path / "out"))
    papermill(
        "notebooks/07_summary.ipynb",
        tmp_path / "o.ipynb",
        "-p",
        "run_name",
        "nothing",
        cwd=FOLDERS.root,
    )
    result = json.loads((tmp_path / "out" / "07_summary" / "result.json").read_text())["result"]
    assert result["chapters_run"] == []
    assert "01_data" in result["chapters_missing"]
    claims = json.loads((tmp_path / "out" / "07_summary" / "claims.json").read_text())
    assert {c["verdict"] for c in claims} == {"not run"}
