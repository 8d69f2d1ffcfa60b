"""Metrics from the raw rows of runs.

Rows have one line a request, in order of intended time:

    intended_ns, sent_ns, done_ns   int64 from the run's start; -1 where there is none
    status                          int16, of HTTP; 0 for no answer, -1 for skipped
    source                          model, cache, fallback, or empty
    user, hot                       number of the user; whether it was drawn from the hot set
    queue_ms .. total_ms            float32, of Server-Timing; NaN where absent
    encode_cpu_ms ..                float32, CPU time of the stages that compute
    warm_up                         whether the request was intended before the measured part
"""

import itertools
from collections.abc import Sequence

import msgspec
import numpy as np
import pandas as pd

from nanorecsys.loadtest.generator import Sent
from nanorecsys.loadtest.result import Band, LoadRow, Overload, Percentiles

VALID, INVALID, VOID = "VALID", "INVALID", "VOID"
COMPUTED = ("encode", "retrieve", "rank")  # stages whose CPU time the server tells
STAGES = ("queue", *COMPUTED, "total")
NO_CORE = "waiting for a core"
# Where the time of a request goes; the parts add up to its latency.
PARTS = ("generator", "queue", *COMPUTED, NO_CORE, "event loop", "outside")
QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)  # bounds of the bands of latency
LAG_MS = 5.0  # 99th percentile of the generator's lag beyond which a run is VOID,
LAG_SHARE = 0.1  # or this share of the bound, where that is less
BIN_S = 0.5  # length of the bins in which a recovery is found


def frame_of(sent: Sent, users: np.ndarray, hot: np.ndarray, begin_ns: int) -> pd.DataFrame:
    """Make the rows of a run.

    Args:
        sent: What the generator reports, n requests.
        users: Number of each request's user, int32 (n,).
        hot: Whether each was drawn from the hot set, bool (n,).
        begin_ns: Start of the measured part.
    """
    timing = pd.Series(sent.heads, dtype=object).str.extract(r"(?i)server-timing: *([^\r]*)")[0]
    columns = {
        "intended_ns": sent.intended_ns,
        "sent_ns": sent.sent_ns,
        "done_ns": sent.done_ns,
        "status": sent.status,
        "source": sent.sources,
        "user": users,
        "hot": hot,
        "warm_up": sent.intended_ns < begin_ns,
    }
    for stage in STAGES:
        columns[f"{stage}_ms"] = _number(timing, rf"(?:^|[ ,]){stage};dur=([0-9.]+)")
    for stage in COMPUTED:
        columns[f"{stage}_cpu_ms"] = _number(timing, rf"{stage};dur=[0-9.]+;cpu=([0-9.]+)")
    return pd.DataFrame(columns)


def _number(timing: pd.Series, pattern: str) -> pd.Series:
    return timing.str.extract(pattern)[0].astype("float32")


def good(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the good answers: 200, and no fallback; `latency_ms` is added."""
    answered = rows[(rows.status == 200) & (rows.source != "fallback")]
    return answered.assign(latency_ms=(answered.done_ns - answered.intended_ns) / 1e6)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the good answers of the measured part."""
    return good(rows[~rows.warm_up])


def computed(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the measured good answers that were computed; `compute_ms` and its CPU are added."""
    found = measured(rows)
    found = found[found.encode_ms.notna()]
    return found.assign(
        compute_ms=found[[f"{stage}_ms" for stage in COMPUTED]].sum(axis=1),
        compute_cpu_ms=found[[f"{stage}_cpu_ms" for stage in COMPUTED]].sum(axis=1),
    )


def summarize(
    sent: Sent,
    rows: pd.DataFrame,
    begin_ns: int,
    scenario: str,
    server: str,
    offered_per_s: float | None,
    bound_ms: float,
) -> LoadRow:
    """Summarize a run and judge it after the rules of MLPerf's load generator.

    A run is VOID where the generator was late, whatever the server did. Otherwise it is INVALID
    where P99 exceeds the bound, or a request failed, was refused or skipped.

    Args:
        sent: What the generator reports.
        rows: Rows of the run.
        begin_ns: Start of the measured part.
        scenario, server, offered_per_s: See `LoadRow`.
        bound_ms: Bound of the 99th percentile of latency; a closed loop has none.
    """
    offered = rows[~rows.warm_up]
    fine = good(offered)
    seconds = (sent.end_ns - begin_ns) / 1e9
    refused, skipped = int((offered.status == 503).sum()), int((offered.status == -1).sum())
    failed = len(offered) - len(fine) - refused - skipped
    was_sent = offered[offered.sent_ns >= 0]
    lag_ms = (was_sent.sent_ns - was_sent.intended_ns) / 1e6
    lag_p99_ms = float(np.percentile(lag_ms, 99)) if len(lag_ms) else 0.0
    latency = percentiles(fine.latency_ms) if len(fine) else None
    answers = max(int((rows.done_ns >= begin_ns).sum()), 1)
    reasons = [
        f"{count:,} {what}"
        for count, what in ((failed, "failed"), (refused, "refused"), (skipped, "skipped"))
        if count
    ]
    if offered_per_s is not None and latency and latency.p99 > bound_ms:
        reasons.append(f"P99 is {latency.p99:.1f} ms, above {bound_ms:g} ms")
    if not latency:
        reasons.append("no request was answered")
    verdict = INVALID if reasons else VALID
    limit_ms = lag_limit_ms(bound_ms)
    if offered_per_s is not None and lag_p99_ms > limit_ms:
        verdict = VOID
        reasons = [f"the generator's lag at P99 is {lag_p99_ms:.1f} ms, above {limit_ms:g} ms"]
    came = good(rows[rows.done_ns.between(begin_ns, sent.end_ns)])
    return LoadRow(
        scenario=scenario,
        server=server,
        offered_per_s=offered_per_s,
        seconds=seconds,
        requests=len(offered),
        answered=len(fine),
        refused=refused,
        failed=failed,
        skipped=skipped,
        goodput_per_s=len(came) / seconds if seconds else 0.0,
        p50_ms=latency.p50 if latency else None,
        p95_ms=latency.p95 if latency else None,
        p99_ms=latency.p99 if latency else None,
        hit_share=float((fine.source == "cache").mean()) if len(fine) else 0.0,
        server_cpu_ms=1e3 * sent.server_cpu_s / answers,
        generator_cpu_ms=1e3 * sent.cpu_s / answers,
        lag_p99_ms=lag_p99_ms,
        verdict=verdict,
        reason="; ".join(reasons),
    )


def lag_limit_ms(bound_ms: float) -> float:
    """Find the 99th percentile of the generator's lag beyond which a run is VOID."""
    return min(LAG_MS, LAG_SHARE * bound_ms)


def is_timed(row: LoadRow) -> bool:
    """Whether the latencies of a run count: it is not VOID and has good answers."""
    return row.verdict != VOID and row.p99_ms is not None


def percentiles(values: pd.Series) -> Percentiles:
    """Compute P50, P95 and P99 of at least one value."""
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))


def stages(rows: pd.DataFrame) -> dict[str, Percentiles]:
    """Percentiles of the original's breakdown; empty where nothing was computed.

    `total` is the latency of all answers, everything else is of computed ones.
    """
    cold = computed(rows)
    if cold.empty:
        return {}
    columns = {
        "total": measured(rows).latency_ms,
        "total, computed": cold.latency_ms,
        "queue": cold.queue_ms,
        "embedding": cold.encode_ms,
        "ranking": cold.rank_ms,
        "retrieval": cold.retrieve_ms,
        "compute": cold.compute_ms,
        "compute, CPU time": cold.compute_cpu_ms,
    }
    return {name: percentiles(column) for name, column in columns.items()}


def parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Split the latency of each measured good answer into `PARTS`, in ms.

    generator: how late it was sent. queue: waiting for a thread. encode, retrieve, rank: CPU time
    of the thread; a request of a batch has all of its batch. Waiting for a core: the rest of these
    three stages. event loop: the rest of the server's total. outside: sockets, and waiting for the
    event loop of the server or the generator.
    """
    fine = measured(rows)
    fine = fine[fine.total_ms.notna()].fillna(dict.fromkeys(rows.filter(like="_ms").columns, 0.0))
    took = fine[[f"{stage}_ms" for stage in COMPUTED]].sum(axis=1)
    cpu = {stage: fine[f"{stage}_cpu_ms"] for stage in COMPUTED}
    return pd.DataFrame(
        {
            "latency_ms": fine.latency_ms,
            "computed": fine.source == "model",
            "generator": (fine.sent_ns - fine.intended_ns) / 1e6,
            "queue": fine.queue_ms,
            **cpu,
            NO_CORE: took - sum(cpu.values()),
            "event loop": fine.total_ms - fine.queue_ms - took,
            "outside": (fine.done_ns - fine.sent_ns) / 1e6 - fine.total_ms,
        }
    )


def bands(rows: pd.DataFrame) -> list[Band]:
    """Mean time in each part between quantiles of latency; an empty band is left out."""
    found = parts(rows).sort_values("latency_ms")
    made = []
    for low, high in itertools.pairwise(QUANTILES):
        band = found.iloc[round(low * len(found)) : round(high * len(found))]
        if len(band):
            made.append(
                Band(
                    low=low,
                    high=high,
                    requests=len(band),
                    mean_ms=float(band.latency_ms.mean()),
                    computed_share=float(band.computed.mean()),
                    parts_ms={name: float(band[name].mean()) for name in PARTS},
                )
            )
    return made


def recovery_s(rows: pd.DataFrame, fell_back_ns: int, bound_ms: float) -> float:
    """Seconds after the rate fell back until every later bin keeps the bound without a failure.

    Args:
        rows: Rows of the run.
        fell_back_ns: Time at which the rate fell back.
        bound_ms: Bound of the 99th percentile of latency.
    """
    after = rows[rows.intended_ns >= fell_back_ns]
    bins = (after.intended_ns - fell_back_ns) // int(BIN_S * 1e9)
    latency_ms = ((after.done_ns - after.intended_ns) / 1e6).where(after.status == 200, np.inf)
    worst = latency_ms.groupby(bins).quantile(0.99, interpolation="higher")
    failed = (after.status != 200).groupby(bins).any()
    late = worst.index[(worst > bound_ms) | failed]
    return float(late.max() + 1) * BIN_S if len(late) else 0.0


def overload(
    rows: pd.DataFrame,
    phases: Sequence[tuple[float, float]],
    lag_p99_ms: float,
    highest: LoadRow,
    bound_ms: float,
) -> Overload:
    """Summarize a run that goes beyond the highest rate and falls back.

    Args:
        rows: Rows of the run.
        phases: Rate and seconds before, in and after the overload.
        lag_p99_ms: Lag of the generator.
        highest: The run at the highest rate.
        bound_ms: Bound of the 99th percentile of latency.
    """
    (_, before_s), (rate, during_s), _ = phases
    begin_ns, end_ns = int(before_s * 1e9), int((before_s + during_s) * 1e9)
    during = rows[rows.intended_ns.between(begin_ns, end_ns)]
    fine = good(during)
    goodput = len(good(rows[rows.done_ns.between(begin_ns, end_ns)])) / during_s
    server_errors = (rows.status >= 500) & (rows.status != 503)
    return Overload(
        times_highest=rate / highest.offered_per_s if highest.offered_per_s else 0.0,
        offered_per_s=rate,
        goodput_per_s=goodput,
        goodput_share=goodput / highest.goodput_per_s,
        p99_ms=float(np.percentile(fine.latency_ms, 99)) if len(fine) else np.inf,
        refused_share=float((during.status == 503).mean()),
        not_deliberate=int((server_errors | (rows.status == 0)).sum()),
        recovery_s=recovery_s(rows, end_ns, bound_ms),
        lag_p99_ms=lag_p99_ms,
        verdict=VOID if lag_p99_ms > lag_limit_ms(bound_ms) else VALID,
    )


def median_overload(rounds: Sequence[Overload]) -> tuple[int, Overload]:
    """Choose the round with the median P99 of those that are not VOID; the first where all are.

    Returns:
        The place of the round; and its overload with the P99 of all rounds that are not VOID, and
        the requests of all rounds that failed without being refused.
    """
    timed = [place for place, found in enumerate(rounds) if found.verdict != VOID]
    by_p99 = sorted(timed or [0], key=lambda place: rounds[place].p99_ms)
    median = by_p99[(len(by_p99) - 1) // 2]
    return median, msgspec.structs.replace(
        rounds[median],
        not_deliberate=sum(found.not_deliberate for found in rounds),
        rounds_p99_ms=[rounds[place].p99_ms for place in timed],
    )


def by_second(rows: pd.DataFrame) -> pd.DataFrame:
    """Requests by the second they were due in: offered, good, refused, and P99 of the good."""
    second = (rows.intended_ns // 1_000_000_000).rename("second")
    fine = good(rows)
    return pd.DataFrame(
        {
            "offered": rows.groupby(second).size(),
            "good": fine.groupby(second).size(),
            "refused": (rows.status == 503).groupby(second).sum(),
            "p99_ms": fine.latency_ms.groupby(second).quantile(0.99),
        }
    ).fillna({"good": 0})
