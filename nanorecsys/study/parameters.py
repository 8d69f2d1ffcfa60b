"""What a notebook source declares: its package and its typed parameters, checked before a run.

papermill only logs an unknown name and enforces no type, so a typo would silently run the defaults.
A parameter is one statement of the cell, `name: type = literal  # meaning`, with type int, float,
str, bool or list. The meaning may be missing, since a reader who types a line anew drops it.
"""

import ast
import contextlib
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
RUN_NAME = "run_name"  # the run whose upstream results a chapter reads; the runner sets it
NO_MEANING = "no comment says what it means"
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "list": list}
SEED_SHIFT = 1000  # offset of every random seed in a second run


class ParameterError(NanorecsysError):
    """A parameter that does not exist, or a value of the wrong type."""


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell."""

    name: str
    type: str
    default: Value
    help: str

    def check(self, value: Any, source: str) -> Value:
        """`value` as this parameter's type; a float parameter also takes an int.

        Args:
            value: Value to check.
            source: Who set it, for the message.

        Raises:
            ParameterError: The value is of another type.
        """
        if self.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is TYPES[self.type]:
            return value
        raise ParameterError(
            f"{source}: {self.name} is {self.type}, not {value!r} ({type(value).__name__})",
            f"{self.name}: {self.help} (default {self.default!r})",
        )

    def parse(self, value: Any, source: str) -> Value:
        """`value` as this parameter's type; a text means a YAML literal, unless the type is str."""
        if isinstance(value, str) and self.type != "str":
            with contextlib.suppress(ValueError, yaml.YAMLError):  # `check` refuses such a text
                # YAML 1.1 reads 1e-3 as text
                value = float(value) if self.type == "float" else yaml.safe_load(value)
        return self.check(value, source)


def read_parameters(notebook: nbformat.NotebookNode, name: str) -> dict[str, Parameter]:
    """The parameters of a notebook source, in the order of its cell.

    Raises:
        ParameterError: Not exactly one cell is tagged `parameters`, or a line of it is not `name:
            type = literal`.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{name}: expected one cell tagged 'parameters', found {len(cells)}")
    source = cells[0].source
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(
            f"{name}: the parameters cell is not Python: {error.msg}",
            f"correct this line in the notebook: {(error.text or '').strip()}",
        ) from error
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.strip("# ") for t in tokens if t.type == tokenize.COMMENT}
    found = {}
    for node in statements:
        try:
            key, kind, default = node.target.id, node.annotation.id, ast.literal_eval(node.value)  # type: ignore[attr-defined]
            parameter = Parameter(key, kind, default, comments.get(node.end_lineno, NO_MEANING))
            if "=" in parameter.help:
                raise ValueError("papermill cannot read a comment with an equals sign")
            parameter.check(default, name)
        except (AttributeError, ValueError, KeyError) as error:  # KeyError: of an unknown type
            line = source.splitlines()[node.lineno - 1]
            raise ParameterError(
                f"{name}: {line!r} in the parameters cell is not a parameter",
                f"write name: type = literal, and no = in a comment; types: {', '.join(TYPES)}",
            ) from error
        found[key] = parameter
    return found


def chapter_module(notebook: nbformat.NotebookNode, name: str) -> ModuleType:
    """The `chapter` module of the package that a notebook's metadata names."""
    package = notebook.metadata.get("nanorecsys", {}).get("package")
    if not package:
        raise NanorecsysError(
            f"{name}: the notebook's metadata names no package",
            'add {"nanorecsys": {"package": "nanorecsys.NAME"}} to its metadata',
        )
    return importlib.import_module(f"{package}.chapter")


def unknown(
    name: str, valid: Iterable[str], source: str, kind: str = "parameter"
) -> ParameterError:
    """The error for an unknown name, with the nearest valid one and a list of all."""
    valid = sorted(set(valid))
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    return ParameterError(f"{source}: no {kind} {name!r}", f"{hint}valid: {', '.join(valid)}")


def known_chapter(name: str, chapters: Iterable[str], source: str) -> str:
    """`name`, if it is one of `chapters`.

    Raises:
        ParameterError: It is none of them.
    """
    if name not in chapters:
        raise unknown(name, chapters, source, "chapter")
    return name


def is_seed(name: str) -> bool:
    """Whether a parameter is a random seed or a list of them, by its name."""
    return name.endswith(("seed", "seeds"))


def other_seeds(values: Mapping[str, Value]) -> dict[str, Value]:
    """Parameters of a second run, in which every random seed is another.

    >>> other_seeds({"seed": 0, "seeds": [0, 1], "k": 10})
    {'seed': 1000, 'seeds': [1000, 1001], 'k': 10}
    """

    def shifted(value: Any) -> Any:
        return list(map(shifted, value)) if isinstance(value, list) else value + SEED_SHIFT

    return {name: shifted(value) if is_seed(name) else value for name, value in values.items()}


def resolve(
    chapters: Mapping[str, Mapping[str, Parameter]],
    profile: Mapping[str, Mapping[str, Any] | None],
    profile_name: str,
    overrides: Iterable[str] = (),
) -> dict[str, dict[str, Value]]:
    """Every chapter's parameters: notebook defaults, then the profile, then the command line.

    Args:
        chapters: Parameters by chapter.
        profile: Values that the profile sets, by chapter.
        profile_name: Name of the profile, for messages.
        overrides: Texts `chapter.name=value`, or `name=value` for every chapter with such a
            parameter.

    Raises:
        ParameterError: An unknown chapter or name, a wrong type, or an override that is not
            `name=value`.
    """
    values = {
        name: {p.name: p.default for p in parameters.values()}
        for name, parameters in chapters.items()
    }
    for chapter, settings in profile.items():
        parameters = chapters[known_chapter(chapter, chapters, f"profile {profile_name}")]
        source = f"profile {profile_name}, {chapter}"
        for name, value in (settings or {}).items():
            if name not in parameters:
                raise unknown(name, parameters, source)
            values[chapter][name] = parameters[name].check(value, source)
    for override in overrides:
        source = f"-p {override}"
        name, equals, text = override.partition("=")
        if not equals:
            raise ParameterError(f"{source}: expected name=value or chapter.name=value")
        chapter, dot, key = name.rpartition(".")
        candidates = [known_chapter(chapter, chapters, source)] if dot else list(chapters)
        targets = [c for c in candidates if key in chapters[c]]
        if not targets:
            raise unknown(key, (k for c in candidates for k in chapters[c]), source)
        for target in targets:
            values[target][key] = chapters[target][key].parse(text, source)
    return values
