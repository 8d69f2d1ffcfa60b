"""The least cost of a recall of 0.999: how fast codes are scanned, and how many must be.

It uses the vectors and user queries of a run of chapter 04. An index that scans 4-bit codes and
refines its candidates is not faster than the scan alone. One with lists must visit as many of them
as exact search within these lists needs. All searches are of single queries on one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.indexes import build_index
from nanorecsys.study import provenance
from nanorecsys.system.blas import faiss
from nanorecsys.system.errors import NanorecsysError

K = 100
LISTS = 256
EPILOG = """
examples:
  python benchmarks/ann.py                                   the full run, 20 seconds
  python benchmarks/ann.py --run data/runs/quick --codes 64       another run, half as many codes

The times of one line were measured in turn. Compare them within a run only.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("data/runs/full"))
    parser.add_argument("--codes", type=int, default=128, help="4-bit codes per vector")
    parser.add_argument("--queries", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--factors",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        help="refined candidates, multiples of k",
    )
    parser.add_argument(
        "--probes",
        type=int,
        nargs="+",
        default=[16, 32, 64, 96, 128],
        help=f"visited lists of {LISTS}",
    )
    arguments = parser.parse_args()
    folder = arguments.run / "04_ann"
    if not (folder / "vectors.npy").exists():
        raise NanorecsysError(
            f"{folder}: no vectors", f"nanorecsys run {arguments.run.name} --only 04_ann"
        )
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    queries = queries[np.random.default_rng(0).permutation(len(queries))[: arguments.queries]]
    exact = exact_neighbours(vectors, queries, K)
    codes = f"PQ{arguments.codes}x4fs"
    flat, scan, refined, lists = (
        build_index(f, vectors) for f in ("Flat", codes, f"{codes},RFlat", f"IVF{LISTS},Flat")
    )
    faiss.omp_set_num_threads(1)
    n, d = vectors.shape
    print(f"{n:,} x {d}, {len(queries)} user queries, k {K}; {provenance.machine().processor}\n")
    titles = (f"{'times k':>8}{'scan alone, ms':>16}{'x Flat':>8}", f"{'refined, ms':>14}")
    print(*titles, f"{'x Flat':>8}{'recall':>9}", sep="")
    for factor in arguments.factors:
        refined.set(f"k_factor_rf={factor}")
        searches = ((flat, K), (scan, K * factor), (refined, K))
        whole, alone, both = take_turns(
            queries, arguments.repeats, *(partial(i.search, k=k) for i, k in searches)
        )
        found = exact.recall(refined.search(queries, K)[1]).mean()
        speeds = f"{whole / alone:>8.1f}{both:>14.3f}{whole / both:>8.1f}"
        print(f"{factor:>8}{alone:>16.3f}{speeds}{found:>9.4f}")
    print(f"\n{'lists of ' + str(LISTS):>13}{'vectors read':>14}{'recall of exact search':>24}")
    sizes = np.array([lists.index.invlists.list_size(i) for i in range(LISTS)])
    for probes in arguments.probes:
        lists.set(f"nprobe={probes}")
        found = exact.recall(lists.search(queries, K)[1]).mean()
        visited = lists.index.quantizer.search(queries, probes)[1]
        read = sizes[visited].sum(axis=1).mean() / n
        print(f"{probes:>13}{read:>14.0%}{found:>24.4f}")
    return 0


def take_turns(
    queries: np.ndarray, repeats: int, *searches: Callable[[np.ndarray], object]
) -> np.ndarray:
    """Time single queries, the searches in turn; return medians in ms after a warm-up."""
    found = []
    for _ in range(repeats + 1):
        row = []
        for search in searches:
            spent = []
            for query in queries:
                start = time.perf_counter_ns()
                search(query[None])
                spent.append(time.perf_counter_ns() - start)
            row.append(np.median(spent) / 1e6)
        found.append(row)
    return np.median(found[1:], axis=0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NanorecsysError as error:
        sys.exit(f"error: {error}")
