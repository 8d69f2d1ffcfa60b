"""What the machine can do at best: bytes read a second by one thread, and single-precision arithmetic in a product."""

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

MIB = 2**20
# From well within a core's cache to well beyond a socket's.
SIZES_MIB = (0.25, 1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)
GEMM_SHAPE = (1024, 256, 8192)  # queries, dimensions, vectors


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """GB (10^9 bytes) a second that one thread reads from a working set of that size, over and over."""

    working_set_mib: float
    gb_per_s: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Measured limits of the machine. `gemm_gflops` is by number of threads, "1" among them."""

    bandwidth: list[Bandwidth]
    gemm_gflops: dict[str, float]

    @property
    def memory_gb_per_s(self) -> float:
        """Of the largest working set: main memory's."""
        return max(self.bandwidth, key=lambda b: b.working_set_mib).gb_per_s

    def read_ms(self, read_bytes: float, working_set_bytes: float) -> float:
        """Milliseconds that reading takes at the least, at the rate of the smallest measured set that is no smaller.

        A set beyond the largest measured one reads at main memory's rate.

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
    """Measure this machine, the best of `repeats`: a limit is not an average.

    A byte search, a maximum over int8 and one over float32 read the same bytes; whichever is
    fastest counts.

    Args:
        threads: for which the product is measured; reading is always by one.
        sizes_mib: working sets.
        repeats: of each.
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


def best_of(first: Limits, second: Limits) -> Limits:
    """The higher of two measurements of the same machine, figure by figure."""
    return Limits(
        bandwidth=[
            Bandwidth(working_set_mib=a.working_set_mib, gb_per_s=max(a.gb_per_s, b.gb_per_s))
            for a, b in zip(first.bandwidth, second.bandwidth, strict=True)
        ],
        gemm_gflops={n: max(rate, second.gemm_gflops[n]) for n, rate in first.gemm_gflops.items()},
    )


def _read_rate(size: int, repeats: int) -> float:
    """GB a second, which is bytes a nanosecond."""
    ones = np.ones(size, np.int8)  # written to, so that every page is a page of its own
    text = bytearray(ones.tobytes())
    floats = ones.view(np.float32)
    calls = max(1, 2 * MIB // size)  # so that a call's own cost vanishes

    def repeated(read: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            for _ in range(calls):
                read()

        return work

    readers = (lambda: text.find(b"\0"), ones.max, floats.max)
    return size * calls / min(_best_ns(repeated(read), repeats) for read in readers)


def _best_ns(work: Callable[[], object], repeats: int) -> int:
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return min(times[1:])
