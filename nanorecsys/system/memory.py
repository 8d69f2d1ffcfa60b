"""Resident memory of this process, now and at its peak."""

import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Resident memory now, or its peak where the system does not report the current value."""
    return _field("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Highest resident memory since the process began, or since `forget_peak`.

    On Linux `getrusage` does not serve: a process starts with the peak of its parent there.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return _field("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Reset the peak to the current resident memory, where the system allows it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


def _field(name: str) -> int:
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
