"""`python -m nanorecsys.training` reads a table with its own column names. 1 s."""

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
