"""Name and instruction sets of the processor."""

import platform
from pathlib import Path

_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}  # two of x86, one of Arm


def processor(path: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """Model name and flags from the kernel; without that file, the name that `platform` gives."""
    fields: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or "unknown"
    return name, frozenset(fields.get("flags", "").split())


def has_int8_dot_products(path: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor reports int8 dot products (VNNI); False if it reports nothing."""
    return path.exists() and not _INT8_FLAGS.isdisjoint(path.read_text().split())
