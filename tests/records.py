"""The provenance of records that tests write or copy."""

import re
from pathlib import Path

from nanorecsys.study.provenance import Machine, Provenance
from nanorecsys.study.records import FILE


def as_committed(run: Path) -> None:
    """Make the records of a run those of committed code, which alone is published."""
    for path in run.glob(f"*/{FILE}"):
        path.write_text(re.sub(r'("commit": *"\w+)\+"', r'\1"', path.read_text()))


def example_provenance(commit: str, started_utc: str, definitions_sha256: str = "") -> Provenance:
    """The provenance of a run of one second on a small machine."""
    return Provenance(
        commit=commit,
        definitions_sha256=definitions_sha256,
        started_utc=started_utc,
        seconds=1.0,
        peak_rss_mib=1.0,
        machine=Machine(
            cpu_model="a CPU", cpu_flags=[], cores=2, memory_gib=8.0, os="Linux", python="3.11"
        ),
        threads={},
        versions={},
        seeds={},
    )
