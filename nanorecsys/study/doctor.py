"""`nanorecsys doctor`: can this machine run the study, and what is it?"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Literal

import msgspec
import psutil
import threadpoolctl

from nanorecsys.data import DataError
from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.data.registry import fetch
from nanorecsys.study import provenance
from nanorecsys.study.layout import Layout, layout
from nanorecsys.system.processor import has_int8_dot_products

Status = Literal["ok", "warning", "fails"]

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DISK_GIB = 2.0  # what `quick` leaves behind at most


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; `remedy` says what to do where the status is not ok."""

    name: str
    value: str
    status: Status = "ok"
    remedy: str = ""


def examine(where: Layout | None = None) -> list[Check]:
    """Look at this machine and this environment."""
    where = where or layout()
    return [*_machine(where), *_packages(where), *_data(), *_programs()]


def healthy(checks: list[Check]) -> bool:
    """Whether a run could succeed."""
    return all(check.status != "fails" for check in checks)


def pins(where: Layout) -> dict[str, str]:
    """Package to version, as constraints.txt has them; names in canonical form."""
    lines = (where.root / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonical(name): version.strip() for name, version in pairs}


def canonical(name: str) -> str:
    """A distribution's name in canonical form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def chromium() -> str | None:
    """Path of a Chromium, if one is installed."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def _machine(where: Layout) -> Iterator[Check]:
    machine = provenance.machine()
    yield Check(name="CPU", value=machine.cpu_model)
    vnni = has_int8_dot_products()
    yield Check(
        name="CPU flags",
        value=" ".join(machine.cpu_flags) or "none of " + " ".join(provenance.FLAGS),
        status="ok" if vnni else "warning",
        remedy="" if vnni else "without VNNI int8 may be slower than fp32; the figures will differ",
    )
    few = machine.cores < 2
    yield Check(
        name="cores",
        value=str(machine.cores),
        status="warning" if few else "ok",
        remedy="the study is sized for two cores; it will take longer" if few else "",
    )
    available = psutil.virtual_memory().available / 2**30
    low = available < 3
    yield Check(
        name="memory",
        value=f"{machine.memory_gib:.1f} GiB, {available:.1f} available",
        status="fails" if low else "ok",
        remedy="end other programs: the smallest profile needs 3 GiB" if low else "",
    )
    free = shutil.disk_usage(where.root).free / 2**30
    yield Check(
        name="disk",
        value=f"{free:.1f} GiB free",
        status="fails" if free < DISK_GIB else "ok",
        remedy=f"make room for {DISK_GIB:.0f} GiB" if free < DISK_GIB else "",
    )
    yield Check(name="system", value=machine.os)
    old = sys.version_info < (3, 11)
    yield Check(
        name="Python",
        value=machine.python,
        status="fails" if old else "ok",
        remedy="install Python 3.11 or newer, then make clean and again" if old else "",
    )


def _packages(where: Layout) -> Iterator[Check]:
    different, missing = [], []
    for name, pinned in pins(where).items():
        try:
            installed = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if installed != pinned:
            different.append(f"{name} {installed} instead of {pinned}")
    if missing:
        yield Check(
            name="packages",
            value=f"{len(missing)} of constraints.txt missing: {', '.join(missing[:5])}",
            status="fails",
            remedy="make install",
        )
    elif different:
        yield Check(
            name="packages",
            value="; ".join(different[:5]),
            status="warning",
            remedy="make install restores the pinned versions; figures may differ until then",
        )
    else:
        yield Check(name="packages", value="all as constraints.txt pins them")
    for name, version in provenance.versions().items():
        yield Check(name=name, value=version)
    for name, value in provenance.threads().items():
        yield Check(name=name, value=value)
    pools = {f"{p['internal_api']} {p['num_threads']}" for p in threadpoolctl.threadpool_info()}
    yield Check(name="thread pools", value=", ".join(sorted(pools)) or "none loaded")


def _data() -> Iterator[Check]:
    try:
        path = fetch(DEFAULT_DATASET)
    except DataError as error:
        yield Check(
            name="bundled data set", value=error.message, status="fails", remedy=error.remedy
        )
    else:
        yield Check(name="bundled data set", value=f"{path.stat().st_size:,} bytes, checksum right")


def _programs() -> Iterator[Check]:
    browser = chromium()
    yield Check(
        name="Chromium",
        value=os.path.basename(browser) if browser else "missing",
        status="ok" if browser else "warning",
        remedy="" if browser else "only the browser tests need it: apt-get install chromium",
    )
    redis = shutil.which("redis-server")
    yield Check(
        name="Redis",
        value="redis-server" if redis else "missing",
        status="ok" if redis else "warning",
        remedy=""
        if redis
        else "only tests of a shared cache need it: apt-get install redis-server",
    )
