"""Latency of the variants: raw repeats, interleaved, so that a machine that slows down slows them all."""

import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl

from nanorecsys.data import Histories
from nanorecsys.export.variants import Variant
from nanorecsys.serving.encoder import Encode
from nanorecsys.serving.padding import padded

# A cell of the grid is repeated until it took that long, or that often.
CELL_MS, FEWEST, MOST = 150.0, 3, 30


def grid(
    variants: Sequence[Variant],
    n_items: int,
    window: int,
    batches: Sequence[int],
    lengths: Sequence[int],
    threads: Sequence[int],
    progress: Callable[[Iterable], Iterable] = iter,
) -> pl.DataFrame:
    """Every variant at every batch size, length of history and number of threads, on random items.

    A variant that pads to the window takes as long for any length, and is measured at the longest
    only. What a cell took of memory is given back after it: each variant would keep it once for
    every number of threads.

    Args:
        batches: users in a call.
        lengths: events of each of them; those over the window are left out.
        threads: for which the variants were built.
        progress: wraps the cells, to show how far it is.

    Returns:
        one row a call: variant, threads int64, batch int64, length int64, repeat int64, ms float64
        a call.
    """
    rng = np.random.default_rng(0)
    rows = []
    lengths = [length for length in lengths if length <= window]
    cells = [(n, batch, length) for n in threads for batch in batches for length in lengths]
    for n, batch, length in progress(cells):
        items = rng.integers(1, n_items + 1, (batch, length))
        ends = np.full(batch, length)
        running = [v for v in variants if not v.padded or length == max(lengths)]
        spent = {
            v.name: _timed(v.encode[n], items, ends) for v in running
        }  # warms up, and says how long a call takes
        repeats = {name: int(np.clip(CELL_MS / ms, FEWEST, MOST)) for name, ms in spent.items()}
        for repeat in range(max(repeats.values())):
            for variant in running:
                if repeat < repeats[variant.name]:
                    ms = _timed(variant.encode[n], items, ends)
                    rows.append((variant.name, n, batch, length, repeat, ms))
        for variant in running:
            variant.release()
    return pl.DataFrame(
        rows, schema=["variant", "threads", "batch", "length", "repeat", "ms"], orient="row"
    )


def real_histories(
    variants: Sequence[Variant],
    histories: Histories,
    window: int,
    users: int,
    repeats: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> pl.DataFrame:
    """One user a call, one thread, over real histories spread evenly over the distribution of their lengths.

    The mean over the users of a variant is its mean weighted by that distribution.

    Args:
        histories: CSR; empty ones are left out.
        users: how many.
        repeats: after one that warms up and is not counted; in each, every variant meets every user
            once.
        progress: wraps the repeats.

    Returns:
        one row a call: variant, user int64, length int64 (of what is read), repeat int64, ms
        float64.
    """
    known = np.flatnonzero(histories.lengths)
    known = known[np.argsort(histories.lengths[known], kind="stable")]
    # The middles of equal shares of the sorted users.
    chosen = known[((np.arange(users) + 0.5) / users * len(known)).astype(int)]
    batches = [padded(histories, np.array([user]), window) for user in chosen]
    rows = []
    for repeat in progress(range(repeats + 1)):
        for user, (items, lengths) in zip(chosen.tolist(), batches, strict=True):
            for variant in variants:
                ms = _timed(variant.encode[1], items, lengths)
                rows.append((variant.name, user, int(lengths[0]), repeat, ms))
    frame = pl.DataFrame(rows, schema=["variant", "user", "length", "repeat", "ms"], orient="row")
    return frame.filter(pl.col("repeat") > 0)


def weighted(rows: pl.DataFrame) -> pl.DataFrame:
    """What `real_histories` says of each variant.

    Returns:
        variant; mean, the median over repeats of the mean over users, ms; lowest and highest, over
        the repeats.
    """
    return (
        rows.group_by("variant", "repeat", maintain_order=True)
        .agg(pl.col("ms").mean())
        .group_by("variant", maintain_order=True)
        .agg(mean=pl.col("ms").median(), lowest=pl.col("ms").min(), highest=pl.col("ms").max())
    )


def cell(
    rows: pl.DataFrame, variant: str, length: int, batch: int = 1, threads: int = 1
) -> float | None:
    """Median of one cell of the grid in ms, None where it was not measured."""
    found = rows.filter(variant=variant, length=length, batch=batch, threads=threads)
    return found["ms"].median() if len(found) else None


def _timed(encode: Encode, items: np.ndarray, lengths: np.ndarray) -> float:
    start = time.perf_counter_ns()
    encode(items, lengths)
    return (time.perf_counter_ns() - start) / 1e6
