"""The chapters of the study, found by their notebooks, so that a new one changes nothing here.

A chapter is `notebooks/NN_name.ipynb` whose metadata names its subpackage (`{"nanorecsys":
{"package": ...}}`), and a module `chapter` in that subpackage with

- `NEEDS`: names of the chapters that it reads, or `EARLIER` for all earlier ones that have run;
- `Result`: the typed struct of its result record;
- `CLAIMS`: its claims, a tuple of `nanorecsys.study.claims.Claim`;
- `estimate(parameters) -> Estimate`: the memory and disk that a run takes;
- `inputs(parameters) -> list[Path]`: files outside the repository that it reads;
- `checks() -> list[Check]`, optional: what `nanorecsys doctor` reports for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat

from nanorecsys.study.claims import Claim
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import RUN_NAME, Parameter, chapter_module, read_parameters
from nanorecsys.system.errors import NanorecsysError

EARLIER = "earlier"


@dataclass(frozen=True)
class Estimate:
    """Peak memory and disk that a chapter needs with given parameters."""

    memory_gib: float
    disk_gib: float


@dataclass(frozen=True)
class Chapter:
    """One chapter: its notebook, its parameters and the `chapter` module of its subpackage.

    Args:
        needs: Names of the chapters that it reads.
        is_summary: Whether it reads all earlier chapters that have run.
        judges: Modules whose claims a summary judges.
    """

    name: str
    notebook: Path
    module: ModuleType
    parameters: dict[str, Parameter]
    needs: tuple[str, ...]
    is_summary: bool
    judges: tuple[str, ...]

    @property
    def settable(self) -> dict[str, Parameter]:
        """The parameters that a user may set: all but the one that the runner sets."""
        return {name: p for name, p in self.parameters.items() if name != RUN_NAME}

    @property
    def result(self) -> type[Any]:
        """Type of the chapter's result."""
        return self.module.Result

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The chapter's claims."""
        return self.module.CLAIMS


def chapters(folders: Layout) -> dict[str, Chapter]:
    """All chapters in their order.

    Raises:
        NanorecsysError: There is no notebook, or one breaks the rules of this module.
    """
    paths = sorted(p for p in folders.notebooks.glob("*.ipynb") if re.match(r"\d\d_", p.name))
    if not paths:
        raise NanorecsysError(
            f"expected notebooks NN_name.ipynb in {folders.relative(folders.notebooks)}, found none"
        )
    found: dict[str, Chapter] = {}
    for path in paths:
        found[path.stem] = _chapter(path, found)
    return found


def _chapter(path: Path, earlier: Mapping[str, Chapter]) -> Chapter:
    name, notebook = path.stem, nbformat.read(path, as_version=4)
    module = chapter_module(notebook, name)
    parameters = read_parameters(notebook, name)
    if RUN_NAME not in parameters:
        raise NanorecsysError(
            f"{name}: the parameters cell lacks {RUN_NAME!r}, the run whose chapters it reads"
        )
    is_summary = module.NEEDS == EARLIER
    needs = tuple(earlier) if is_summary else tuple(module.NEEDS)
    if unmet := [n for n in needs if n not in earlier]:
        raise NanorecsysError(f"{name} needs {', '.join(unmet)}, which does not run before it")
    judges = tuple(c.module.__name__ for c in earlier.values()) if is_summary else ()
    return Chapter(name, path, module, parameters, needs, is_summary, judges)
