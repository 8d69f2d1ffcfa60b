"""Resident memory of this process, now and at its peak."""

import re
import resource
import sys
from pathlib import Path

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Resident memory now."""
    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """Highest resident memory since the process began, or since `forget_peak`.

    On Linux `getrusage` does not serve: a process starts with the peak of its parent there.
    """
    if _STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Reset the peak to the current resident memory, where the system allows it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return
