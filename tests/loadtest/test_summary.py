"""Metrics from synthetic rows with a known answer. 1 s."""

import numpy as np
import pandas as pd
import pytest

from nanorecsys.loadtest import summary
from nanorecsys.loadtest.generator import Sent
from nanorecsys.loadtest.result import LoadRow
from nanorecsys.loadtest.summary import INVALID, PARTS, VALID, VOID

MS = 1_000_000


def rows(n=1000, **columns):
    """A run at 100 requests/s: 70 % hits of 1 ms, the others computed after a random queue."""
    rng = np.random.default_rng(0)
    intended = np.arange(n) * 10 * MS
    hot = rng.random(n) < 0.7
    queue, encode, retrieve, rank = (
        np.where(hot, np.nan, x).astype(np.float32)
        for x in (rng.exponential(20.0, n), 5.0, 0.5, 1.0)
    )
    total = np.where(hot, 0.6, np.nan_to_num(queue) + 5 + 0.5 + 1 + 0.4).astype(np.float32)
    sent = intended + MS // 5
    made = {
        "intended_ns": intended,
        "sent_ns": sent,
        "done_ns": sent + ((total + 0.3) * MS).astype(np.int64),
        "status": np.full(n, 200, np.int16),
        "source": np.where(hot, "cache", "model"),
        "user": np.arange(n, dtype=np.int32),
        "hot": hot,
        "queue_ms": queue,
        "encode_ms": encode,
        "retrieve_ms": retrieve,
        "rank_ms": rank,
        "total_ms": total,
        "encode_cpu_ms": np.float32(0.8) * encode,
        "retrieve_cpu_ms": retrieve,
        "rank_cpu_ms": rank,
        "warm_up": intended < 50 * 10 * MS,
    }
    return pd.DataFrame(made | columns)


def load_row(**values):
    given = {
        "scenario": "sweep",
        "server": "x",
        "offered_per_s": 100.0,
        "seconds": 10.0,
        "requests": 1000,
        "answered": 1000,
        "refused": 0,
        "failed": 0,
        "skipped": 0,
        "goodput_per_s": 100.0,
        "p50_ms": 1.0,
        "p95_ms": 5.0,
        "p99_ms": 10.0,
        "hit_share": 0.7,
        "server_cpu_ms": 2.0,
        "generator_cpu_ms": 1.0,
        "lag_p99_ms": 0.1,
        "verdict": "VALID",
    }
    return LoadRow(**given | values)


def sent_of(frame, end_ns=10_000 * MS, heads=()):
    return Sent(
        intended_ns=frame.intended_ns.to_numpy(),
        sent_ns=frame.sent_ns.to_numpy(),
        done_ns=frame.done_ns.to_numpy(),
        status=frame.status.to_numpy(),
        heads=list(heads),
        sources=frame.source.tolist(),
        end_ns=end_ns,
        cpu_s=0.5,
        server_cpu_s=2.0,
    )


def summarize(frame, begin_ns=0, offered_per_s=100.0, bound_ms=1000.0):
    return summary.summarize(sent_of(frame), frame, begin_ns, "sweep", "x", offered_per_s, bound_ms)


def test_rows_hold_what_the_server_tells_of_its_stages():
    frame = rows(3).assign(source=["model", "cache", ""], status=[200, 200, 0])
    timing = "queue;dur=1.30, encode;dur=4.5;cpu=4.1, retrieve;dur=0.2;cpu=0.1, total;dur=6.9"
    heads = [f"HTTP/1.1 200 OK\r\nServer-Timing: {timing}\r\nX-Worker: 1", "server-timing: x", ""]
    found = summary.frame_of(
        sent_of(frame, heads=heads), frame.user.to_numpy(), frame.hot.to_numpy(), 15 * MS
    )
    assert set(found.columns) == set(rows(1).columns)
    first = found.iloc[0]
    assert (first.queue_ms, first.encode_ms, first.encode_cpu_ms) == pytest.approx((1.3, 4.5, 4.1))
    assert (first.retrieve_cpu_ms, first.total_ms) == pytest.approx((0.1, 6.9))
    assert found.rank_ms.isna().all()
    assert found.total_ms.isna().tolist() == [False, True, True]
    assert found.warm_up.tolist() == [True, True, False]
    assert found.source.tolist() == ["model", "cache", ""]


def test_latency_counts_from_the_intended_time():
    frame = rows(done_ns=np.arange(1000) * 10 * MS + 10 * MS)
    found = summarize(frame.assign(sent_ns=frame.intended_ns + 4 * MS))
    assert (found.p50_ms, found.lag_p99_ms) == pytest.approx((10.0, 4.0))


def test_the_warm_up_counts_only_for_what_is_answered_after_it():
    frame = rows(done_ns=np.arange(1000) * 10 * MS + 100 * MS)
    found = summarize(frame, begin_ns=500 * MS)
    assert (found.requests, found.answered) == (950, 950)
    assert found.seconds == 9.5
    assert found.goodput_per_s == pytest.approx(951 / 9.5)  # both ends of the measured part count
    assert found.server_cpu_ms == pytest.approx(2000 / 960)  # ten began before it and ended in it
    assert found.generator_cpu_ms == pytest.approx(500 / 960)


def test_only_answers_from_model_or_cache_are_good():
    status = np.full(1000, 200, np.int16)
    status[500:520], status[520:530], status[530:535], status[535] = 503, 404, 0, -1
    frame = rows(status=status)
    frame.loc[600:609, "source"] = "fallback"
    found = summarize(frame)
    assert (found.refused, found.failed, found.skipped) == (20, 25, 1)
    assert found.answered == 950 - 46
    assert found.hit_share == pytest.approx((summary.measured(frame).source == "cache").mean())


@pytest.mark.parametrize(
    ("n_slow", "late_ms", "status", "verdict", "reason"),
    [
        (0, 0, 200, VALID, ""),
        (8, 0, 200, VALID, ""),
        (20, 0, 200, INVALID, "P99 is 2000.0 ms, above 1000 ms"),
        (0, 0, 503, INVALID, "1 refused"),
        (0, 0, 0, INVALID, "1 failed"),
        (0, 0, -1, INVALID, "1 skipped"),
        (20, 6, 503, VOID, "the generator's lag at P99 is 6.0 ms, above 5 ms"),
    ],
)
def test_verdicts(n_slow, late_ms, status, verdict, reason):
    frame = rows()
    slow = (np.arange(1000) >= 500) & (np.arange(1000) < 500 + n_slow)
    frame = frame.assign(
        done_ns=frame.intended_ns + np.where(slow, 2000 * MS, 10 * MS),
        sent_ns=frame.intended_ns + late_ms * MS,
        status=np.where(np.arange(1000) == 700, status, 200),
    )
    found = summarize(frame)
    assert (found.verdict, found.reason) == (verdict, reason)


def test_a_run_is_void_where_the_lag_exceeds_a_tenth_of_a_low_bound():
    frame = rows()
    late = frame.assign(sent_ns=frame.intended_ns + 4 * MS, done_ns=frame.intended_ns + 5 * MS)
    assert summarize(late, bound_ms=50.0).verdict == VALID
    found = summarize(late, bound_ms=30.0)
    assert found.verdict == VOID
    assert found.reason == "the generator's lag at P99 is 4.0 ms, above 3 ms"


def test_a_closed_loop_has_neither_bound_nor_lag():
    frame = rows()
    late = frame.assign(sent_ns=frame.intended_ns + 50 * MS)
    assert summarize(late, offered_per_s=None, bound_ms=1.0).verdict == VALID


def test_a_run_without_an_answer_has_no_percentiles():
    found = summarize(rows(status=np.zeros(1000, int), done_ns=np.full(1000, -1)))
    assert (found.verdict, found.p99_ms, found.answered) == (INVALID, None, 0)


def test_parts_add_up_to_the_latency_without_the_warm_up():
    found = summary.parts(rows())
    assert len(found) == 950
    assert found[list(PARTS)].sum(axis=1).to_numpy() == pytest.approx(
        found.latency_ms.to_numpy(), abs=1e-3
    )
    computed = found[found.computed]
    assert computed.encode.to_numpy() == pytest.approx(4.0)
    assert computed["waiting for a core"].to_numpy() == pytest.approx(1.0)
    assert computed["event loop"].to_numpy() == pytest.approx(0.4, abs=1e-3)
    assert found.generator.to_numpy() == pytest.approx(0.2)


def test_a_request_without_an_answer_has_no_parts():
    status = np.where(np.arange(1000) % 2 == 0, 503, 200)
    assert len(summary.parts(rows(status=status))) == 475


def test_bands_cover_every_request_and_the_tail_is_the_queue():
    found = summary.bands(rows())
    assert sum(band.requests for band in found) == 950
    assert [band.mean_ms for band in found] == sorted(band.mean_ms for band in found)
    for band in found:
        assert sum(band.parts_ms.values()) == pytest.approx(band.mean_ms, abs=1e-3)
    assert (found[0].computed_share, found[-1].computed_share) == (0, 1)
    assert found[-1].parts_ms["queue"] / found[-1].mean_ms > 0.8
    waited = found[-1].parts_ms["queue"] + found[-1].parts_ms["waiting for a core"]
    assert found[-1].waiting_share == pytest.approx(waited / found[-1].mean_ms)


def test_stages_are_those_of_computed_requests():
    found = summary.stages(rows())
    assert found["embedding"].p50 == found["embedding"].p99 == 5.0
    assert found["compute"].p95 == 6.5
    assert found["compute, CPU time"].p95 == pytest.approx(5.5)
    assert found["total"].p50 == pytest.approx(1.1, abs=0.01)
    assert summary.stages(rows().query("hot")) == {}


PHASES = [(100, 2), (400, 3), (100, 5)]


def overloaded(**columns):
    """A run of PHASES: 30 % of the overload is answered, and the bound is kept 1 s after it."""
    rng = np.random.default_rng(0)
    due = np.concatenate(
        [np.arange(200) / 100, 2 + np.arange(1200) / 400, 5 + np.arange(500) / 100]
    )
    good = (due < 2) | (due >= 5) | (rng.random(len(due)) < 0.3)
    late = np.where((due >= 2) & (due < 6), 150.0, 5.0)
    intended = (due * 1e9).astype(np.int64)
    made = {
        "intended_ns": intended,
        "sent_ns": intended,
        "done_ns": intended + (np.where(good, late, 1.0) * MS).astype(np.int64),
        "status": np.where(good, 200, 503).astype(np.int16),
        "source": np.where(good, "model", ""),
    }
    return pd.DataFrame(made | columns)


def test_an_overload_is_read_from_the_rows():
    highest = load_row(offered_per_s=200.0, goodput_per_s=150.0)
    found = summary.overload(overloaded(), PHASES, 0.1, highest, bound_ms=100.0)
    assert found.times_highest == 2.0
    assert found.goodput_share == pytest.approx(120 / 150, rel=0.08)
    assert found.p99_ms == pytest.approx(150.0)
    assert found.refused_share == pytest.approx(0.7, abs=0.05)
    assert (found.not_deliberate, found.recovery_s, found.verdict) == (0, 1.0, VALID)
    late = summary.overload(overloaded(), PHASES, 6.0, highest, bound_ms=100.0)
    assert late.verdict == VOID


def test_other_server_errors_and_broken_connections_are_not_deliberate():
    status = np.array([500, 0, 503, *[200] * 1897])
    found = summary.overload(overloaded(status=status), PHASES, 0.1, load_row(), bound_ms=100.0)
    assert found.not_deliberate == 2


def test_a_server_that_never_recovers_takes_until_the_end():
    frame = overloaded()
    late = frame.assign(done_ns=frame.intended_ns + 500 * MS)
    assert summary.recovery_s(late, int(5e9), 100.0) == 5.0
    assert summary.recovery_s(late, int(5e9), 1000.0) == 0.0


def test_the_round_counts_that_has_the_median_p99_within_the_overload():
    def round_of(during_ms, after_ms, lag_p99_ms=0.1, failed=0):
        frame = overloaded()
        within = frame.intended_ns.between(2e9, 5e9, inclusive="left")
        latency_ms = np.where(within, during_ms, np.where(frame.intended_ns < 2e9, 5.0, after_ms))
        frame["done_ns"] = frame.intended_ns + (latency_ms * MS).astype(np.int64)
        frame.loc[: failed - 1, "status"] = 500
        run_p99_ms = np.percentile(summary.good(frame).latency_ms, 99)
        return run_p99_ms, summary.overload(frame, PHASES, lag_p99_ms, load_row(), 100.0)

    run_p99s, rounds = zip(
        round_of(150.0, 200.0),
        round_of(120.0, 400.0, failed=2),
        round_of(130.0, 5.0, failed=1),
        round_of(10.0, 5.0, lag_p99_ms=6.0),
        strict=True,
    )
    assert sorted(run_p99s[:3])[1] == run_p99s[0]  # P99 of the whole run would choose another
    place, found = summary.median_overload(rounds)
    assert (place, found.p99_ms) == (2, pytest.approx(130.0))
    assert found.rounds_p99_ms == pytest.approx([150.0, 120.0, 130.0])
    assert found.not_deliberate == 3
    place, found = summary.median_overload(rounds[3:])
    assert (place, found.verdict, found.rounds_p99_ms) == (0, VOID, [])


def test_seconds_show_what_was_offered_answered_and_refused():
    found = summary.by_second(overloaded())
    assert found.offered.tolist() == [100] * 2 + [400] * 3 + [100] * 5
    assert (found.good + found.refused).tolist() == found.offered.tolist()
    assert found.p99_ms.tolist()[:3] == pytest.approx([5.0, 5.0, 150.0])
