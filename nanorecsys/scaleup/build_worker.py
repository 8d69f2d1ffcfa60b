"""`python -m nanorecsys.scaleup.build_worker PLAN OUTCOME`: build one index in a process that does nothing else.

So its peak memory is that of the build, and a build that is killed takes nothing with it but the
step it was at.
"""

import sys
from pathlib import Path

import msgspec

from nanorecsys.ann.errors import SpecificationError
from nanorecsys.scaleup.build import Plan, build
from nanorecsys.system.files import atomic_path
from nanorecsys.system.memory import forget_peak, peak_resident_bytes


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes of a build, or the error's class and message.

    `shared_s` is the time of centroids and lists, which other indexes use as well; `peak_bytes` is
    all that was resident, the libraries included; `index_bytes` are those of its files.
    """

    path: str = ""
    build_s: float = 0.0
    shared_s: float = 0.0
    index_bytes: int = 0
    peak_bytes: int = 0
    error: str = ""
    message: str = ""


def run(plan: Plan) -> Outcome:
    """Do what is asked, and measure it."""
    forget_peak()
    try:
        built = build(plan)
    except SpecificationError as error:
        return Outcome(error=type(error).__name__, message=error.message)
    lists = built.path.with_suffix(".ivfdata")
    return Outcome(
        path=str(built.path),
        build_s=built.build_s,
        shared_s=built.shared_s,
        index_bytes=built.path.stat().st_size + (lists.stat().st_size if lists.exists() else 0),
        peak_bytes=peak_resident_bytes(),
    )


if __name__ == "__main__":
    outcome = run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan))
    with atomic_path(Path(sys.argv[2])) as part:
        part.write_bytes(msgspec.json.encode(outcome))
