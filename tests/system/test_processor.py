"""What the processor can do, as the kernel says it."""

from pathlib import Path

import pytest

from nanorecsys.system.processor import has_int8_dot_products


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni", True),
        ("flags: fpu avx_vnni", True),
        ("flags: avx2 avx512f", False),
        ("Features : fp asimd asimddp", True),
        ("", False),
    ],
)
def test_int8_dot_products_are_found_by_their_flags(
    tmp_path: Path, cpuinfo: str, has: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_int8_dot_products(tmp_path / "cpuinfo") is has
    assert not has_int8_dot_products(tmp_path / "none")
