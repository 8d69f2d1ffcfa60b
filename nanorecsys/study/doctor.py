"""`nanorecsys doctor`: can this machine run the study, and what is it?"""

import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import Literal

import msgspec
from packaging.utils import canonicalize_name

from nanorecsys.study import provenance
from nanorecsys.study.layout import Layout, layout
from nanorecsys.system import limits
from nanorecsys.system.processor import has_int8_dot_products

Status = Literal["ok", "warning", "fails"]

DISK_GIB = 2.0  # what `quick` leaves behind at most
MEMORY_GIB = 3.0  # what `smoke` needs
LISTED = 5  # packages in a message, the missing ones first
# Libraries of indexes that not every host has, with the commands that install them.
OPTIONAL = {"scann": "pip install scann", "lorann": "pip install -e '.[lorann]'"}


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report, with a remedy if the status is not ok."""

    name: str
    value: str
    status: Status = "ok"
    remedy: str = ""


def examine(folders: Layout | None = None) -> list[Check]:
    """Check this machine and this environment."""
    folders = folders or layout()
    return [*_machine(folders), *_packages(folders)]


def healthy(checks: list[Check]) -> bool:
    """Whether a run could succeed."""
    return all(check.status != "fails" for check in checks)


def pins(folders: Layout) -> dict[str, str]:
    """Versions that constraints.txt pins, by package name in canonical form."""
    lines = (folders.root / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def _check(name: str, value: str, good: bool, remedy: str, otherwise: Status = "warning") -> Check:
    """A check that is ok or has the status `otherwise`, then with the remedy."""
    if good:
        return Check(name=name, value=value)
    return Check(name=name, value=value, status=otherwise, remedy=remedy)


def _machine(folders: Layout) -> Iterator[Check]:
    machine = provenance.machine()
    available = limits.available_bytes() / 2**30
    free = shutil.disk_usage(folders.root).free / 2**30
    yield Check(name="CPU", value=machine.cpu_model)
    flags = " ".join(machine.cpu_flags) or "none of " + " ".join(provenance.FLAGS)
    remedy = "without VNNI int8 may be slower than fp32; the figures will differ"
    yield _check("CPU flags", flags, has_int8_dot_products(), remedy)
    remedy = "the study is sized for two cores; it will take longer"
    yield _check("cores", str(machine.cores), machine.cores >= 2, remedy)
    memory = f"{machine.memory_gib:.1f} GiB, {available:.1f} available"
    remedy = f"end other programs: the smallest profile needs {MEMORY_GIB:g} GiB"
    yield _check("memory", memory, available >= MEMORY_GIB, remedy, "fails")
    remedy = f"make room for {DISK_GIB:g} GiB"
    yield _check("disk", f"{free:.1f} GiB free", free >= DISK_GIB, remedy, "fails")
    yield Check(name="system", value=f"{machine.os}, Python {machine.python}")


def _packages(folders: Layout) -> Iterator[Check]:
    pinned = pins(folders)
    installed: dict[str, str] = {
        canonicalize_name(d.name): d.version for d in metadata.distributions()
    }
    missing = [f"{n} is missing" for n in pinned if n not in installed and n not in OPTIONAL]
    different = [
        f"{name} {installed[name]} instead of {version}"
        for name, version in pinned.items()
        if installed.get(name, version).partition("+")[0] != version  # 2.13.0+cpu is 2.13.0
    ]
    found = "; ".join([*missing, *different][:LISTED]) or "all as constraints.txt pins them"
    remedy = "make install restores the pinned versions; figures may differ until then"
    status: Status = "fails" if missing else "warning"
    yield _check("packages", found, not missing and not different, remedy, status)
    for name, command in OPTIONAL.items():
        yield Check(name=name, value=installed.get(name, f"not installed, optional: {command}"))
    for name in provenance.LIBRARIES:
        yield Check(name=name, value=installed.get(name, "missing"))
    for name, value in provenance.threads().items():
        yield Check(name=name, value=value)
