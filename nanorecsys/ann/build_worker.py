"""`python -m nanorecsys.ann.build_worker REQUEST`: build one index in a process that does nothing else.

So its peak memory is that of the build, and a build that is killed or crashes takes nothing with
it. It prints one line of JSON: an `Outcome`.
"""

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from nanorecsys.ann.errors import SpecificationError
from nanorecsys.ann.indexes import BuildOptions, build_index, check_neighbours
from nanorecsys.system.blas import faiss
from nanorecsys.system.memory import forget_peak, peak_resident_bytes, resident_bytes


class Request(msgspec.Struct, frozen=True):
    """What to build: vectors from a .npy into a file, fit for searches of k neighbours.

    `users` is a .npy of users' vectors, "" for none.
    """

    factory: str
    vectors: str
    out: str
    k: int
    options: BuildOptions
    users: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes of a build, or the error's class, message and remedy."""

    build_s: float = 0.0
    save_s: float = 0.0
    index_bytes: int = 0
    peak_bytes: int = 0  # resident, above what it was with the vectors in memory
    error: str = ""
    message: str = ""


def build(request: Request) -> Outcome:
    """Do what is asked, and measure it."""
    vectors = np.load(request.vectors)
    users = np.load(request.users) if request.users else None
    faiss.omp_set_num_threads(request.options.threads)
    before = resident_bytes()
    forget_peak()
    start = time.perf_counter()
    try:
        check_neighbours(request.k, len(vectors))
        index = build_index(request.factory, vectors, request.options, users)
    except SpecificationError as error:
        return Outcome(error=type(error).__name__, message=error.message)
    built = time.perf_counter()
    peak = peak_resident_bytes()
    path = Path(request.out)
    index.save(path)
    return Outcome(
        build_s=built - start,
        save_s=time.perf_counter() - built,
        index_bytes=path.stat().st_size,
        peak_bytes=max(peak - before, 0),
    )


if __name__ == "__main__":
    print(
        msgspec.json.encode(
            build(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request))
        ).decode()
    )
