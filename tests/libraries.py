"""Marks of tests that need a library of indexes, and a host without one."""

import importlib.util
import sys

import pytest

from nanorecsys.serving.errors import LibraryError
from nanorecsys.serving.retrieval import LIBRARIES, LORANN_BITS, load_library

NEEDS = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(module.partition(".")[0]) is None,
        reason=f"{name} is not installed: {command}",
    )
    for name, (module, command) in LIBRARIES.items()
}


def has_halves() -> bool:
    """Whether this LoRANN has vectors of 16 bits: that depends on the processor it was made for."""
    try:
        return hasattr(load_library("lorann"), LORANN_BITS[16])
    except LibraryError:
        return False


NEEDS_HALVES = pytest.mark.skipif(
    not has_halves(), reason="this build of LoRANN has no vectors of 16 bits"
)


def remove(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of a library fail, as on a host that lacks it."""
    monkeypatch.setitem(sys.modules, LIBRARIES[name][0], None)
