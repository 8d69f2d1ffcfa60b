"""Rows of a catalogue's file, read by blocks and in samples."""

from pathlib import Path

import numpy as np


class Rows:
    """Rows of a .npy file of float32 (n, d), read block by block, never mapped: a map would count as memory."""

    def __init__(self, path: Path, n: int = 0) -> None:
        """Open a file.

        Args:
            path: of the file.
            n: how many of its first rows to read, 0 for all.
        """
        shape = np.load(path, mmap_mode="r").shape
        self.path, self.d = path, shape[1]
        self.n = n or shape[0]
        self._begin = path.stat().st_size - 4 * shape[0] * shape[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, float32 (stop - start, d)."""
        offset = self._begin + 4 * self.d * start
        return np.fromfile(self.path, "<f4", (stop - start) * self.d, offset=offset).reshape(-1, self.d)

    def blocks(self, rows: int) -> list[tuple[int, int]]:
        """Start and stop of blocks of that many rows."""
        return [(start, min(start + rows, self.n)) for start in range(0, self.n, rows)]

    def sample(self, count: int, seed: int, block_rows: int) -> np.ndarray:
        """A random sample of the rows in their order, float32 (min(count, n), d), read block by block."""
        if count >= self.n:
            return self.read(0, self.n)
        chosen = np.sort(np.random.default_rng(seed).choice(self.n, count, replace=False))
        found = np.empty((count, self.d), np.float32)
        for start, stop in self.blocks(block_rows):
            first, last = np.searchsorted(chosen, (start, stop))
            found[first:last] = self.read(start, stop)[chosen[first:last] - start]
        return found
