"""Refuse what the machine has no room for, before any of it starts."""

import shutil
from pathlib import Path

import psutil

from nanorecsys.scaleup.errors import DiskSpaceError, MemorySpaceError
from nanorecsys.study.chapters import Estimate


def check_room(needed: Estimate, folder: Path) -> None:
    """Hold an estimate against the memory that is available and the disk of a folder that exists.

    Raises:
        MemorySpaceError, DiskSpaceError: names what is needed and what there is.
    """
    memory, disk = psutil.virtual_memory().available / 2**30, shutil.disk_usage(folder).free / 2**30
    if needed.memory_gib > memory:
        raise MemorySpaceError(
            f"This takes about {needed.memory_gib:.1f} GiB of memory, {memory:.1f} GiB are available.",
            "Lower memory_gib, so that exact search maps the vectors from the file, or ask for fewer items.",
        )
    if needed.disk_gib > disk:
        raise DiskSpaceError(
            f"This takes about {needed.disk_gib:.1f} GiB of disk, {disk:.1f} GiB are free.",
            "Make room, or ask for fewer items or indexes.",
        )
