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

import numpy as np
import pandas as pd

from nanorecsys.loadtest.generator import Sent
from nanorecsys.loadtest.result import Band, LoadRow, Overload, Percentiles
from nanorecsys.study.provenance import machine

VALID, INVALID, VOID = "VALID", "INVALID", "VOID"
MIN_BEYOND = 100  # values beyond a percentile, at least
SLOW_SHARE = 0.01  # share of the requests that may be slower than the bound of P99
COMPUTED = ("encode", "retrieve", "rank")  # stages whose CPU time the server tells
STAGES = ("queue", *COMPUTED, "total")
# The server's own times of a response, by column.
TIMING = r"(?i)server-timing:" + "".join(
    rf"(?:.*?\b{stage};dur=(?P<{stage}_ms>[0-9.]+)"
    + (rf"(?:;cpu=(?P<{stage}_cpu_ms>[0-9.]+))?)?" if stage in COMPUTED else ")?")
    for stage in STAGES
)
NO_CORE = "waiting for a core"
# Where the time of a request goes; the parts add up to its latency.
PARTS = ("generator", "queue", *COMPUTED, NO_CORE, "event loop", "outside")
QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)  # bounds of the bands of latency
LAG_MS = 5.0  # lag of the generator beyond which a request was sent late,
LAG_SHARE = 0.1  # or this share of the bound, where that is less
LATE_SHARE = 0.01  # share of late requests beyond which a run is VOID
CORES_SHARE = 0.95  # share of the cores' time beyond which the cores are the limit


def frame_of(sent: Sent, users: np.ndarray, hot: np.ndarray, begin_ns: int) -> pd.DataFrame:
    """Make the rows of a run.

    Args:
        sent: What the generator reports, n requests.
        users: Number of each request's user, int32 (n,).
        hot: Whether each was drawn from the hot set, bool (n,).
        begin_ns: Start of the measured part.
    """
    rows = sent.rows.drop(columns="head")
    rows = rows.assign(user=users, hot=hot, warm_up=rows.intended_ns < begin_ns)
    return rows.join(sent.rows["head"].str.extract(TIMING).astype("float32"))


def good(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the good answers: 200, and no fallback; `latency_ms` is added."""
    answered = rows[(rows.status == 200) & (rows.source != "fallback")]
    return answered.assign(latency_ms=(answered.done_ns - answered.intended_ns) / 1e6)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the good answers of the measured part."""
    return good(rows[~rows.warm_up])


def summarize(
    sent: Sent,
    rows: pd.DataFrame,
    begin_ns: int,
    scenario: str,
    server: str,
    offered_per_s: float | None,
    bound_ms: float,
    refused_share: float,
) -> LoadRow:
    """Summarize a run and judge it, as MLPerf's load generator does, by counts of requests.

    A run is VOID where the generator was late, whatever the server did. Otherwise it is INVALID
    where more requests than `refused_share` were refused, failed or skipped, or where these and the
    slow ones are more than `SLOW_SHARE`.

    Args:
        sent: What the generator reports.
        rows: Rows of the run.
        begin_ns: Start of the measured part.
        scenario, server, offered_per_s: See `LoadRow`.
        bound_ms: Bound of the 99th percentile of latency; a closed loop has none.
        refused_share: Share of the requests that may be refused, fail or be skipped.
    """
    offered = rows[~rows.warm_up]
    fine = good(offered)
    n = max(len(offered), 1)
    seconds = (sent.end_ns - begin_ns) / 1e9
    refused, skipped = int((offered.status == 503).sum()), int((offered.status == -1).sum())
    lost, slow = len(offered) - len(fine), int((fine.latency_ms > bound_ms).sum())
    was_sent = offered[offered.sent_ns >= 0]
    lag_limit_ms = min(LAG_MS, LAG_SHARE * bound_ms)
    late = (was_sent.sent_ns - was_sent.intended_ns) / 1e6 > lag_limit_ms
    late_share = int(late.sum()) / max(len(was_sent), 1)
    last_ns = max(sent.end_ns, int(rows.done_ns.to_numpy().max(initial=0)))
    cores_s = machine().cores * max(last_ns - begin_ns, 1) / 1e9
    busy_share = (sent.server_cpu_s + sent.cpu_s) / cores_s
    reasons = {}
    if not len(fine):
        reasons["refusals"] = "no request was answered"
    elif lost > refused_share * n:
        reasons["refusals"] = f"{lost / n:.2%} refused, failed or skipped"
    if offered_per_s is not None and slow + lost > SLOW_SHARE * n:
        reasons["P99"] = f"{(slow + lost) / n:.1%} slower than {bound_ms:g} ms or not answered"
    if reasons and busy_share >= CORES_SHARE:
        reasons = {"cores": f"cores {busy_share:.0%} busy", **reasons}
    verdict = INVALID if reasons else VALID
    if offered_per_s is not None and late_share > LATE_SHARE:
        verdict = VOID
        reasons = {"generator": f"{late_share:.1%} sent more than {lag_limit_ms:g} ms late"}
    came = good(rows[rows.done_ns.between(begin_ns, sent.end_ns)])
    # Rejections are work too: their CPU time counts, and they do not count as answers.
    answers = max(len(good(rows[rows.done_ns >= begin_ns])), 1)
    return LoadRow(
        scenario=scenario,
        server=server,
        offered_per_s=offered_per_s,
        seconds=seconds,
        requests=len(offered),
        answered=len(fine),
        slow=slow,
        refused=refused,
        failed=lost - refused - skipped,
        skipped=skipped,
        goodput_per_s=len(came) / seconds if seconds else 0.0,
        p50_ms=percentile(fine.latency_ms, 50),
        p95_ms=percentile(fine.latency_ms, 95),
        p99_ms=percentile(fine.latency_ms, 99),
        hit_share=float((fine.source == "cache").mean()) if len(fine) else 0.0,
        server_cpu_ms=1e3 * sent.server_cpu_s / answers,
        generator_cpu_ms=1e3 * sent.cpu_s / answers,
        busy_share=busy_share,
        late_share=late_share,
        verdict=verdict,
        limit=next(iter(reasons), ""),
        reason="; ".join(reasons.values()),
    )


def percentile(values: pd.Series, q: float) -> float | None:
    """Compute a percentile; None where fewer than `MIN_BEYOND` values lie beyond it.

    The median needs 200 values, P95 2,000 and P99 10,000.

    >>> values = pd.Series(range(2000))
    >>> percentile(values, 95), percentile(values, 99)
    (1899.05, None)
    """
    if len(values) * (100 - q) < 100 * MIN_BEYOND:
        return None
    return float(np.percentile(values, q))


def stages(rows: pd.DataFrame) -> dict[str, Percentiles]:
    """Percentiles of the original's breakdown, without the stages that the server does not have.

    `total` is the latency of all answers, everything else is of computed ones.
    """
    fine = measured(rows)
    cold = fine[fine.encode_ms.notna()]
    columns = {
        "total": fine.latency_ms,
        "total, computed": cold.latency_ms,
        "queue": cold.queue_ms,
        "embedding": cold.encode_ms,
        "ranking": cold.rank_ms,
        "retrieval": cold.retrieve_ms,
        "compute": cold[[f"{stage}_ms" for stage in COMPUTED]].sum(axis=1),
        "compute, CPU time": cold[[f"{stage}_cpu_ms" for stage in COMPUTED]].sum(axis=1),
    }
    return {
        name: Percentiles(
            p50=percentile(column, 50), p95=percentile(column, 95), p99=percentile(column, 99)
        )
        for name, column in columns.items()
        if column.notna().any()
    }


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
            "generator": (fine.sent_ns - fine.intended_ns) / 1e6,
            "queue": fine.queue_ms,
            **cpu,
            NO_CORE: took - sum(cpu.values()),
            "event loop": fine.total_ms - fine.queue_ms - took,
            "outside": (fine.done_ns - fine.sent_ns) / 1e6 - fine.total_ms,
        }
    )


def bands(rows: pd.DataFrame) -> list[Band]:
    """Mean time in each part between quantiles of latency.

    There are none where fewer than `MIN_BEYOND` requests lie beyond the last quantile.
    """
    found = parts(rows).sort_values("latency_ms")
    if percentile(found.latency_ms, 100 * QUANTILES[-2]) is None:
        return []
    made = []
    for low, high in itertools.pairwise(QUANTILES):
        means = found.iloc[round(low * len(found)) : round(high * len(found))].mean().to_dict()
        latency_ms = means.pop("latency_ms")
        made.append(Band(low=low, high=high, mean_ms=latency_ms, parts_ms=means))
    return made


def overload(
    rows: pd.DataFrame, phases: Sequence[tuple[float, float]], verdict: str, highest: LoadRow
) -> Overload:
    """Summarize a run that goes beyond the capacity and falls back.

    Args:
        rows: Rows of the run.
        phases: Rate and seconds before, in and after the overload.
        verdict: Verdict on the run.
        highest: The run at the highest rate, where goodput has its peaks.
    """
    (_, before_s), (_, during_s), _ = phases
    begin_ns, end_ns = int(before_s * 1e9), int((before_s + during_s) * 1e9)
    during = rows[rows.intended_ns.between(begin_ns, end_ns)]
    refused = (during.status == 503).groupby(during.hot).mean()
    came = good(rows[rows.done_ns.between(begin_ns, end_ns)])
    cached_per_s = int((came.source == "cache").sum()) / during_s
    computed_per_s = len(came) / during_s - cached_per_s
    peak = highest.goodput_per_s
    return Overload(
        computed_share=_share(computed_per_s, peak * (1 - highest.hit_share)),
        cached_share=_share(cached_per_s, peak * highest.hit_share),
        p99_ms=percentile(good(during).latency_ms, 99),
        refused_cold=float(refused.get(False, 0.0)),
        refused_hot=float(refused.get(True, 0.0)),
        lost_share=float((~during.status.isin((200, 503))).mean()),
        verdict=VOID if verdict == VOID else VALID,
    )


def _share(value: float, whole: float) -> float:
    return value / whole if whole else 0.0


def by_second(rows: pd.DataFrame) -> pd.DataFrame:
    """Requests by the second they were due in: offered, refused, good ones computed and cached."""
    second = (rows.intended_ns // 1_000_000_000).rename("second")
    fine = good(rows)
    cached = fine.source == "cache"
    return pd.DataFrame(
        {
            "offered": rows.groupby(second).size(),
            "refused": (rows.status == 503).groupby(second).sum(),
            "computed": (~cached).groupby(second).sum(),
            "cached": cached.groupby(second).sum(),
        }
    ).fillna(0)
