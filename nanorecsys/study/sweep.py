"""`nanorecsys sweep`: one chapter at every point of a grid, resumable, compared in one table."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import yaml
from rich.console import Console

from nanorecsys.study.chapters import chapters
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import Parameter, ParameterError, known_chapter, resolve, unknown
from nanorecsys.study.records import read_record, write_atomically
from nanorecsys.study.runner import load_profile, run_chapters
from nanorecsys.study.summary import flatten

SWEEPS = "sweeps"


def parse_grid(parameters: dict[str, Parameter], grid: Iterable[str]) -> dict[str, list[Any]]:
    """Values by parameter name, from `name=a,b,c`; a list-valued one takes `name=[a,b],[c]`.

    Raises:
        ParameterError: An unknown name, a wrong type, no values, the same parameter or value twice.
    """
    values: dict[str, list[Any]] = {}
    for text in grid:
        name, equals, given = text.partition("=")
        source = f"-p {text}"
        if not equals or not given.strip():
            raise ParameterError(f"{source}: expected name=value,value,...")
        if name not in parameters:
            raise unknown(name, parameters, source)
        if name in values:
            raise ParameterError(f"{source}: {name} is given twice")
        parameter = parameters[name]
        loader = yaml.SafeLoader if parameter.type == "list" else yaml.BaseLoader
        try:
            items = yaml.load(f"[{given}]", Loader=loader)
        except yaml.YAMLError as error:
            raise ParameterError(f"{source}: not a list of values: {given}") from error
        check = parameter.check if parameter.type == "list" else parameter.parse
        values[name] = [check(item, source) for item in items]
        if len({repr(value) for value in values[name]}) != len(values[name]):
            raise ParameterError(f"{source}: a value is given twice")
    if not values:
        raise ParameterError("sweep: expected at least one -p name=value,value,...")
    return values


def sweep(
    folders: Layout, profile: str, chapter_name: str, grid: Iterable[str], console: Console
) -> Path:
    """Run `chapter_name` at every point of the grid.

    Returns:
        Folder of sweep.csv, one row per point, one column per parameter or figure.

    Raises:
        ParameterError: An unknown chapter or name, or a wrong value; before anything runs.
        ChapterError: A point failed; the points before it are kept.
    """
    everything = chapters(folders)
    chapter = everything[known_chapter(chapter_name, everything, "sweep")]
    values = parse_grid(chapter.settable, grid)
    settable = {name: c.settable for name, c in everything.items()}
    base = resolve(settable, load_profile(folders, profile), profile)[chapter_name]
    folder = folders.run(profile) / SWEEPS / chapter_name
    points = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    rows = []
    for number, point in enumerate(points, 1):
        label = ", ".join(f"{name}={value}" for name, value in point.items())
        console.print(f"point {number} of {len(points)}: {label}", highlight=False, markup=False)
        run = folder / point_name(point)
        parameters = {chapter_name: base | point}
        upstream = folders.run(profile)
        run_chapters(folders, run, [chapter], parameters, console, upstream=upstream)
        record = read_record(run / chapter_name, chapter.result)
        figures = dict(flatten(msgspec.to_builtins(record.result)))
        rows.append(point | figures | {"seconds": record.provenance.seconds})
    frame = pd.DataFrame(rows)
    write_atomically(folder / "sweep.csv", frame.to_csv(index=False).encode())
    changing = [name for name in frame if name in values or frame[name].astype(str).nunique() > 1]
    console.print(frame[changing].to_string(index=False), highlight=False, markup=False)
    console.print(f"the whole table: {folders.relative(folder / 'sweep.csv')}", highlight=False)
    return folder


def point_name(point: dict[str, Any]) -> str:
    """A folder name for a point: readable, and the same for the same point."""
    text = ",".join(f"{name}={value}" for name, value in point.items())
    return "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)
