"""Tables for the pages, as HTML: what a notebook shows and what a glued table on another page can show are the same."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler


class Markup(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


def code(text: str) -> Markup:
    """`text` as code."""
    return Markup(f"<code>{html.escape(text)}</code>")


def link(text: str, target: str) -> Markup:
    """A link, its target relative to the page that shows the table."""
    return Markup(f'<a href="{html.escape(target)}">{html.escape(text)}</a>')


@dataclass(frozen=True)
class Table:
    """A table that notebooks display."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    stacked: bool = False

    def _repr_html_(self) -> str:
        def line(tag: str, cells: Iterable[str]) -> str:
            styles = {
                "l": "text-align: left",
                "r": "text-align: right",
                "w": "text-align: left; min-width: 11rem",
            }
            labels = [
                f' data-label="{title}"' if self.stacked and tag == "td" else ""
                for title in self.header
            ]
            filled = zip(cells, self.align, labels, strict=True)
            return "".join(
                f'<{tag} style="{styles[a]}"{label}>{content}</{tag}>'
                for content, a, label in filled
            )

        head = line("th", self.header)
        body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        kind = "table dataframe" + " stacked" * self.stacked
        return f'<table class="{kind}">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], align: str = "", stacked: bool = False
) -> Table:
    """A table.

    Args:
        header: column titles.
        rows: one sequence of cells a row; see `cell` for how they are shown.
        align: one letter a column, `l`, `r`, or `w` for left and wide enough for a sentence; left
            where it ends.
        stacked: on a narrow screen each row is a block with a line a cell, so that the last column
            is not out of sight.
    """
    shown = tuple(
        tuple(c if isinstance(c, Markup) else html.escape(cell(c)) for c in row) for row in rows
    )
    return Table(tuple(map(html.escape, header)), shown, align.ljust(len(header), "l"), stacked)


def cell(value: Any) -> str:
    """One cell: a dash for None, separators for whole numbers, four significant digits for fractions."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:,.4g}"
    return str(value)


def styled(frame: pd.DataFrame, formats: Mapping[str, str] | None = None) -> Styler:
    """A data frame as a page shows it: no index, separators for whole numbers, a dash for what is missing.

    Args:
        frame: One row per line of the table; column names are the titles.
        formats: Format string of a column, such as `{"share": "{:.1%}"}`; four significant digits
            otherwise.
    """
    default = dict.fromkeys(frame.columns, cell)
    return frame.style.hide(axis="index").format(default | dict(formats or {}), na_rep="-")
