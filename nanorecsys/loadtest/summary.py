"""What the rows of a run say: percentiles, rates, errors, a verdict, and where the time of slow requests went."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
import polars as pl
from hdrh.histogram import HdrHistogram

from nanorecsys.loadtest.result import LoadRow

STAGES = ("cache", "queue", "encode", "retrieve", "rank", "total")  # of Server-Timing,
COMPUTED = ("encode", "retrieve", "rank")  # and those of them that it tells the CPU time of
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
LAG_MS = 5.0  # the generator's lag at its 99th percentile, beyond which a run is void,
LAG_SHARE = 0.1  # or this share of the bound, where that is less
_LONGEST_US = 3_600_000_000

VALID, INVALID, VOID = "VALID", "INVALID", "VOID"


class Latency(msgspec.Struct, frozen=True):
    """Percentiles of n latencies, None where there is none."""

    n: int
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None


class Lag(msgspec.Struct, frozen=True):
    """The generator's own lag, really sent against intended, of requests that were not skipped."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Verdict(msgspec.Struct, frozen=True):
    """VALID, INVALID (the server's doing) or VOID (the generator's: it says nothing of the server), and why."""

    kind: Literal["VALID", "INVALID", "VOID"]
    reasons: list[str]

    @property
    def valid(self) -> bool:
        """Whether it is VALID."""
        return self.kind == VALID


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The measured part of a run.

    Args:
        seconds: of the measured part.
        offered: requests intended in it.
        offered_per_s, answered_per_s: with any answer, those that came in it.
        goodput_per_s: of the answers that came in it, good ones: 200 and no fallback.
        answered_since_begin: answers from its begin until the last, what CPU time is divided by.
        statuses: offered requests by status, 0 for broken or late, -1 for skipped.
        errors: offered requests with another status than 200, skipped ones aside.
        skipped: that the bound on requests in flight kept back.
        retries: attempts on fresh connections.
        fallbacks: answers marked as fallback.
        hit_share: of good answers, from the cache; None where there is none.
        cold_hit_share: of good answers to cold users; above 0 where a cold user was not cold.
        latency: of good answers, from the intended time.
        sent_latency: of the same, from the time really sent: what a closed loop reports.
        hit_latency, miss_latency: of the same, from the cache and not, from the intended time.
        workers: good answers by worker's process id.
    """

    seconds: float
    offered: int
    offered_per_s: float
    answered_per_s: float
    goodput_per_s: float
    answered_since_begin: int
    statuses: dict[int, int]
    errors: int
    skipped: int
    retries: int
    fallbacks: int
    hit_share: float | None
    cold_hit_share: float | None
    latency: Latency
    sent_latency: Latency
    hit_latency: Latency
    miss_latency: Latency
    workers: dict[int, int]


def percentiles(latency_ms: np.ndarray, at: Iterable[float] = PERCENTILES) -> dict[float, float]:
    """Percentiles by HdrHistogram, three significant digits, in the order asked for; NaN of nothing.

    Args:
        latency_ms: float (n,), from 1 us to an hour; beyond is counted at the end.
        at: from 0 to 100.

    >>> percentiles(np.arange(1.0, 1001.0), [50, 99])
    {50: 500.223, 99: 990.207}
    """
    at = list(at)
    if not len(latency_ms):
        return dict.fromkeys(at, float("nan"))
    microseconds = np.clip(np.rint(np.asarray(latency_ms) * 1e3), 1, _LONGEST_US).astype(np.int64)
    histogram = HdrHistogram(1, _LONGEST_US, 3)
    for value, count in zip(
        *(a.tolist() for a in np.unique(microseconds, return_counts=True)), strict=True
    ):
        histogram.record_value(value, count)
    found = histogram.get_percentile_to_value_dict(at)
    return {p: found[p] / 1e3 for p in at}


def latency_of(latency_ms: np.ndarray) -> Latency:
    """The usual percentiles of latencies, float (n,)."""
    return Latency(
        len(latency_ms), *(percentiles(latency_ms).values() if len(latency_ms) else [None] * 6)
    )


def timed(row: LoadRow) -> bool:
    """Whether a run of the record tells latencies: the generator was on time, and something was answered."""
    return row.verdict != VOID and row.p99_ms is not None


def middle(p99_ms: Sequence[float | None]) -> int:
    """The place of the median, the lower of two middle ones, among those that are not None; 0 if all are."""
    told = [place for place, p99 in enumerate(p99_ms) if p99 is not None] or [0]
    return sorted(told, key=lambda place: p99_ms[place] or 0.0)[(len(told) - 1) // 2]


def measured(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of the measured part."""
    return rows.filter(~pl.col("warm_up"))


def good(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with a good answer: 200, and no fallback; with `latency_ms` and `sent_latency_ms`."""
    return rows.filter((pl.col("status") == 200) & (pl.col("source") != "fallback")).with_columns(
        latency_ms=(pl.col("done_ns") - pl.col("intended_ns")) / 1e6,
        sent_latency_ms=(pl.col("done_ns") - pl.col("sent_ns")) / 1e6,
    )


def summarize(rows: pl.DataFrame, begin_ns: int, end_ns: int) -> Summary:
    """Summarize a run.

    Args:
        rows: all of it, see `generator`.
        begin_ns, end_ns: the measured part.
    """
    offered = measured(rows)
    fine = good(offered)
    seconds = (end_ns - begin_ns) / 1e9
    inside = rows.filter(pl.col("done_ns").is_between(begin_ns, end_ns))
    hits = fine["source"] == "cache"
    latency = fine["latency_ms"].to_numpy()
    answered = offered.filter(pl.col("status") > 0)
    return Summary(
        seconds=seconds,
        offered=len(offered),
        offered_per_s=len(offered) / seconds if seconds else 0.0,
        answered_per_s=int((inside["status"] > 0).sum()) / seconds if seconds else 0.0,
        goodput_per_s=len(good(inside)) / seconds if seconds else 0.0,
        answered_since_begin=int((rows["done_ns"] >= begin_ns).sum()),
        statuses=_counts(offered["status"]),
        errors=int((~offered["status"].is_in([200, -1])).sum()),
        skipped=int((offered["status"] == -1).sum()),
        retries=int(offered["retries"].sum()),
        fallbacks=int((answered["source"] == "fallback").sum()),
        hit_share=_share(int(hits.sum()), len(fine)),
        cold_hit_share=_share(int((hits & ~fine["hot"]).sum()), int((~fine["hot"]).sum())),
        latency=latency_of(latency),
        sent_latency=latency_of(fine["sent_latency_ms"].to_numpy()),
        hit_latency=latency_of(latency[hits.to_numpy()]),
        miss_latency=latency_of(latency[~hits.to_numpy()]),
        workers=_counts(fine["worker"]),
    )


def measure_lag(rows: pl.DataFrame) -> Lag:
    """The generator's lag in the measured part of an open loop."""
    sent = measured(rows).filter(pl.col("sent_ns") >= 0)
    lag_ms = (sent["sent_ns"] - sent["intended_ns"]).to_numpy() / 1e6
    if not len(lag_ms):
        return Lag(0.0, 0.0, 0.0)
    return Lag(*percentiles(lag_ms, [50.0, 99.0, 100.0]).values())


def judge(
    rows: pl.DataFrame,
    summary: Summary,
    lag: Lag,
    bound_ms: float,
    percentile: float = 99.0,
    minimum: int = 1000,
) -> Verdict:
    """Judge a run after the rules of MLPerf's load generator.

    VOID where the generator was late: its lag at the 99th percentile above 5 ms, or above a tenth
    of the bound where that is less. Otherwise INVALID where the latency from the intended time
    passes the bound at the percentile, any request failed, was skipped or got a fallback, or there
    were too few.

    Args:
        rows: all of the run.
        summary: of it.
        lag: of it.
        bound_ms: of the latency.
        percentile: at which it holds.
        minimum: measured requests.
    """
    limit = min(LAG_MS, LAG_SHARE * bound_ms)
    if lag.p99_ms > limit:
        return Verdict(
            VOID, [f"the generator's own lag at P99 is {lag.p99_ms:.1f} ms, above {limit:g} ms"]
        )
    reasons = []
    if summary.offered < minimum:
        reasons.append(f"{summary.offered:,} requests, fewer than {minimum:,}")
    if summary.latency.n:
        latency = good(measured(rows))["latency_ms"].to_numpy()
        found = percentiles(latency, [percentile])[percentile]
        if found > bound_ms:
            reasons.append(f"P{percentile:g} is {found:.1f} ms, above {bound_ms:g} ms")
    for count, what in (
        (summary.errors, "failed"),
        (summary.skipped, "skipped, as too many were in flight"),
        (summary.fallbacks, "answered by a fallback"),
    ):
        if count:
            reasons.append(f"{count:,} {what}")
    return Verdict(INVALID, reasons) if reasons else Verdict(VALID, [])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _counts(column: pl.Series) -> dict[int, int]:
    counted = column.value_counts(sort=True)
    return dict(zip(counted.to_series(0).to_list(), counted.to_series(1).to_list(), strict=True))
