"""Sweeps: a grid of parameters, resumable, in one table."""

import csv

import pytest
from rich.console import Console

from nanorecsys.study.parameters import ParameterError
from nanorecsys.study.sweep import point_name, sweep


def test_a_grid_runs_once_and_compares(mini):
    mini.cli("run")
    mini.executions()
    mini.cli("sweep", "02_beta", "-p", "extra=1", "-p", "seed=1,2")
    assert mini.executions() == ["beta"] * 2
    done = mini.cli("sweep", "02_beta", "-p", "extra=1,2.5", "-p", "seed=1,2")
    assert mini.executions() == ["beta"] * 2  # only the new points
    folder = mini.run("quick") / "sweeps" / "02_beta"
    rows = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert [(r["extra"], r["seed"], r["total"]) for r in rows] == [
        ("1.0", "1", "9.0"),
        ("1.0", "2", "9.0"),
        ("2.5", "1", "10.5"),
        ("2.5", "2", "10.5"),
    ]
    assert "the whole table: data/runs/quick/sweeps/02_beta/sweep.csv" in done.stdout
    assert "10.5" in done.stdout
    mini.cli("run")  # the study's own run is untouched
    assert mini.executions() == []


def test_grids_are_checked_before_anything_runs(mini):
    for grid, told in (
        (["extra=1,a"], "extra is float, not 'a'"),
        (["extra="], "expected name=value,value"),
        (["extra"], "expected name=value,value"),
        (["extra=1", "extra=2"], "once for each name"),
        (["run_name=a"], "no parameter 'run_name'"),
        (["extr=1"], "did you mean extra"),
    ):
        with pytest.raises(ParameterError) as error:
            sweep(mini, "quick", "02_beta", grid, Console(quiet=True))
        assert told in str(error.value)
    assert not mini.runs.exists()
    assert point_name({"a": "x/y z", "b": 1}) == "a=x_y_z,b=1"
