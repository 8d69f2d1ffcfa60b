"""Marks of tests that need a library of indexes, and a host without one."""

import importlib.util
import sys

import pytest

from nanorecsys.serving.retrieval import LIBRARIES

NEEDS = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(module.partition(".")[0]) is None,
        reason=f"{name} is not installed: {command}",
    )
    for name, (module, command) in LIBRARIES.items()
}


def remove(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of a library fail, as on a host that lacks it."""
    monkeypatch.setitem(sys.modules, LIBRARIES[name][0], None)
