"""The chapter's findings from raw rows: points, the front, the finalists and the choice."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import LARGE_BATCH, SMALL_BATCH, Measurements, percentiles
from nanorecsys.ann.result import Finalist, Served, to_records
from nanorecsys.ann.specs import BASELINE
from nanorecsys.evaluation import mean_interval, paired_change
from nanorecsys.serving.retrieval import library

FINALISTS = 2  # points of each library at each floor
HIGH_FLOOR = 0.999
MEMORY_BOUND = 1.5  # bytes of the recommended index, in multiples of the vectors
P99_TIMINGS = 10_000  # timings of a point, of which a hundred are above the P99
RULE = (
    "the lowest P50 among the finalists whose recall is at least the floor by the lower end of its "
    "interval, for the users who choose and for the others, and which have no more bytes per "
    "vector than the bound"
)


def operating_points(measured: Measurements, choosing: int) -> pd.DataFrame:
    """Summarize every point.

    Args:
        measured: Raw rows of the whole table.
        choosing: Number of first queries by whose users settings are chosen. Recall is reported of
            the other users.

    Returns:
        The columns of `OperatingPoint` and those of `Measurements.points`, one row per point.
    """
    rows = measured.rows
    found = measured.points.set_index("point", drop=False)
    found = found.join([_accuracy(rows["accuracy"], choosing), percentiles(rows["latency"])])
    batches = rows["batches"].groupby(["batch", "threads", "point"])["ns"].median()
    threads = rows["batches"]["threads"].max()
    found["batch_32_ms"] = batches[SMALL_BATCH, 1] / 1e6
    found["large_batch_ms"] = batches[LARGE_BATCH, 1] / 1e6
    found["queries_per_s"] = 1e9 / batches[LARGE_BATCH, threads]
    return found.reset_index(drop=True)


def best_of_each(points: pd.DataFrame, floor: float) -> pd.DataFrame:
    """Pick one point per specification: the fastest at the floor, else the most accurate one."""
    reaching = points[points["sure"] >= floor].sort_values("p50_ms")
    others = points.sort_values("sure", ascending=False)
    return pd.concat([reaching, others]).drop_duplicates("factory").sort_index()


def finalists(points: pd.DataFrame, floors: Sequence[float]) -> pd.DataFrame:
    """Pick the points to time again: Flat, and the fastest of each library that reach a floor.

    The lowest of many noisy figures is too low, so the reported ones are measured again.
    """
    chosen = [points[points["factory"] == BASELINE].head(1)]
    libraries = points["factory"].map(library)
    for floor in floors:
        reaching = points[points["sure"] >= floor].sort_values("p50_ms")
        chosen.append(reaching.groupby(libraries).head(FINALISTS))
    return pd.concat(chosen).drop_duplicates("point")


def confirmed(chosen: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """Replace the finalists' latencies by those of the second measurement.

    Args:
        chosen: Result of `finalists`, Flat first.
        latency: Columns point, round and ns.

    Returns:
        The finalists with times_flat, Flat's P50 divided by their own within a round, with
        saved_ms, what the median round saves, and with p99_ms, NaN where there are fewer than
        `P99_TIMINGS` timings.
    """
    times = percentiles(latency)
    found = chosen.set_index("point", drop=False).drop(columns=times.columns).join(times)
    rounds = latency.groupby(["point", "round"])["ns"].median().unstack("round")
    ratios = rounds.loc[found["point"].iloc[0]] / rounds.loc[found["point"]]
    found["times_flat"] = ratios.median(axis=1)
    found["times_flat_low"], found["times_flat_high"] = ratios.min(axis=1), ratios.max(axis=1)
    found["saved_ms"] = found["p50_ms"].iloc[0] - found["p50_ms"]
    of_point = latency.groupby("point")["ns"]
    found["p99_ms"] = (of_point.quantile(0.99) / 1e6).where(of_point.size() >= P99_TIMINGS)
    return found


def fastest(finalists: pd.DataFrame, floor: float, bound_bytes: float = np.inf) -> Finalist:
    """Return the finalist that the rule (`RULE`) chooses; Flat, the first, if it allows none."""
    kept = finalists[["sure", "recall_k_low"]].min(axis=1) >= floor
    allowed = finalists[kept & (finalists["bytes_a_vector"] <= bound_bytes)].sort_values("p50_ms")
    return to_records((allowed if len(allowed) else finalists).head(1), Finalist)[0]


def served(rows: pd.DataFrame, items: int) -> Served:
    """Summarize the recommended index on a catalogue that is served.

    Args:
        rows: Result of `bench.measure_served`.
        items: Size of the catalogue.
    """
    exact, found = (ndcg(rows[name].to_numpy()) for name in ("exact_rank", "rank"))
    return Served(
        items=items,
        users=len(rows),
        recall=mean_interval(rows["recall"].to_numpy(np.float64)),
        ndcg=paired_change(exact, found),
    )


def ndcg(rank: np.ndarray, cutoff: int = 10) -> np.ndarray:
    """NDCG of users with one held-out item each, from its rank: float (u,).

    >>> ndcg(np.array([1, 3, 11, np.inf])).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    return np.where(rank <= cutoff, 1 / np.log2(1 + rank), 0.0)


def _accuracy(rows: pd.DataFrame, choosing: int) -> pd.DataFrame:
    """Recall of each point, whose settings the first `choosing` users choose.

    Returns:
        sure, the lower end of the interval of the mean over the choosing users; and of the others
        recall_k with its interval.
    """
    found = {}
    for point, own in rows.groupby("point"):
        recall = own.sort_values("query")["recall_k"].to_numpy(np.float64)
        sure = {"sure": mean_interval(recall[:choosing]).low}
        found[point] = sure | mean_interval(recall[choosing:]).columns("recall_k")
    return pd.DataFrame.from_dict(found, orient="index")
