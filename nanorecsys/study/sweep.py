"""`nanorecsys sweep`: one chapter at every point of a grid, resumable, compared in one table and one page."""

import csv
import html
import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import msgspec
import yaml
from rich.console import Console

from nanorecsys.study import plots
from nanorecsys.study.chapters import chapters
from nanorecsys.study.layout import Layout
from nanorecsys.study.parameters import Parameter, ParameterError, known_chapter, resolve, unknown
from nanorecsys.study.records import read_record, write_atomically
from nanorecsys.study.runner import load_profile, run_chapters
from nanorecsys.study.summary import flatten
from nanorecsys.study.tables import cell

SWEEPS = "sweeps"


def parse_grid(parameters: dict[str, Parameter], grid: Iterable[str]) -> dict[str, list[Any]]:
    """Parameter name to its values, from `name=a,b,c`; a list-valued parameter takes `name=[a,b],[c]`.

    Raises:
        ParameterError: an unknown name, a wrong type, no values, the same parameter or value twice.
    """
    values: dict[str, list[Any]] = {}
    for text in grid:
        name, equals, given = text.partition("=")
        where = f"-p {text}"
        if not equals or not given.strip():
            raise ParameterError(f"{where}: expected name=value,value,...")
        if name not in parameters:
            raise unknown(name, parameters, where)
        if name in values:
            raise ParameterError(f"{where}: {name} is given twice")
        parameter = parameters[name]
        try:
            items = yaml.load(
                f"[{given}]",
                Loader=yaml.BaseLoader if parameter.type != "list" else yaml.SafeLoader,
            )
        except yaml.YAMLError as error:
            raise ParameterError(f"{where}: not a list of values: {given}") from error
        values[name] = [
            parameter.parse(i, where) if isinstance(i, str) else parameter.check(i, where)
            for i in items
        ]
        if len({repr(v) for v in values[name]}) != len(values[name]):
            raise ParameterError(f"{where}: a value is given twice")
    if not values:
        raise ParameterError("sweep: expected at least one -p name=value,value,...")
    return values


def sweep(
    where: Layout, profile: str, chapter_name: str, grid: Iterable[str], console: Console
) -> Path:
    """Run `chapter_name` at every point of the grid; returns the folder of table and page.

    Raises:
        ParameterError: an unknown chapter or name, or a wrong value; before anything runs.
        ChapterError: a point failed; the points before it are kept.
    """
    everything = chapters(where)
    chapter = everything[known_chapter(chapter_name, everything, "sweep")]
    values = parse_grid(chapter.settable, grid)
    base = resolve(
        {n: c.settable for n, c in everything.items()}, load_profile(where, profile), profile
    )
    folder = where.run(profile) / SWEEPS / chapter_name
    points = [
        dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
    ]
    rows = []
    for number, point in enumerate(points, 1):
        label = ", ".join(f"{k}={v}" for k, v in point.items())
        console.print(f"point {number} of {len(points)}: {label}", highlight=False, markup=False)
        run = folder / point_name(point)
        parameters = {chapter_name: base[chapter_name] | point}
        run_chapters(where, run, [chapter], parameters, console, upstream=where.run(profile))
        record = read_record(run / chapter_name, chapter.result)
        figures = dict(flatten(msgspec.to_builtins(record.result)))
        rows.append(point | figures | {"seconds": record.provenance.seconds})
    write_table(folder / "sweep.csv", rows)
    write_page(folder / "sweep.html", chapter_name, values, rows)
    console.print(
        f"compared in {where.relative(folder / 'sweep.csv')} and sweep.html", highlight=False
    )
    return folder


def point_name(point: dict[str, Any]) -> str:
    """A folder name for a point: readable, and the same for the same point."""
    text = ",".join(f"{name}={value}" for name, value in point.items())
    return "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """One tidy CSV: a row a point, a column a parameter or figure."""
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def write_page(
    path: Path, chapter: str, values: dict[str, list[Any]], rows: list[dict[str, Any]]
) -> None:
    """One page that needs no other file: the figures that differ between points, as a table and as drawings."""
    figures = [n for n in rows[0] if n not in values and len({repr(r.get(n)) for r in rows}) > 1]
    columns = [*values, *figures]
    head = "".join(f"<th scope=col>{html.escape(c)}</th>" for c in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell(row.get(c)))}</td>" for c in columns) + "</tr>"
        for row in rows
    )
    drawn = [n for n in figures if all(isinstance(r.get(n), int | float) for r in rows)]
    page = f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Sweep of {chapter}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
div {{ overflow-x: auto }} table {{ border-collapse: collapse }} svg {{ max-width: 100%; height: auto }}
td, th {{ border-bottom: 1px solid #ccc; padding: .2rem .6rem; text-align: right; white-space: nowrap }}
</style>
<h1>Sweep of {chapter}</h1>
<p>{len(rows)} points over {html.escape(", ".join(values))}; figures that are the same at every point are left out.</p>
<div><table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>
{"".join(_drawing(name, values, rows) for name in drawn)}
</html>
"""
    write_atomically(path, page.encode())


def _drawing(name: str, values: dict[str, list[Any]], rows: list[dict[str, Any]]) -> str:
    """One figure against the first parameter, a line for each combination of the others, as inline SVG."""
    plots.use_house_style()
    first, *others = values
    figure, (axis,) = plots.axes()
    for rest in itertools.product(*(values[o] for o in others)):
        of_line = [r for r in rows if tuple(r[o] for o in others) == rest]
        label = ", ".join(f"{o}={v}" for o, v in zip(others, rest, strict=True))
        axis.plot(
            [str(r[first]) for r in of_line], [r[name] for r in of_line], marker="o", label=label
        )
    axis.set(xlabel=first, ylabel=name)
    if others:
        axis.legend()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    return f"<h2>{html.escape(name)}</h2>{svg[svg.index('<svg') :]}"
