"""`nanorecsys sweep`: one chapter at every point of a grid, resumable, compared in one table."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pandas as pd
from rich.console import Console

from nanorecsys.study.chapters import chapters
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import ParameterError, known_chapter, resolve
from nanorecsys.study.records import read_record
from nanorecsys.study.runner import Run, load_profile, run_chapters
from nanorecsys.study.summary import flatten
from nanorecsys.system.files import write_atomically

SWEEPS = "sweeps"


def grid_points(grid: Iterable[str]) -> list[dict[str, str]]:
    """The points of a grid as texts by parameter name; a list-valued one takes `name=[a,b],[c]`.

    Raises:
        ParameterError: No values, or the same parameter twice.

    >>> grid_points(["k=1,2", "specs=[Flat,SQ8]"])
    [{'k': '1', 'specs': '[Flat,SQ8]'}, {'k': '2', 'specs': '[Flat,SQ8]'}]
    """
    values: dict[str, list[str]] = {}
    for text in grid:
        name, _, given = text.partition("=")
        if not given.strip() or name in values:
            raise ParameterError(f"-p {text}: expected name=value,value,... once for each name")
        values[name] = re.split(r",(?![^\[]*\])", given)  # commas outside brackets
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def sweep(
    folders: Layout, profile: str, chapter_name: str, grid: Iterable[str], console: Console
) -> None:
    """Run `chapter_name` at every point of the grid.

    It writes sweep.csv: one row per point, one column per parameter or figure.

    Raises:
        ParameterError: An unknown chapter or name, or a wrong value; before anything runs.
        ChapterError: A point failed; the points before it are kept.
    """
    everything = chapters(folders)
    chapter = everything[known_chapter(chapter_name, everything, "sweep")]
    settable = {name: c.settable for name, c in everything.items()}
    values = load_profile(folders, profile)
    folder = folders.run(profile) / SWEEPS / chapter_name
    texts_by_point = grid_points(grid)
    swept = list(texts_by_point[0])
    points: dict[str, dict[str, Any]] = {}
    for texts in texts_by_point:
        overrides = [f"{chapter_name}.{name}={text}" for name, text in texts.items()]
        parameters = resolve(settable, values, profile, overrides)[chapter_name]
        points[point_name({name: parameters[name] for name in swept})] = parameters
    rows = []
    for number, (name, parameters) in enumerate(points.items(), 1):
        console.print(f"point {number} of {len(points)}: {name}", highlight=False, markup=False)
        run = Run(folders, folder / name, {chapter_name: parameters}, folders.run(profile))
        run_chapters(run, [chapter], console)
        record = read_record(run.folder / chapter_name, chapter.result)
        figures = dict(flatten(msgspec.to_builtins(record.result)))
        point = {name: parameters[name] for name in swept}
        rows.append(point | figures | {"seconds": record.provenance.seconds})
    frame = pd.DataFrame(rows)
    write_atomically(folder / "sweep.csv", frame.to_csv(index=False).encode())
    changing = [name for name in frame if name in swept or frame[name].astype(str).nunique() > 1]
    console.print(frame[changing].to_string(index=False), highlight=False, markup=False)
    console.print(f"the whole table: {folders.relative(folder / 'sweep.csv')}", highlight=False)


def point_name(point: dict[str, Any]) -> str:
    """A folder name for a point: readable, and the same for the same point."""
    text = ",".join(f"{name}={value}" for name, value in point.items())
    return "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)
