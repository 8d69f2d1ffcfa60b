"""What the processor calls itself and what it can do."""

import platform
from pathlib import Path

_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "asimddp"}  # x86 twice, then Arm


def processor(path: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """Model name and flags, as the kernel tells them; what `platform` knows where there is no such file."""
    fields: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or "unknown"
    return name, frozenset(fields.get("flags", "").split())


def has_int8_dot_products(path: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor says that it has int8 dot products (VNNI); False where it says nothing."""
    return path.exists() and not _INT8_FLAGS.isdisjoint(path.read_text().split())
