"""The machine's limits: memory bandwidth of one thread, and arithmetic of a matrix product."""

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

MIB = 2**20
# Working sets from well within a core's cache to well beyond a socket's.
SIZES_MIB = (0.25, 1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)
GEMM_SHAPE = (1024, 256, 8192)  # queries, dimensions, vectors


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """GB (10^9 bytes) per second that one thread reads repeatedly from a working set."""

    working_set_mib: float
    gb_per_s: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Measured limits of the machine. `gemm_gflops` has the number of threads as key."""

    bandwidth: list[Bandwidth]
    gemm_gflops: dict[str, float]

    @property
    def memory_gb_per_s(self) -> float:
        """Bandwidth at the largest working set, which is main memory's."""
        return max(self.bandwidth, key=lambda b: b.working_set_mib).gb_per_s

    def read_ms(self, read_bytes: float, working_set_bytes: float) -> float:
        """Return the least milliseconds that a read takes.

        The rate is that of the smallest measured working set that is large enough, else main
        memory's.

        >>> limits = Limits(bandwidth=[Bandwidth(working_set_mib=1, gb_per_s=50),
        ...                            Bandwidth(working_set_mib=64, gb_per_s=10)], gemm_gflops={})
        >>> limits.read_ms(1e6, 2**20), limits.read_ms(1e6, 2 * 2**20)
        (0.02, 0.1)
        """
        fitting = [b for b in self.bandwidth if b.working_set_mib * MIB >= working_set_bytes]
        rate = (
            min(fitting, key=lambda b: b.working_set_mib).gb_per_s
            if fitting
            else self.memory_gb_per_s
        )
        return read_bytes / rate / 1e6


def measure_limits(
    threads: Sequence[int] = (1, 2), sizes_mib: Sequence[float] = SIZES_MIB, repeats: int = 5
) -> Limits:
    """Measure this machine. Each limit is the best of several repeats.

    A byte search, a maximum over int8 and one over float32 read the same bytes; the fastest counts.

    Args:
        threads: Thread counts of the matrix product. One thread measures the bandwidth.
        sizes_mib: Working sets in MiB.
        repeats: Repeats of each measurement.
    """
    bandwidth = [
        Bandwidth(working_set_mib=s, gb_per_s=_read_rate(int(s * MIB), repeats)) for s in sizes_mib
    ]
    q, d, n = GEMM_SHAPE
    left, right, out = (
        np.ones((q, d), np.float32),
        np.ones((d, n), np.float32),
        np.empty((q, n), np.float32),
    )
    gflops = {}
    for count in threads:
        with threadpool_limits(count):
            np.matmul(left, right, out=out)
            gflops[str(count)] = (
                2 * q * d * n / _best_ns(lambda: np.matmul(left, right, out=out), repeats)
            )
    return Limits(bandwidth=bandwidth, gemm_gflops=gflops)


def _read_rate(size: int, repeats: int) -> float:
    """Measure GB per second, which is bytes per nanosecond."""
    ones = np.ones(size, np.int8)  # written, so that pages are not shared
    text = bytearray(ones.tobytes())
    floats = ones.view(np.float32)
    calls = max(1, 2 * MIB // size)  # amortizes the cost of a call

    def repeated(read: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            for _ in range(calls):
                read()

        return work

    readers = (lambda: text.find(b"\0"), ones.max, floats.max)
    return size * calls / min(_best_ns(repeated(read), repeats) for read in readers)


def _best_ns(work: Callable[[], object], repeats: int) -> int:
    times = []
    for _ in range(repeats + 1):  # the first repeat is a warm-up
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return min(times[1:])
