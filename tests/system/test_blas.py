"""The kernels that FAISS multiplies with, in new processes, since OpenBLAS chooses once. 2 s."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nanorecsys.system.blas import KERNELS, VARIABLE, kernels
from nanorecsys.system.processor import processor

ROOT = Path(__file__).parents[2]
ASKED = """
import json
from nanorecsys.system.blas import faiss
from threadpoolctl import threadpool_info
pools = [pool for pool in threadpool_info() if "faiss" in pool["filepath"]]
print(json.dumps([pool["architecture"] for pool in pools if "architecture" in pool]))
"""


def asked(**variables):
    """The kernels that the OpenBLAS of FAISS reports."""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | variables
    told = subprocess.run(
        [sys.executable, "-c", ASKED], env=environment, cwd=ROOT, capture_output=True, check=True
    )
    return json.loads(told.stdout)


@pytest.mark.skipif(
    kernels(processor()[1]) is None, reason="no kernels to choose between on this processor"
)
def test_faiss_multiplies_with_what_the_processor_can_do():
    best = kernels(processor()[1])
    assert asked() == [best]
    last = list(KERNELS)[-1]
    assert asked(**{VARIABLE: last}) == [last]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fma avx2 avx512f avx512cd avx512bw avx512dq avx512vl", "SkylakeX"),
        ("fma avx2 avx512f avx512cd", "Haswell"),  # a Xeon Phi
        ("fma avx2", "Haswell"),
        ("avx", None),
        ("asimd", None),
    ],
)
def test_kernels_need_all_of_their_instructions(flags, expected):
    assert kernels(frozenset(flags.split())) == expected


def imported(code):
    """The modules that a source imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_nothing_else_imports_faiss_before_the_choice():
    sources = {
        p: p.read_text()
        for folder in ("nanorecsys", "server", "benchmarks")
        for p in ROOT.glob(f"{folder}/**/*.py")
    }
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources[path] = "\n".join(
            c.source for c in cells if c.cell_type == "code" and not c.source.startswith("%")
        )
    found = {
        p.relative_to(ROOT).as_posix() for p, code in sources.items() if "faiss" in imported(code)
    }
    assert found == {"nanorecsys/system/blas.py"}
