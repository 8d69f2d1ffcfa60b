"""The room that the chapters share: sessions, records, claims, figures and tables; and the runner behind the CLI.

Notebooks import this package; it therefore holds only what a result can depend on. The runner, the
book and the sweeps are imported by the command line alone, so that a change to them leaves every
result valid.
"""

from nanorecsys.study.session import Session, glue, machine_line, start
from nanorecsys.study.tables import styled, table

__all__ = ["Session", "glue", "machine_line", "start", "styled", "table"]
