"""Rows of a catalogue's file, read by blocks and in samples."""

from pathlib import Path
from typing import Self

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
        self._width, self._matrix = shape[1], None

    def projected(self, matrix: np.ndarray) -> Self:
        """The same rows multiplied by a matrix, float32 (directions, d), as they are read."""
        other = type(self)(self.path, self.n)
        other._matrix, other.d = matrix, len(matrix)
        return other

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, float32 (stop - start, d)."""
        offset = self._begin + 4 * self._width * start
        rows = np.fromfile(self.path, "<f4", (stop - start) * self._width, offset=offset).reshape(
            -1, self._width
        )
        return rows if self._matrix is None else rows @ self._matrix.T

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
