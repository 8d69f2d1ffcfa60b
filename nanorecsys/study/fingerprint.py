"""What a chapter's result depends on, as one hash: notebook source, parameters, code, upstream results, input files."""

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import nbformat

from nanorecsys.study.chapters import Chapter
from nanorecsys.study.layout import Layout
from nanorecsys.study.records import FILE

NAMED = 3  # files named in a reason; the rest are counted


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """Digest of everything that a chapter's result depends on, by part, so that a change can be named."""

    notebook: str
    parameters: dict[str, Any]
    sources: dict[str, str]
    upstream: dict[str, str]
    inputs: dict[str, str]

    @property
    def key(self) -> str:
        """One digest of all parts."""
        return _digest(msgspec.json.encode(self, order="deterministic"))

    def changed_since(self, old: "Fingerprint") -> str:
        """Which parts differ from `old`, in words; empty if none."""
        parts = []
        if self.notebook != old.notebook:
            parts.append("the notebook")
        for name in sorted(self.parameters.keys() | old.parameters.keys()):
            before, now = old.parameters.get(name), self.parameters.get(name)
            if before != now:
                parts.append(f"{name} {before!r} -> {now!r}")
        for title, mine, theirs in (
            ("code", self.sources, old.sources),
            ("results of", self.upstream, old.upstream),
            ("input", self.inputs, old.inputs),
        ):
            names = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
            if names:
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                parts.append(f"{title} {', '.join(names[:NAMED])}{more}")
        return "; ".join(parts)


def fingerprint(
    chapter: Chapter, parameters: dict[str, Any], where: Layout, run: Path
) -> Fingerprint:
    """The fingerprint that a run of `chapter` with `parameters` in the folder `run` has now."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    cells = [(c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in notebook.cells]
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    files = source_files(
        "\n".join([code, *(f"import {module}" for module in chapter.judges)]), where.root
    )
    upstream = {n: run / n / FILE for n in chapter.needs}
    return Fingerprint(
        notebook=_digest(msgspec.json.encode(cells)),
        parameters=parameters,
        sources={where.relative(path): _file_digest(path) for path in sorted(files)},
        upstream={
            n: _file_digest(path) if path.exists() else "none" for n, path in upstream.items()
        },
        inputs={path.name: _file_digest(path) for path in chapter.inputs(parameters)},
    )


def source_files(code: str, root: Path) -> set[Path]:
    """The repository's modules that `code` imports, and those that they import in turn.

    Imports are read from the syntax tree, wherever they stand; a module of which only a package is
    known counts with its `__init__`, since importing it runs that.
    """
    found: set[Path] = set()
    waiting = list(_imported(code, package=""))
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        parts = module.split(".")
        if len(parts) > 1:
            waiting.append(".".join(parts[:-1]))
        base = root.joinpath(*parts)
        for path, package in (
            (base / "__init__.py", module),
            (base.with_suffix(".py"), ".".join(parts[:-1])),
        ):
            if path.is_file():
                found.add(path)
                waiting.extend(_imported(path.read_text(), package))
                break
    return found


@cache  # the chapters share most of their modules
def _imported(code: str, package: str) -> frozenset[str]:
    """Dotted names that `code` imports; for `from a import b` both `a` and `a.b`, since b may be a module."""
    names: set[str] = set()
    lines = [line for line in code.splitlines() if not line.startswith("%")]  # notebook magics
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(names)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
