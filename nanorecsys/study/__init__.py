"""What the chapters share: sessions, records, claims and tables; and the runner behind the CLI.

Notebooks import this package, so it holds only what a result can depend on. The command line alone
imports the runner, the book and the sweeps, so that a change to them leaves every result valid.
"""

from nanorecsys.study.session import Session, glue, machine_line, start
from nanorecsys.study.tables import styled

__all__ = ["Session", "glue", "machine_line", "start", "styled"]
