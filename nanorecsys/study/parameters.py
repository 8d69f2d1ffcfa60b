"""What a notebook source declares: strict parameters, checked by name and type before anything runs, and its package.

papermill only logs an unknown name and enforces no type, so a typo would silently run the defaults.
A parameter is one line of the cell, `name: type = literal  # meaning`, its type one of int, float,
str, bool, list.
"""

import ast
import difflib
import importlib
import io
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import nbformat
import yaml

from nanorecsys.system.errors import NanorecsysError

Value = int | float | str | bool | list
OWN = "run_name"  # the parameter that says whose upstream results to read; the runner sets it
TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "list": list}


class ParameterError(NanorecsysError):
    """A parameter that does not exist, or a value of the wrong type."""


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell."""

    name: str
    type: str
    default: Value
    help: str

    def check(self, value: Any, where: str) -> Value:
        """`value` as this parameter's type; an int is taken for a float, a bool never for a number.

        Raises:
            ParameterError: the value is of another type; `where` says who set it.
        """
        if self.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, TYPES[self.type]) and isinstance(value, bool) == (self.type == "bool"):
            return value
        raise ParameterError(
            f"{where}: {self.name} is {self.type}, not {value!r} ({type(value).__name__})",
            f"{self.name}: {self.help} (default {self.default!r})",
        )

    def parse(self, text: str, where: str) -> Value:
        """The value that command-line `text` means: itself for a str, otherwise a YAML literal."""
        if self.type == "str":
            return text
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if self.type == "float" and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
            try:
                value = float(value)
            except ValueError:
                value = text
        return self.check(value, where)


def read_parameters(notebook: nbformat.NotebookNode, name: str) -> dict[str, Parameter]:
    """The parameters of a notebook source, in the order of its cell.

    Raises:
        ParameterError: no cell or several are tagged `parameters`, or a line is not `name: type =
            literal  # meaning`.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{name}: expected one cell tagged 'parameters', found {len(cells)}")
    source = cells[0].source
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        line = source.splitlines()[node.lineno - 1]
        try:
            key, kind, default = node.target.id, node.annotation.id, ast.literal_eval(node.value)
            help_text = comments[node.lineno]
            if "=" in help_text:  # papermill does not read such a line
                raise ValueError(help_text)
            parameter = Parameter(key, kind, default, help_text)
            parameter.check(default, name)
        except (AttributeError, ValueError, KeyError) as error:
            raise ParameterError(
                f"{name}: {line!r} in the parameters cell is not a parameter",
                f"write one a line: name: type = literal  # meaning (without =), with type one of {', '.join(TYPES)}",
            ) from error
        found[key] = parameter
    return found


def chapter_module(notebook: nbformat.NotebookNode, name: str) -> tuple[str, ModuleType]:
    """Package and `chapter` module that a notebook's metadata names."""
    package = notebook.metadata.get("nanorecsys", {}).get("package")
    if not package:
        raise NanorecsysError(
            f"{name}: the notebook's metadata names no package",
            'add {"nanorecsys": {"package": "nanorecsys.NAME"}} to its metadata',
        )
    return package, importlib.import_module(f"{package}.chapter")


def unknown(name: str, valid: Iterable[str], where: str, kind: str = "parameter") -> ParameterError:
    """The error for a name that nobody has: gives the nearest match and lists the valid ones."""
    valid = sorted(set(valid))
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    return ParameterError(f"{where}: no {kind} {name!r}", f"{hint}valid: {', '.join(valid)}")


def known_chapter(name: str, chapters: Iterable[str], where: str) -> str:
    """`name`, if it is one of `chapters`.

    Raises:
        ParameterError: it is none of them.
    """
    if name not in chapters:
        raise unknown(name, chapters, where, "chapter")
    return name


def check_values(
    parameters: Mapping[str, Parameter], values: Mapping[str, Any], where: str
) -> dict[str, Value]:
    """`values` checked against `parameters` by name and type.

    Raises:
        ParameterError: a name that is not among them, or a value of the wrong type.
    """
    for name in values:
        if name not in parameters:
            raise unknown(name, parameters, where)
    return {name: parameters[name].check(value, where) for name, value in values.items()}


def resolve(
    chapters: Mapping[str, Mapping[str, Parameter]],
    profile: Mapping[str, Mapping[str, Any]],
    profile_name: str,
    overrides: Iterable[str] = (),
) -> dict[str, dict[str, Value]]:
    """Every chapter's parameters: notebook defaults, then the profile, then the command line.

    Args:
        chapters: chapter name to its parameters.
        profile: chapter name to the values that the profile sets.
        profile_name: for messages.
        overrides: `chapter.name=value`, or `name=value` for every chapter that has such a
            parameter.

    Raises:
        ParameterError: an unknown chapter or name, a wrong type, or an override that is not
            `name=value`.
    """
    values = {
        name: {p.name: p.default for p in parameters.values()}
        for name, parameters in chapters.items()
    }
    for chapter, settings in profile.items():
        where = f"profile {profile_name}"
        values[known_chapter(chapter, chapters, where)] |= check_values(
            chapters[chapter], settings or {}, f"{where}, {chapter}"
        )
    for override in overrides:
        for chapter, parameter, text in _targets(chapters, override):
            values[chapter][parameter.name] = parameter.parse(text, f"-p {override}")
    return values


def _targets(
    chapters: Mapping[str, Mapping[str, Parameter]], override: str
) -> list[tuple[str, Parameter, str]]:
    """The chapters' parameters that one `-p` sets, with the text of its value."""
    name, equals, text = override.partition("=")
    if not equals:
        raise ParameterError(f"-p {override}: expected name=value or chapter.name=value")
    chapter, dot, key = name.rpartition(".")
    if not dot:
        targets = [(c, p[key], text) for c, p in chapters.items() if key in p]
        if not targets:
            raise unknown(key, (k for p in chapters.values() for k in p), f"-p {override}")
        return targets
    known_chapter(chapter, chapters, f"-p {override}")
    if key not in chapters[chapter]:
        raise unknown(key, chapters[chapter], f"-p {override}")
    return [(chapter, chapters[chapter][key], text)]
