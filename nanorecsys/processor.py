"""What the processor calls itself and what it can do."""

import platform
from pathlib import Path


def processor(path: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """Model name and flags, as the kernel tells them; what `platform` knows where there is no such file."""
    fields: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or "unknown"
    return name, frozenset(fields.get("flags", "").split())
