"""What the chapters share: sessions, records, claims and tables; and the runner behind the CLI.

Notebooks import this package, so it holds only what a result can depend on. The command line alone
imports the runner and the book, so that a change to them leaves every result valid.
"""

from typing import Any

__all__ = ["Session", "glue", "machine_line", "start", "styled"]


def __getattr__(name: str) -> Any:
    """Import a name on first use: the server reads `study.spread` where no notebook package is."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nanorecsys.study import session, tables

    return getattr(tables if name == "styled" else session, name)
