"""Data frames as the pages show them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pandas.io.formats.style import Styler

LONG_TEXT = 30  # characters; columns of longer texts are wide enough for a sentence
LONG_WORD = 20  # characters; a longer word, such as an index, breaks behind its commas


def cell(value: Any) -> str:
    """The text of one cell: separators for whole numbers, four significant digits for fractions.

    >>> cell(1234567), cell(0.123456), cell(True)
    ('1,234,567', '0.1235', 'yes')
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{int(value):,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def styled(frame: pd.DataFrame, formats: Mapping[str, str] | None = None) -> Styler:
    """A data frame as a page shows it: no index, aligned columns, a dash for a missing value.

    Args:
        frame: One row per line of the table; column names are the titles.
        formats: Format string of a column, such as `{"share": "{:.1%}"}`; `cell` otherwise.
    """
    shown = Styler(frame, cell_ids=False).hide(axis="index")
    formatters = dict.fromkeys(frame.columns, _breakable) | dict(formats or {})
    shown = shown.format(formatters, na_rep="-", escape="html")
    shown = shown.format_index(escape="html", axis="columns")
    styles = {}
    for name in frame:
        is_number = is_numeric_dtype(frame[name])
        side = "right" if is_number else "left"
        texts = [] if is_number else [str(value) for value in frame[name]]
        width = "7rem" if any(len(text) > LONG_TEXT for text in texts) else "3rem"
        parts = [part for text in texts for word in text.split() for part in word.split(",")]
        wrap = "anywhere" if any(len(part) > LONG_WORD for part in parts) else "normal"
        props = f"text-align: {side}; min-width: {width}; overflow-wrap: {wrap}"
        styles[name] = [{"selector": "", "props": props}]
    return shown.set_table_styles(styles)


def _breakable(value: Any) -> str:
    """The text of a cell in HTML, where a long word may break behind its commas."""
    words = cell(value).split(" ")
    return " ".join(w.replace(",", ",<wbr>") if len(w) > LONG_WORD else w for w in words)
