"""Summaries and verdicts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanorecsys.loadtest import analysis
from nanorecsys.loadtest.summary import (
    COMPUTED,
    INVALID,
    STAGES,
    VALID,
    VOID,
    Lag,
    judge,
    latency_of,
    measure_lag,
    percentiles,
    summarize,
)

ON_TIME = Lag(0.1, 0.5, 2.0)


def rows(n: int = 2000, latency_ms: float | np.ndarray = 10.0, **columns: object) -> pl.DataFrame:
    """n good answers, one a millisecond."""
    intended = np.arange(n) * 1_000_000
    done = intended + (np.full(n, latency_ms) * 1e6).astype(np.int64)
    given = {
        "intended_ns": intended,
        "sent_ns": intended + 100_000,
        "done_ns": done,
        "hot": np.zeros(n, bool),
        "status": np.full(n, 200),
        "source": ["model"] * n,
        **{f"{stage}_ms": np.full(n, np.nan) for stage in STAGES},
        **{f"{stage}_cpu_ms": np.full(n, np.nan) for stage in COMPUTED},
        "worker": np.full(n, -1),
        "retries": np.zeros(n, int),
        "warm_up": np.zeros(n, bool),
    }
    return pl.DataFrame(given | columns)


def verdict(frame: pl.DataFrame, lag: Lag = ON_TIME, bound_ms: float = 100.0, minimum: int = 1000):
    return judge(frame, summarize(frame, 0, 2_000_000_000), lag, bound_ms, minimum=minimum)


@given(st.lists(st.floats(0.01, 10_000), min_size=1, max_size=300))
def test_percentiles_are_exact_to_three_digits(latency_ms: list[float]) -> None:
    ordered = np.sort(latency_ms)
    for p, found in percentiles(np.array(latency_ms), [1, 50, 90, 99, 100]).items():
        rank = max(int(p / 100 * len(ordered) + 0.5), 1)  # how HdrHistogram counts
        assert found == pytest.approx(ordered[rank - 1], rel=1.5e-3, abs=1.1e-3)


def test_percentiles_of_nothing_are_not_numbers() -> None:
    assert np.isnan(percentiles(np.array([]), [99])[99])
    assert latency_of(np.array([])).p99_ms is None


def test_latency_counts_from_the_intended_time() -> None:
    s = summarize(
        rows(latency_ms=10.0, sent_ns=np.arange(2000) * 1_000_000 + 4_000_000), 0, 2_000_000_000
    )
    assert s.latency.p50_ms == pytest.approx(10, rel=1e-3)
    assert s.sent_latency.p50_ms == pytest.approx(6, rel=1e-3)


def test_the_warm_up_counts_only_for_what_is_answered_later() -> None:
    frame = rows(latency_ms=100.0, warm_up=np.arange(2000) < 500)
    s = summarize(frame, 500_000_000, 2_000_000_000)
    assert (s.offered, s.latency.n) == (1500, 1500)
    assert s.offered_per_s == pytest.approx(1000)
    assert s.answered_since_begin == 1600  # 100 were sent before the begin and answered after it
    assert s.goodput_per_s == pytest.approx(1501 / 1.5)  # answered from 0.5 s to 2.0 s, both ends


def test_hits_and_workers_are_told_apart() -> None:
    n = np.arange(2000)
    frame = rows(
        latency_ms=np.where(n % 4 == 0, 20.0, 1.0),
        source=np.where(n % 4 == 0, "model", "cache").tolist(),
        hot=n % 2 == 1,
        worker=np.where(n < 1500, 11, 12),
    )
    s = summarize(frame, 0, 2_000_000_000)
    assert (s.hit_share, s.cold_hit_share) == (0.75, 0.5)
    assert s.hit_latency.p99_ms == pytest.approx(1, rel=1e-3)
    assert s.miss_latency.p50_ms == pytest.approx(20, rel=1e-3)
    assert s.workers == {11: 1500, 12: 500}


def test_lag_is_of_what_was_sent_in_the_measured_part() -> None:
    n = np.arange(1000)
    sent = n * 1_000_000 + np.where(n < 500, 50_000_000, 2_000_000)
    lag = measure_lag(rows(1000, sent_ns=np.where(n == 999, -1, sent), warm_up=n < 500))
    assert lag.max_ms == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(
    ("frame", "lag", "bound_ms", "kind", "reason"),
    [
        (rows(), ON_TIME, 100, VALID, None),
        (rows(latency_ms=np.where(np.arange(2000) < 19, 500.0, 10.0)), ON_TIME, 100, VALID, None),
        (
            rows(latency_ms=np.where(np.arange(2000) < 40, 500.0, 10.0)),
            ON_TIME,
            100,
            INVALID,
            "P99 is 500",
        ),
        (rows(999), ON_TIME, 100, INVALID, "999 requests, fewer than 1,000"),
        (rows(status=np.where(np.arange(2000) == 7, 503, 200)), ON_TIME, 100, INVALID, "1 failed"),
        (rows(status=np.where(np.arange(2000) == 7, 0, 200)), ON_TIME, 100, INVALID, "1 failed"),
        (rows(status=np.where(np.arange(2000) < 2, -1, 200)), ON_TIME, 100, INVALID, "2 skipped"),
        (
            rows(source=["fallback", *["model"] * 1999]),
            ON_TIME,
            100,
            INVALID,
            "1 answered by a fallback",
        ),
        (rows(), Lag(1.0, 5.1, 9.0), 100, VOID, "above 5 ms"),
        (rows(), Lag(0.5, 1.1, 9.0), 100, VALID, None),
        (rows(), Lag(0.5, 1.1, 9.0), 10, VOID, "above 1 ms"),
        (rows(status=np.zeros(2000, int)), ON_TIME, 100, INVALID, "2,000 failed"),
    ],
)
def test_verdicts(
    frame: pl.DataFrame, lag: Lag, bound_ms: float, kind: str, reason: str | None
) -> None:
    found = verdict(frame, lag, bound_ms)
    assert found.kind == kind
    assert reason is None or any(reason in r for r in found.reasons)
    assert bool(found.reasons) == (kind != VALID)


def test_parts_of_the_time_sum_to_the_latency() -> None:
    slow = np.arange(2000) >= 1980
    frame = rows(
        latency_ms=np.where(slow, 50.0, 10.0),
        queue_ms=np.where(slow, 40.0, 1.0),
        encode_ms=np.full(2000, 5.0),
        encode_cpu_ms=np.full(2000, 4.5),
        total_ms=np.where(slow, 48.0, 7.0),
    )
    parts = analysis.parts(frame)
    slowest = parts.filter(pl.col("latency_ms") >= np.percentile(parts["latency_ms"], 99))
    mean, slow = (
        found.select(analysis.PARTS).mean().row(0, named=True) for found in (parts, slowest)
    )
    assert sum(slow.values()) == pytest.approx(50)
    assert sum(mean.values()) == pytest.approx(10.4)
    assert slow["queue"] == pytest.approx(40)
    assert (slow["encode"], slow["waiting for a core"]) == (4.5, 0.5)
    assert slow["generator"] == pytest.approx(0.1)
    assert mean["event loop"] == pytest.approx(0.99 + 0.03)
    assert slow["outside"] == pytest.approx(1.9)
    assert sum(part / slowest["latency_ms"].mean() for part in slow.values()) == pytest.approx(1)


def test_there_are_no_parts_of_answers_without_stages() -> None:
    assert analysis.parts(rows()).is_empty()
