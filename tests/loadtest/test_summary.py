"""Metrics from synthetic rows with a known answer. 1 s."""

import dataclasses
from types import SimpleNamespace

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
        "slow": 0,
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
        "busy_share": 0.5,
        "late_share": 0.0,
        "verdict": "VALID",
    }
    return LoadRow(**given | values)


def sent_of(frame, end_ns=10_000 * MS, heads=""):
    told = frame[["intended_ns", "sent_ns", "done_ns", "status", "source"]].assign(head=heads)
    return Sent(rows=told, end_ns=end_ns, cpu_s=0.5, server_cpu_s=2.0)


def summarize(frame, begin_ns=0, offered_per_s=100.0, bound_ms=1000.0, refused_share=0.001):
    told = "sweep", "x", offered_per_s, bound_ms, refused_share
    return summary.summarize(sent_of(frame), frame, begin_ns, *told)


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
    assert found.p50_ms == pytest.approx(10.0)


def test_cpu_time_is_for_good_answers_and_not_for_rejections():
    status = np.where(np.arange(1000) % 10 == 0, 200, 503)
    found = summarize(rows(status=status), offered_per_s=None)
    assert found.server_cpu_ms == pytest.approx(2000 / 100)


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
    ("n_slow", "n_late", "statuses", "verdict", "limit", "reason"),
    [
        (0, 0, [], VALID, "", ""),
        (9, 0, [], VALID, "", ""),
        (10, 0, [], INVALID, "P99", "1.1% slower than 1000 ms or not answered"),
        (9, 0, [503], INVALID, "P99", "1.1% slower than 1000 ms or not answered"),
        (9, 0, [-1, 0], INVALID, "refusals", "0.21% refused, failed or skipped; 1.2% slower"),
        (0, 0, [503], VALID, "", ""),
        (0, 0, [503, 0], INVALID, "refusals", "0.21% refused, failed or skipped"),
        (0, 0, [-1, -1], INVALID, "refusals", "0.21% refused, failed or skipped"),
        (0, 9, [], VALID, "", ""),
        (20, 10, [503, 503], VOID, "generator", "1.1% sent more than 5 ms late"),
    ],
)
def test_verdicts_by_counts(n_slow, n_late, statuses, verdict, limit, reason):
    frame = rows()  # 950 requests after the warm-up
    place = np.arange(1000)
    slow = (place >= 500) & (place < 500 + n_slow)
    late = (place >= 600) & (place < 600 + n_late)
    status = np.full(1000, 200)
    status[700 : 700 + len(statuses)] = statuses
    frame = frame.assign(
        done_ns=frame.intended_ns + np.where(slow, 2000 * MS, 10 * MS),
        sent_ns=frame.intended_ns + np.where(late, 6 * MS, 0),
        status=status,
    )
    found = summarize(frame, refused_share=1.5 / 950)
    assert (found.verdict, found.limit, found.slow) == (verdict, limit, n_slow)
    assert found.reason.startswith(reason)
    assert bool(found.reason) == bool(reason)


def test_the_cores_are_the_limit_where_server_and_generator_use_them_up(monkeypatch):
    frame = rows(status=np.where(np.arange(1000) % 100 == 99, 503, 200))
    sent = sent_of(frame)  # 2.5 CPU seconds in 10 s
    told = frame, 0, "sweep", "x", 100.0, 1000.0, 0.001
    limits = {}
    for cores in (1, 2):
        monkeypatch.setattr(summary, "machine", lambda n=cores: SimpleNamespace(cores=n))
        idle = summary.summarize(sent, *told)
        busy = summary.summarize(dataclasses.replace(sent, server_cpu_s=9.3), *told)
        assert idle.busy_share == pytest.approx(0.25 / cores, rel=0.05)
        limits[cores] = idle.limit, busy.limit
    assert limits == {1: ("refusals", "cores"), 2: ("refusals", "refusals")}
    assert (
        busy.reason == "1.05% refused, failed or skipped; 1.1% slower than 1000 ms or not answered"
    )


def test_a_run_is_void_where_the_lag_exceeds_a_tenth_of_a_low_bound():
    frame = rows()
    late = frame.assign(sent_ns=frame.intended_ns + 4 * MS, done_ns=frame.intended_ns + 5 * MS)
    assert summarize(late, bound_ms=50.0).verdict == VALID
    found = summarize(late, bound_ms=30.0)
    assert (found.verdict, found.late_share) == (VOID, 1.0)
    assert found.reason == "100.0% sent more than 3 ms late"


def test_a_percentile_needs_a_hundred_values_beyond_it():
    for q, n in ((50, 200), (95, 2000), (99, 10_000)):
        assert summary.percentile(pd.Series(range(n)), q) == pytest.approx(n * q / 100, abs=1)
        assert summary.percentile(pd.Series(range(n - 1)), q) is None
    found = summarize(rows())
    assert found.p50_ms is not None
    assert (found.p95_ms, found.p99_ms) == (None, None)


def test_a_closed_loop_has_neither_bound_nor_lag():
    frame = rows()
    late = frame.assign(sent_ns=frame.intended_ns + 50 * MS)
    assert summarize(late, offered_per_s=None, bound_ms=1.0).verdict == VALID


def test_a_run_without_an_answer_has_no_percentiles():
    found = summarize(rows(status=np.zeros(1000, int), done_ns=np.full(1000, -1)))
    assert (found.verdict, found.p50_ms, found.answered) == (INVALID, None, 0)
    assert found.reason.startswith("no request was answered")


def test_parts_add_up_to_the_latency_without_the_warm_up():
    found = summary.parts(rows())
    assert len(found) == 950
    assert found[list(PARTS)].sum(axis=1).to_numpy() == pytest.approx(
        found.latency_ms.to_numpy(), abs=1e-3
    )
    computed = found[found.encode > 0]
    assert computed.encode.to_numpy() == pytest.approx(4.0)
    assert computed["waiting for a core"].to_numpy() == pytest.approx(1.0)
    assert computed["event loop"].to_numpy() == pytest.approx(0.4, abs=1e-3)
    assert found.generator.to_numpy() == pytest.approx(0.2)


def test_a_request_without_an_answer_has_no_parts():
    status = np.where(np.arange(1000) % 2 == 0, 503, 200)
    assert len(summary.parts(rows(status=status))) == 475


def test_bands_add_up_and_the_tail_is_the_queue():
    found = summary.bands(rows(10_100))
    assert [(band.low, band.high) for band in found][-2:] == [(0.95, 0.99), (0.99, 1.0)]
    assert summary.bands(rows(10_000)) == []  # 9,950 after the warm-up
    assert [band.mean_ms for band in found] == sorted(band.mean_ms for band in found)
    for band in found:
        assert sum(band.parts_ms.values()) == pytest.approx(band.mean_ms, abs=1e-3)
    assert found[-1].parts_ms["queue"] / found[-1].mean_ms > 0.8
    waited = found[-1].parts_ms["queue"] + found[-1].parts_ms["waiting for a core"]
    assert found[-1].waiting_share == pytest.approx(waited / found[-1].mean_ms)


def test_stages_are_those_of_computed_requests():
    found = summary.stages(rows(10_000))
    assert found["embedding"].p50 == found["embedding"].p95 == 5.0
    assert found["embedding"].p99 is None  # 3,000 were computed
    assert found["compute"].p95 == 6.5
    assert found["compute, CPU time"].p95 == pytest.approx(5.5)
    assert found["total"].p50 == pytest.approx(1.1, abs=0.01)
    assert set(summary.stages(rows().query("hot"))) == {"total"}


def test_a_server_without_a_ranker_has_no_such_stage():
    frame = rows(10_000).assign(rank_ms=np.float32("nan"), rank_cpu_ms=np.float32("nan"))
    found = summary.stages(frame)
    assert "ranking" not in found
    assert found["compute"].p95 == 5.5
    assert summary.parts(frame)["rank"].max() == 0


PHASES = [(100, 2), (400, 3), (100, 5)]


def overloaded(**columns):
    """A run of PHASES, half of it hot. The overload answers those and a fifth of the cold ones."""
    rng = np.random.default_rng(0)
    due = np.concatenate(
        [np.arange(200) / 100, 2 + np.arange(1200) / 400, 5 + np.arange(500) / 100]
    )
    hot = rng.random(len(due)) < 0.5
    good = (due < 2) | (due >= 5) | hot | (rng.random(len(due)) < 0.2)
    late = np.where((due >= 2) & (due < 6), 150.0, 5.0)
    intended = (due * 1e9).astype(np.int64)
    made = {
        "intended_ns": intended,
        "sent_ns": intended,
        "done_ns": intended + (np.where(good, late, 1.0) * MS).astype(np.int64),
        "status": np.where(good, 200, 503).astype(np.int16),
        "source": np.where(good, np.where(hot, "cache", "model"), ""),
        "hot": hot,
    }
    return pd.DataFrame(made | columns)


def test_an_overload_is_read_from_the_rows():
    highest = load_row(offered_per_s=200.0, goodput_per_s=200.0, hit_share=0.6)
    found = summary.overload(overloaded(), PHASES, INVALID, highest)
    assert found.cached_share == pytest.approx(200 / 120, rel=0.1)
    assert found.computed_share == pytest.approx(40 / 80, rel=0.3)
    assert (found.refused_hot, found.refused_cold) == (0, pytest.approx(0.8, abs=0.05))
    assert (found.lost_share, found.verdict) == (0, VALID)
    assert found.p99_ms is None  # there are 720 answers
    assert summary.overload(overloaded(), PHASES, VOID, highest).verdict == VOID


def test_hits_do_not_count_as_computed_goodput():
    """The earlier record called an overload good in which cold users starved."""
    frame = overloaded()
    starved = frame.assign(status=np.where(frame.hot, 200, 503))
    found = summary.overload(starved, PHASES, VALID, load_row(hit_share=0.5))
    assert found.cached_share > 1
    assert (found.computed_share, found.refused_cold) == (0, 1)


def test_failed_and_skipped_requests_of_the_overload_are_not_refused():
    frame = overloaded().astype({"status": int})
    during = np.flatnonzero(frame.intended_ns.between(2e9, 5e9))
    frame.loc[during[:6], "status"] = [500, 0, -1, 500, 0, -1]
    found = summary.overload(frame, PHASES, VALID, load_row())
    assert found.lost_share == pytest.approx(6 / len(during))


def test_p99_of_an_overload_is_of_its_own_answers():
    due_ns = np.repeat(overloaded().intended_ns.to_numpy(), 20)
    within = (due_ns >= 2e9) & (due_ns <= 5e9)
    frame = pd.DataFrame(
        {
            "intended_ns": due_ns,
            "done_ns": due_ns + np.where(within, 150 * MS, 900 * MS),
            "status": 200,
            "source": "model",
            "hot": False,
        }
    )
    found = summary.overload(frame, PHASES, VALID, load_row())
    assert found.p99_ms == pytest.approx(150.0)


def test_seconds_show_what_was_offered_answered_and_refused():
    found = summary.by_second(overloaded())
    assert found.offered.tolist() == [100] * 2 + [400] * 3 + [100] * 5
    answered = found.computed + found.cached
    assert (answered + found.refused).tolist() == found.offered.tolist()
    assert (found.computed[2:5] < 0.3 * found.cached[2:5]).all()
