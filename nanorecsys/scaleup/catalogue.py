"""Catalogues of any size: generate one, read it block by block, and find exact neighbours in it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from nanorecsys.ann.exact import TIE, Exact
from nanorecsys.ann.indexes import check_neighbours, check_vectors
from nanorecsys.scaleup.generators import generator_of
from nanorecsys.system.files import atomic_path
from nanorecsys.system.limits import cores

SHARD_ROWS = 16_384  # 16 MiB at d 256: some hundred shards at 3 million items
BLOCK = 32_768  # rows of a product at once: 32 MiB at d 256
SPARE = 4  # neighbours kept for each one asked for, so that ties at the last place are seen


def generate(
    vectors: np.ndarray,
    n: int,
    generator: str = "local",
    seed: int = 0,
    threads: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Make a catalogue of n items, unit float32 (n, d), the real items first.

    Args:
        vectors: Real items, unit float32 (items, d).
        n: Items of the catalogue, at least as many as there are real ones.
        generator: A name of `GENERATORS`.
        seed: Random seed.
        threads: Threads, by default one per core. The bytes do not depend on them.
        out: Array to fill, float32 (n, d); a new one by default.

    Raises:
        GeneratorError: The generator is unknown.
        VectorsError: The real items are not unit float32 (items, d).
    """
    check_vectors(vectors)
    real, d = vectors.shape
    catalogue = np.empty((n, d), np.float32) if out is None else out
    catalogue[:real] = vectors
    # One BLAS thread per thread: sums then have one order whatever the number of threads.
    with threadpool_limits(1), ThreadPoolExecutor(threads or cores()) as pool:
        fitted = generator_of(generator)(vectors, n)

        def make(shard: int) -> None:
            rows = catalogue[real:][shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
            # A random stream each, so that their order does not matter.
            seeds = np.random.SeedSequence(seed, spawn_key=(shard,))
            rows[:] = fitted.sample(len(rows), np.random.Generator(np.random.SFC64(seeds)))

        shards = -(-(n - real) // SHARD_ROWS)
        list(pool.map(make, range(shards)))  # raises what a shard raised
    return catalogue


def write_catalogue(
    path: Path | str,
    vectors: np.ndarray,
    n: int,
    generator: str = "local",
    seed: int = 0,
    threads: int | None = None,
) -> np.ndarray:
    """Write the catalogue that `generate` makes to a .npy file; it is never whole in memory.

    Returns:
        The file, memory-mapped and read-only, float32 (n, d).
    """
    with atomic_path(Path(path)) as part:
        shape = (n, vectors.shape[-1])
        catalogue = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        generate(vectors, n, generator, seed, threads, out=catalogue)
        catalogue.flush()
    return np.load(path, mmap_mode="r")


class CatalogueFile:
    """Rows of a .npy file of float32 (n, d). A map would count as memory, so blocks are read."""

    def __init__(self, path: Path, n: int = 0, matrix: np.ndarray | None = None) -> None:
        """Open a file.

        Args:
            path: The file.
            n: Number of its first rows to use, 0 for all.
            matrix: float32 (directions, d) that rows are multiplied by when read.
        """
        rows, self._width = np.load(path, mmap_mode="r").shape
        self._begin = path.stat().st_size - 4 * rows * self._width
        self.path, self.n, self._matrix = path, n or rows, matrix
        self.d = self._width if matrix is None else len(matrix)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows start to stop, float32 (stop - start, d)."""
        offset = self._begin + 4 * self._width * start
        values = np.fromfile(self.path, "<f4", (stop - start) * self._width, offset=offset)
        rows = values.reshape(-1, self._width)
        return rows if self._matrix is None else rows @ self._matrix.T

    def blocks(self, rows: int) -> list[tuple[int, int]]:
        """Return start and stop of blocks of that many rows."""
        return [(start, min(start + rows, self.n)) for start in range(0, self.n, rows)]

    def sample(self, count: int, seed: int, block_rows: int = BLOCK) -> np.ndarray:
        """Read a random sample of the rows in their order, float32 (min(count, n), d)."""
        if count >= self.n:
            return self.read(0, self.n)
        chosen = np.sort(np.random.default_rng(seed).choice(self.n, count, replace=False))
        found = np.empty((count, self.d), np.float32)
        for start, stop in self.blocks(block_rows):
            first, last = np.searchsorted(chosen, (start, stop))
            found[first:last] = self.read(start, stop)[chosen[first:last] - start]
        return found


def exact_prefixes(
    path: Path, queries: np.ndarray, k: int, sizes: Sequence[int]
) -> dict[int, Exact]:
    """Find the k nearest of each query among the first rows of a file, for each size.

    Args:
        path: .npy of float32 (n, d).
        queries: float32 (q, d).
        k: Neighbours per query.
        sizes: Numbers of first rows, at most n.

    Raises:
        SpecificationError: k is above the smallest size.
    """
    check_neighbours(k, min(sizes))
    rows = CatalogueFile(path)
    keep = SPARE * k
    scores = np.full((len(queries), keep), -np.inf, np.float32)
    items = np.full((len(queries), keep), -1, np.int64)
    found = {}
    stops = sorted({*range(BLOCK, max(sizes), BLOCK), *sizes})
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        product = queries @ rows.read(start, stop).T  # (q, b)
        for q, row in enumerate(product):
            fresh = np.flatnonzero(row > scores[q, -1])
            candidates = np.concatenate([scores[q], row[fresh]])
            numbers = np.concatenate([items[q], start + fresh])
            best = np.argsort(-candidates, kind="stable")[:keep]
            scores[q], items[q] = candidates[best], numbers[best]
        if stop in sizes:
            query, place = np.nonzero((scores >= scores[:, k - 1 : k] - TIE) & (items >= 0))
            hits = np.sort(query * stop + items[query, place])
            found[stop] = Exact(items[:, :k].astype(np.int32), stop, hits)
    return found
