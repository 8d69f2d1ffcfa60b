"""Latency of the variants: raw repeats, interleaved, so that all share a slow spell."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from nanorecsys.data import Histories
from nanorecsys.export.variants import Variant
from nanorecsys.serving.encoder import Encode, Encoder
from nanorecsys.serving.padding import padded
from nanorecsys.study.spread import Spread, spread

REPEATS = 7  # timed calls of a cell of the grid, after a warm-up


def grid(
    variants: Sequence[Variant],
    n_items: int,
    window: int,
    batches: Sequence[int],
    lengths: Sequence[int],
    threads: Sequence[int],
) -> pd.DataFrame:
    """Time every variant at every batch size, history length and number of threads.

    Items are random. A variant that pads to the window takes as long for any length, and is
    measured at the longest only. Memory is freed after each cell: every variant would keep its own,
    once for every number of threads.

    Args:
        variants: Variants to time.
        n_items: Number of items.
        window: Longest history, in events.
        batches: Numbers of users per call.
        lengths: Numbers of events per user; those over the window are left out.
        threads: Numbers of threads that the variants were built for.

    Returns:
        One row per call: variant, threads, batch, length, repeat, ms.
    """
    rng = np.random.default_rng(0)
    rows = []
    lengths = [length for length in lengths if length <= window]
    cells = [(n, batch, length) for n in threads for batch in batches for length in lengths]
    for n, batch, length in tqdm(cells, desc="grid"):
        items = rng.integers(1, n_items + 1, (batch, length))
        ends = np.full(batch, length)
        timed = [v for v in variants if not v.padded or length == max(lengths)]
        for repeat in range(REPEATS + 1):
            for variant in timed:
                ms = _time_ms(variant.encode[n], items, ends)
                rows.append((variant.name, n, batch, length, repeat, ms))
        for variant in timed:
            if isinstance(run := variant.encode[n], Encoder):
                run.release()
    frame = pd.DataFrame(rows, columns=["variant", "threads", "batch", "length", "repeat", "ms"])
    return frame[frame["repeat"] > 0]


def real_histories(
    variants: Sequence[Variant],
    histories: Histories,
    reads: Sequence[int],
    users: int,
    rounds: int,
) -> pd.DataFrame:
    """Time real histories, one user per call on one thread.

    Users are spread evenly over the distribution of lengths, so a variant's mean over the users is
    its mean weighted by that distribution. In each round the variants come in another random order,
    and each encodes all users in turn, so that its weights are in the caches as in a server.

    Args:
        variants: Variants to time.
        histories: CSR; empty ones are left out.
        reads: Numbers of events that are read, the last ones of a longer history.
        users: Number of users.
        rounds: Number of rounds after a warm-up.

    Returns:
        One row per call: variant, reads, user, length (of what is read), round, ms.
    """
    rng = np.random.default_rng(0)
    known = np.flatnonzero(histories.lengths)
    known = known[np.argsort(histories.lengths[known], kind="stable")]
    # the middles of equal shares of the sorted users
    chosen = known[((np.arange(users) + 0.5) / users * len(known)).astype(int)]
    calls = [(variant, events) for events in reads for variant in variants]
    rows = []
    for number in tqdm(range(rounds + 1), desc="real histories"):
        for call in rng.permutation(len(calls)):
            variant, events = calls[call]
            encode = variant.reading(events)
            for user in chosen.tolist():
                items, lengths = padded(histories, np.array([user]), events)
                ms = _time_ms(encode, items, lengths)
                rows.append((variant.name, events, user, int(lengths[0]), number, ms))
    frame = pd.DataFrame(rows, columns=["variant", "reads", "user", "length", "round", "ms"])
    return frame[frame["round"] > 0]


def mean_latency(rows: pd.DataFrame) -> dict[tuple[str, int], Spread]:
    """Summarize `real_histories`: means over users in ms, their median and range over the rounds.

    Returns:
        Spreads by variant and number of events read.
    """
    means = _round_means(rows)
    return {key: spread(own.to_numpy()) for key, own in means.groupby(["variant", "reads"])}


def times_as_fast(rows: pd.DataFrame, variant: str, baseline: str, events: int) -> Spread:
    """Divide a baseline's mean latency by a variant's within each round of `real_histories`."""
    means = _round_means(rows).xs(events, level="reads")
    return spread((means[baseline] / means[variant]).to_numpy())


def _round_means(rows: pd.DataFrame) -> pd.Series:
    return rows.groupby(["variant", "reads", "round"])["ms"].mean()


def _time_ms(encode: Encode, items: np.ndarray, lengths: np.ndarray) -> float:
    start = time.perf_counter_ns()
    encode(items, lengths)
    return (time.perf_counter_ns() - start) / 1e6
