"""Locust's list of user ids has the ids that the data set has. 1 s."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

from nanorecsys.data import load_dataset

LOCUSTFILE = Path(__file__).parents[2] / "benchmarks" / "locustfile.py"


@pytest.fixture
def locustfile(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The locustfile; Locust itself is not installed here."""
    monkeypatch.setitem(sys.modules, "locust", MagicMock(FastHttpUser=object))
    spec = importlib.util.spec_from_file_location("locustfile", LOCUSTFILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "ids",
    [["1", "20", "3"], ["007", "7", "8"], ["ann", "bob b", "Zoë"], ["1.0", "2.0"], ["0", "-5"]],
)
@pytest.mark.parametrize("start", ["", "\ufeff", "user_id\n", "\ufeffuserId\n"])
def test_ids_are_those_of_the_loader(
    tmp_path: Path, locustfile: ModuleType, ids: list[str], start: str
) -> None:
    (tmp_path / "ids.txt").write_text(start + "\n".join(ids) + "\n\n", encoding="utf-8")
    rows = [f"{user},1,{time}" for time, user in enumerate(ids)]
    (tmp_path / "own.csv").write_text("\n".join(["user,item,timestamp", *rows]), encoding="utf-8")
    users = load_dataset(tmp_path / "own.csv").users["user_id"].tolist()
    found = locustfile.read_ids(tmp_path / "ids.txt")
    assert sorted(found) == sorted(users)
    assert {type(user) for user in found} == {type(user) for user in users}
