"""The machine's limits: memory bandwidth of one thread."""

import timeit
from collections.abc import Sequence

import msgspec
import numpy as np

MIB = 2**20
# Working sets from well within a core's cache to well beyond a socket's.
SIZES_MIB = (0.25, 1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """GB (10^9 bytes) per second that one thread reads repeatedly from a working set."""

    working_set_mib: float
    gb_per_s: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Measured limits of the machine on one thread, in the order of the working sets."""

    bandwidth: list[Bandwidth]

    def read_ms(self, read_bytes: float) -> float:
        """Return the least milliseconds that a read takes, as if it stayed in a cache before.

        The rate is that of the smallest measured working set that is large enough, else main
        memory's.

        >>> measured = ((1, 50), (64, 10))
        >>> bandwidth = [Bandwidth(working_set_mib=m, gb_per_s=g) for m, g in measured]
        >>> limits = Limits(bandwidth=bandwidth)
        >>> limits.read_ms(1e6), limits.read_ms(2e6)
        (0.02, 0.2)
        """
        fitting = (b for b in self.bandwidth if b.working_set_mib * MIB >= read_bytes)
        return read_bytes / next(fitting, self.bandwidth[-1]).gb_per_s / 1e6


def measure_limits(sizes_mib: Sequence[float] = SIZES_MIB, repeats: int = 3) -> Limits:
    """Measure one thread of this machine. Each limit is the best of several repeats.

    A byte search, a maximum over int8 and one over float32 read the same bytes; the fastest counts.

    Args:
        sizes_mib: Working sets in MiB.
        repeats: Repeats of each measurement.
    """
    bandwidth = [
        Bandwidth(working_set_mib=size, gb_per_s=_read_rate(int(size * MIB), repeats))
        for size in sizes_mib
    ]
    return Limits(bandwidth=bandwidth)


def _read_rate(size: int, repeats: int) -> float:
    """Measure GB per second."""
    ones = np.ones(size, np.int8)  # written, so that pages are not shared
    text = bytearray(ones.tobytes())
    floats = ones.view(np.float32)
    calls = max(1, 2 * MIB // size)  # amortizes the cost of reading the clock
    readers = (lambda: text.find(b"\0"), ones.max, floats.max)
    # The first repeat is a warm-up.
    seconds = [timeit.repeat(read, number=calls, repeat=repeats + 1)[1:] for read in readers]
    return float(size * calls / np.min(seconds) / 1e9)
