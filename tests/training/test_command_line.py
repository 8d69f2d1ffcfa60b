"""`python -m nanorecsys.training` reads a table as the first chapter does. 1 s."""

import sys
from pathlib import Path

import pytest

from nanorecsys.training.__main__ import main


def test_own_column_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("uid,sku,t\n1,10,100\n1,11,200\n")
    command = ["training", "--dataset", str(path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--columns", "user=uid,item=sku,timestamp=t"])
    assert main() == 1
    assert "all 2 events are of one user, 1" in capsys.readouterr().err


def test_events_that_occur_twice_can_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.csv"
    path.write_text("user,item,timestamp\n1,10,100\n1,10,100\n2,10,200\n")
    command = ["training", "--dataset", str(path), "--out", str(tmp_path / "out")]
    said = []
    for options in ([], ["--duplicates", "keep_first"]):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        assert main() == 1  # no user is left to test
        said.append(capsys.readouterr().err)
    assert 'keep the first of each by the option duplicates="keep_first"' in said[0]
    assert "the same event" not in said[1]
