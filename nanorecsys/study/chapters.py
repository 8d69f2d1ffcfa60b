"""The chapters of the study, found by their notebooks, so that a new one changes nothing here.

A chapter is `notebooks/NN_name.ipynb` whose metadata names its subpackage (`{"nanorecsys":
{"package": ...}}`), and a module `chapter` in that subpackage with

- `NEEDS`: names of the chapters that it reads, or `EARLIER` for all earlier ones that have run;
- `Result`: the typed struct of its result record;
- `FINDINGS`: by the short name of each of its findings in protocol.yaml, a function from the result
  to one `Interval` by data set, or to None where the run did not measure it;
- `estimate(parameters) -> Estimate`: the memory and disk that a run takes;
- `inputs(parameters) -> list[Path]`, optional: files outside the repository that it reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat

from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import RUN_NAME, Parameter, chapter_module, read_parameters
from nanorecsys.study.protocol import Finding, Protocol, read_protocol

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
        judges: Modules whose findings a summary reads.
        findings: Definitions of what it claims.
        definitions_sha256: Hash of the definitions, see `Protocol.sha256`.
    """

    name: str
    notebook: Path
    module: ModuleType
    parameters: dict[str, Parameter]
    needs: tuple[str, ...]
    is_summary: bool
    judges: tuple[str, ...]
    findings: tuple[Finding, ...]
    definitions_sha256: str

    @property
    def settable(self) -> dict[str, Parameter]:
        """The parameters that a user may set: all but the one that the runner sets."""
        return {name: p for name, p in self.parameters.items() if name != RUN_NAME}


def chapters(folders: Layout) -> dict[str, Chapter]:
    """All chapters in their order.

    Raises:
        NanorecsysError: A notebook names no package, or its parameters cell is not of the form of
            `read_parameters`; or protocol.yaml is malformed.
    """
    found: dict[str, Chapter] = {}
    protocol = read_protocol(folders)
    for path in sorted(folders.notebooks.glob("[0-9][0-9]_*.ipynb")):
        found[path.stem] = _chapter(path, found, protocol)
    return found


def _chapter(path: Path, earlier: Mapping[str, Chapter], protocol: Protocol) -> Chapter:
    name, notebook = path.stem, nbformat.read(path, as_version=4)
    module = chapter_module(notebook, name)
    parameters = read_parameters(notebook, name)
    is_summary = module.NEEDS == EARLIER
    needs = tuple(earlier) if is_summary else tuple(module.NEEDS)
    judges = tuple(c.module.__name__ for c in earlier.values()) if is_summary else ()
    findings = tuple(finding for finding in protocol.findings if finding.chapter == name)
    definitions = protocol.sha256(name)
    return Chapter(name, path, module, parameters, needs, is_summary, judges, findings, definitions)
