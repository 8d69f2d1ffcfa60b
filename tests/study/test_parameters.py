"""Parameters: read from a notebook's cell, refused when wrong."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from nanorecsys.study.parameters import ParameterError, read_parameters, resolve

GOOD = """n_items: int = 27278  # catalogue size
rate: float = 1e-3  # a step
name: str = "a=b, c"  # holds an equals sign
exact: bool = False  # or not
specs: list = ["Flat", "IVF256,SQ8"]  # index strings
"""


def notebook(source, tags=("parameters",)):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": list(tags)})])


def test_reads_name_type_default_and_meaning():
    found = read_parameters(notebook(GOOD), "x")
    assert [(p.name, p.type, p.default, p.help) for p in found.values()] == [
        ("n_items", "int", 27278, "catalogue size"),
        ("rate", "float", 0.001, "a step"),
        ("name", "str", "a=b, c", "holds an equals sign"),
        ("exact", "bool", False, "or not"),
        ("specs", "list", ["Flat", "IVF256,SQ8"], "index strings"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "n_items = 5  # no type",
        "n_items: int = 2 + 3  # not a literal",
        "n_items: int = 'five'  # of another type",
        "n_items: int | None = None  # no plain type",
        "import os  # no parameter",
        "n_items: bool = 1  # an int is no bool",
        "n_items: int = 1  # papermill cannot read n = 1 here",
        "n_items: int =  # no value",
    ],
)
def test_refuses_a_line_that_is_no_parameter(source):
    with pytest.raises(ParameterError):
        read_parameters(notebook(source), "x")


def test_a_line_that_a_reader_typed_anew_needs_no_comment_nor_one_line():
    source = 'n_items: int = 5\nspecs: list = [\n    "Flat",\n]  # index strings\n'
    found = read_parameters(notebook(source), "x")
    assert [p.default for p in found.values()] == [5, ["Flat"]]
    assert found["specs"].help == "index strings"
    with pytest.raises(ParameterError, match="n_items is int, not 'six'"):
        found["n_items"].check("six", "-p")


def test_refuses_a_notebook_without_the_cell_or_with_two():
    with pytest.raises(ParameterError, match="found 0"):
        read_parameters(notebook(GOOD, tags=()), "x")
    twice = new_notebook(cells=[*notebook(GOOD).cells, *notebook(GOOD).cells])
    with pytest.raises(ParameterError, match="found 2"):
        read_parameters(twice, "x")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_items", "1_000", 1000),
        ("rate", "1e-3", 0.001),
        ("rate", "2", 2.0),
        ("name", "123", "123"),
        ("name", "a=b", "a=b"),
        ("exact", "true", True),
        ("specs", '["Flat","IVF256,SQ8"]', ["Flat", "IVF256,SQ8"]),
    ],
)
def test_parses_what_the_command_line_says(name, text, value):
    parsed = read_parameters(notebook(GOOD), "x")[name].parse(text, "-p")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n_items", "1.5"),
        ("n_items", "true"),
        ("n_items", ""),
        ("rate", "fast"),
        ("exact", "1"),
        ("specs", "Flat"),
    ],
)
def test_refuses_a_value_of_another_type(name, text):
    with pytest.raises(ParameterError, match=f"{name} is"):
        read_parameters(notebook(GOOD), "x")[name].parse(text, "-p")


def test_the_values_of_a_profile_are_checked_by_name_and_type():
    chapters = {"x": read_parameters(notebook(GOOD), "x")}
    assert resolve(chapters, {"x": {"rate": 1}}, "small")["x"]["rate"] == 1.0
    with pytest.raises(ParameterError, match="did you mean n_items"):
        resolve(chapters, {"x": {"n_itmes": 1}}, "small")
    with pytest.raises(ParameterError, match="profile small, x: n_items is int"):
        resolve(chapters, {"x": {"n_items": True}}, "small")
