"""Cores and memory that this process may use: the machine's, or less in a container (cgroup v2)."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """Cores of this process: its affinity, or the quota of a container if that is less."""
    affinity = getattr(os, "sched_getaffinity", None)
    quotas = (_read(folder / "cpu.max").split() for folder in _groups())
    shares = (int(q[0]) / int(q[1]) for q in quotas if len(q) == 2 and q[0].isdigit())
    return max(1, int(min([len(affinity(0)) if affinity else os.cpu_count() or 1, *shares])))


def memory_bytes() -> int:
    """Memory of the machine, or the limit of a container if that is less."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())])


def available_bytes() -> int:
    """Memory that is free or can be freed, on the machine and within each limit of a container."""
    free = (limit - used for limit, used in _memory_limits())
    return max(0, min([psutil.virtual_memory().available, *free]))


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Each limit of a control group in bytes, and what it has in use beyond cached files."""
    for folder in _groups():
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            fields = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            yield int(limit), int(used) - int(fields.get("inactive_file", 0))


def _groups() -> list[Path]:
    """The control group of this process and those above it, each of which may set limits."""
    own = [line[3:] for line in _read(OWN).splitlines() if line.startswith("0::")]
    inside = Path(own[0].lstrip("/")) if own else Path()
    return [CGROUPS / inside, *(CGROUPS / above for above in inside.parents)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
