"""The chapter's findings from raw rows: points, the front, the finalists and the choice."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pandas as pd

from nanorecsys.ann.bench import LARGE_BATCH, SMALL_BATCH, Measurements, percentiles
from nanorecsys.ann.limits import MIB, Limits
from nanorecsys.ann.result import Finalist, Recommended, to_records
from nanorecsys.ann.specs import BASELINE, parse_setting
from nanorecsys.evaluation import Evaluation, Interval, Task, difference, value

RECALLS = ("0.99", "0.999")  # floors of recall at which the fastest index is looked for
# Settings that `faiss.ParameterSpace` can make in another process.
SERVED = frozenset({"nprobe", "k_factor_rf", "efSearch"})
FINALISTS = 3
RULE = (
    "the lowest P99 among the FAISS indexes whose settings ParameterSpace knows, with a recall of "
    "at least the floor, and no more bytes per vector than the bound"
)


def operating_points(
    measured: Measurements, user: np.ndarray, task: Task, limits: Limits, n: int
) -> pd.DataFrame:
    """Summarize every point.

    Args:
        measured: Raw rows of the whole table.
        user: int (q,), the user of each query.
        task: Task whose held-out items were ranked.
        limits: Limits of the machine.
        n: Number of vectors.

    Returns:
        The columns of `OperatingPoint` and those of `Measurements.points`, one row per point.
    """
    rows = measured.rows
    found = measured.points.set_index("point", drop=False)
    found = found.join([_accuracy(rows["accuracy"], user), percentiles(rows["latency"])])
    batches = rows["batches"].groupby(["batch", "threads", "point"])["ns"].median()
    threads = rows["batches"]["threads"].max()
    found["batch_32_ms"] = batches[SMALL_BATCH, 1] / 1e6
    found["batch_1000_ms"] = batches[LARGE_BATCH, 1] / 1e6
    found["queries_per_s"] = 1e9 / batches[LARGE_BATCH, threads]
    ranked = {point: evaluation(rows["ranks"], point, task, n) for point in found.index}
    for metric in ("hitrate", "ndcg"):
        found[metric] = [value(own, f"{metric}@10") for own in ranked.values()]
    found["read_mib"] = found["read_bytes"] / MIB
    # The rate of a working set of that size, as if it stayed in a cache between queries.
    found["floor_ms"] = found["read_bytes"].map(limits.read_ms)
    found["on_front"] = pareto(found["recall_k"], found["p50_ms"])
    return found.reset_index(drop=True)


def pareto(recall: Sequence[float], latency: Sequence[float]) -> list[bool]:
    """Say which points no other point beats in recall and latency.

    >>> pareto([0.9, 0.99, 0.8, 0.99], [1.0, 2.0, 1.5, 2.5])
    [True, True, False, False]
    """
    on_front = np.zeros(len(recall), bool)
    best = -np.inf
    for i in np.lexsort((-np.asarray(recall), np.asarray(latency))):
        if recall[i] > best:
            on_front[i], best = True, recall[i]
    return on_front.tolist()


def best_of_each(points: pd.DataFrame, floor: float) -> pd.DataFrame:
    """Pick one point per specification: the fastest at the floor, else the most accurate one."""
    reaching = points[points["recall_k"] >= floor].sort_values("p50_ms")
    others = points.sort_values("recall_k", ascending=False)
    return pd.concat([reaching, others]).drop_duplicates("factory").sort_index()


def eligible(points: pd.DataFrame, floor: float, bound_bytes: float) -> pd.DataFrame:
    """Keep the points that the rule (`RULE`) allows, those with the lowest P99 first."""
    served = ~points["factory"].str.startswith("usearch:")
    served &= points["search"].map(lambda search: set(parse_setting(search)) <= SERVED)
    good = (points["recall_k"] >= floor) & (points["bytes_a_vector"] <= bound_bytes)
    return points[served & good].sort_values("p99_ms")


def finalists(points: pd.DataFrame, floor: float, bound_bytes: float) -> pd.DataFrame:
    """Pick the points to time again: Flat, those that the rule may choose, the fastest ones.

    The lowest of many noisy figures is too low, so the reported one is measured again.
    """
    chosen = [points[points["factory"] == BASELINE].head(1)]
    chosen.append(eligible(points, floor, bound_bytes).head(FINALISTS))
    for recall in RECALLS:
        reaching = points[points["recall_k"] >= float(recall)]
        chosen.append(reaching.sort_values("p50_ms").head(2))
    return pd.concat(chosen).drop_duplicates("point")


def confirmed(chosen: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """Replace the finalists' latencies by those of the second measurement; add times_flat."""
    times = percentiles(latency)
    found = chosen.set_index("point", drop=False).drop(columns=times.columns).join(times)
    return found.assign(times_flat=found["p50_ms"].iloc[0] / found["p50_ms"])


def recommend(finalists: pd.DataFrame, floor: float, bound_bytes: float) -> pd.Series:
    """Return the finalist that the rule (`RULE`) chooses; Flat if it allows none."""
    allowed = eligible(finalists, floor, bound_bytes)
    return (allowed if len(allowed) else finalists).iloc[0]


def fastest(finalists: pd.DataFrame) -> dict[str, Finalist]:
    """Return the finalist with the lowest P50 at each of `RECALLS`; Flat always qualifies."""
    found = {}
    for recall in RECALLS:
        reaching = finalists[finalists["recall_k"] >= float(recall)]
        found[recall] = to_records(reaching.nsmallest(1, "p50_ms"), Finalist)[0]
    return found


def recommendation(
    choice: pd.Series, flat: pd.Series, ranked: Evaluation, baseline: Evaluation
) -> Recommended:
    """Make the record of the chosen index.

    Args:
        choice: Its row among the finalists.
        flat: Flat's row.
        ranked: The held-out items ranked by the chosen index.
        baseline: The same items ranked by Flat.
    """
    row = choice.copy()
    row["saved_ms"] = flat["p50_ms"] - choice["p50_ms"]
    for metric in ("hitrate", "ndcg"):
        found = difference(ranked, baseline, f"{metric}@10")
        row[f"{metric}_change"] = msgspec.to_builtins(found)
    return to_records(row.to_frame().T, Recommended)[0]


def evaluation(ranks: pd.DataFrame, point: int, task: Task, n: int) -> Evaluation:
    """Convert the ranks of the held-out items by one point for the study's metrics."""
    own = ranks[ranks["point"] == point].sort_values("user")
    users = own["user"].to_numpy()
    return Evaluation(
        users=users,
        target_row=np.arange(len(users)),
        target_item=task.targets.items[task.targets.offsets[users]],
        rank=own["rank"].to_numpy(np.float64),
        top=np.empty((len(users), 0), np.int32),
        item_counts=np.zeros(n, np.int64),
    )


def outside_zero(change: Interval) -> float:
    """Return how far zero lies outside an interval, 0 if it lies inside."""
    return max(change.low, -change.high, 0.0)


def gemm_floor_ms(limits: Limits, n: int, d: int) -> float:
    """Return the ms per query of exact search on one thread at the rate of a matrix product."""
    return 2 * n * d / limits.gemm_gflops / 1e6


def _accuracy(rows: pd.DataFrame, user: np.ndarray) -> pd.DataFrame:
    """Mean recalls of each point, and the mean over the tenth of the users with the lowest."""
    found = rows.groupby("point")[["recall_10", "recall_k"]].mean()
    own = rows.assign(user=user[rows["query"]]).groupby(["point", "user"])["recall_k"].mean()
    worst = -(-len(np.unique(user)) // 10)
    found["worst_decile"] = own.groupby("point").apply(lambda of: of.nsmallest(worst).mean())
    return found
