"""What a chapter's result depends on: notebook, parameters, code, definitions, results, files."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import nbformat

from nanorecsys.study.chapters import Chapter
from nanorecsys.study.layout import Layout
from nanorecsys.study.records import FILE

LISTED = 3  # files named in a reason; the others are counted
DATA_FILES = (".mplstyle",)  # beside the modules that read them


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a chapter's result depends on.

    Args:
        parameters: Values by name.
        digests: sha256 of the notebook and of every file, by what it is.
    """

    parameters: dict[str, Any]
    digests: dict[str, str]

    @property
    def key(self) -> str:
        """One digest of all parts."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def changed_since(self, old: "Fingerprint") -> str:
        """What differs from `old`, in words; empty if nothing does."""
        before, now = old.parameters, self.parameters
        changes = [f"{n} {before.get(n)!r} -> {now.get(n)!r}" for n in differing(before, now)]
        return "; ".join(changes + some_of(differing(old.digests, self.digests)))


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names whose values differ between two mappings."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def some_of(names: list[str]) -> list[str]:
    """The first names, and the number of the others.

    >>> some_of(["a", "b", "c", "d"])
    ['a', 'b', 'c', '1 more']
    """
    return names[:LISTED] + ([f"{len(names) - LISTED} more"] if len(names) > LISTED else [])


def fingerprint(
    chapter: Chapter, parameters: dict[str, Any], folders: Layout, run: Path
) -> Fingerprint:
    """The fingerprint that a run of `chapter` in the folder `run` would have now."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    cells = [(c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in notebook.cells]
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    # a summary reads the findings of all chapters
    code += [f"import {module}" for module in chapter.judges]
    files = {f"code {folders.relative(p)}": p for p in source_files("\n".join(code), folders.root)}
    files |= {f"results of {name}": run / name / FILE for name in chapter.needs}
    if hasattr(chapter.module, "inputs"):
        files |= {f"input {folders.relative(p)}": p for p in chapter.module.inputs(parameters)}
    digests = {name: _file_digest(path) for name, path in files.items()}
    digests["the notebook"] = hashlib.sha256(msgspec.json.encode(cells)).hexdigest()
    digests["the definitions"] = chapter.definitions_sha256
    return Fingerprint(parameters=parameters, digests=digests)


def source_files(code: str, root: Path) -> set[Path]:
    """The repository's modules that `code` imports, directly or through others.

    Imports are read from the syntax tree, wherever they stand. A module counts with the packages
    around it and with the data files that it names.
    """
    found: set[Path] = set()
    waiting = [code]
    while waiting:
        text = waiting.pop()
        for path in {p for name in _imported(text) for p in _modules(name, root)} - found:
            found.add(path)
            waiting.append(path.read_text())
            beside = (p for p in path.parent.iterdir() if p.suffix in DATA_FILES)
            found.update(p for p in beside if p.name in waiting[-1])
    return found


@cache  # the chapters share most of their modules
def _imported(code: str) -> frozenset[str]:
    """Dotted names that `code` imports; `from a import b` gives both `a` and `a.b`."""
    names: set[str] = set()
    lines = [line for line in code.splitlines() if not line.startswith("%")]  # notebook magics
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _modules(name: str, root: Path) -> Iterator[Path]:
    """The files of a dotted name's packages and of its module, where they are below `root`."""
    base = root
    for part in name.split("."):
        base = base / part
        yield from filter(Path.is_file, (base / "__init__.py", base.with_suffix(".py")))


def _file_digest(path: Path) -> str:
    if not path.exists():
        return "none"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
