"""FAISS's matrix products with each kernel of its OpenBLAS: assignment to centroids.

The row `detected` is OpenBLAS's own choice. `nanorecsys.system.blas` says why it is not used.
"""

import argparse
import os
import statistics
import subprocess
import sys

from nanorecsys.system.blas import KERNELS, VARIABLE, kernels
from nanorecsys.system.processor import processor

VECTORS, CENTROIDS, D = 32_768, 4096, 256  # a block of items and the lists of three million
DETECTED = "detected"
WORK = f"""
import sys, time
if sys.argv[1] == "{DETECTED}":
    import faiss
else:
    from nanorecsys.system.blas import faiss
import numpy as np
from threadpoolctl import threadpool_info
made = np.random.default_rng(0)
sizes = ({CENTROIDS}, {VECTORS})
centroids, vectors = (made.standard_normal((n, {D}), dtype=np.float32) for n in sizes)
quantizer = faiss.IndexFlatIP({D})
quantizer.add(centroids)
quantizer.search(vectors[:1024], 1)
start = time.perf_counter()
quantizer.search(vectors, 1)
seconds = time.perf_counter() - start
pools = [p for p in threadpool_info() if "faiss" in p["filepath"]]
name = next(p["architecture"] for p in pools if "architecture" in p)
print(name, seconds)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each, in turn")
    repeats = parser.parse_args().repeats

    model, flags = processor()
    left = {k: v for k, v in os.environ.items() if k != VARIABLE}
    able = [name for name, needed in KERNELS.items() if needed <= flags]
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for asked in (DETECTED, *able):
            environment = left if asked == DETECTED else left | {VARIABLE: asked}
            told = subprocess.run(
                [sys.executable, "-c", WORK, asked],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            name, seconds = told.stdout.split()
            label = f"{asked}: {name}" if asked == DETECTED else asked
            rates.setdefault(label, []).append(2 * VECTORS * CENTROIDS * D / float(seconds) / 1e9)
    print(f"{model}; chosen: {kernels(flags) or 'what OpenBLAS detects'}")
    print(f"GFLOP/s, median of {repeats} (lowest to highest)")
    for label, found in rates.items():
        print(f"{label:<22} {statistics.median(found):6.0f} ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
