"""A provenance for records that tests write."""

from nanorecsys.study.provenance import Machine, Provenance


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
