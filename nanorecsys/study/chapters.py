"""The chapters of the study, found by their notebooks: adding one touches nothing here.

A chapter is `notebooks/NN_name.ipynb` whose metadata names its subpackage (`{"nanorecsys":
{"package": ...}}`), and a module `chapter` in that subpackage with

- `NEEDS`: the names of the chapters that it reads, or `EARLIER` for all before it, those that have
  not run left out;
- `Result`: the typed struct of its result record;
- `CLAIMS`: its claims, a tuple of `nanorecsys.study.claims.Claim`;
- `estimate(parameters) -> Estimate`: what a run of it takes;
- `inputs(parameters) -> list[Path]`: files outside the repository that it reads.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from nanorecsys.study.claims import Claim
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import OWN, Parameter, chapter_module, read_parameters
from nanorecsys.system.errors import NanorecsysError

EARLIER = "earlier"


@dataclass(frozen=True)
class Estimate:
    """What a chapter needs at these parameters, at its peak."""

    memory_gib: float
    disk_gib: float


@dataclass(frozen=True)
class Chapter:
    """One chapter: its notebook, its parameters and what its subpackage declares.

    `needs_all` says that chapters in `needs` may be missing; `judges` are the modules whose claims
    it then evaluates.
    """

    name: str
    notebook: Path
    package: str
    parameters: dict[str, Parameter]
    needs: tuple[str, ...]
    needs_all: bool
    judges: tuple[str, ...]
    result: type
    claims: tuple[Claim, ...]
    estimate: Callable[[dict[str, Any]], Estimate]
    inputs: Callable[[dict[str, Any]], list[Path]]

    @property
    def settable(self) -> dict[str, Parameter]:
        """The parameters that a user may set: all but the one that the runner sets."""
        return {name: p for name, p in self.parameters.items() if name != OWN}


def chapters(where: Layout) -> dict[str, Chapter]:
    """All chapters in their order.

    Raises:
        NanorecsysError: no notebooks, or one that breaks the rules of this module.
    """
    paths = sorted(p for p in where.notebooks.glob("*.ipynb") if re.match(r"\d\d_", p.name))
    if not paths:
        raise NanorecsysError(
            f"expected notebooks NN_name.ipynb in {where.relative(where.notebooks)}, found none"
        )
    found: dict[str, Chapter] = {}
    for path in paths:
        found[path.stem] = _chapter(path, found)
    return found


def _chapter(path: Path, earlier: Mapping[str, Chapter]) -> Chapter:
    notebook = nbformat.read(path, as_version=4)
    package, module = chapter_module(notebook, path.stem)
    parameters = read_parameters(notebook, path.stem)
    if OWN not in parameters:
        raise NanorecsysError(
            f"{path.stem}: the parameters cell lacks {OWN!r}, the run whose chapters it reads"
        )
    needs_all = module.NEEDS == EARLIER
    needs = tuple(earlier) if needs_all else tuple(module.NEEDS)
    if unmet := [n for n in needs if n not in earlier]:
        raise NanorecsysError(
            f"{path.stem} needs {', '.join(unmet)}, which is no chapter before it"
        )
    return Chapter(
        name=path.stem,
        notebook=path,
        package=package,
        parameters=parameters,
        needs=needs,
        needs_all=needs_all,
        judges=tuple(f"{c.package}.chapter" for c in earlier.values()) if needs_all else (),
        result=module.Result,
        claims=module.CLAIMS,
        estimate=module.estimate,
        inputs=module.inputs,
    )
