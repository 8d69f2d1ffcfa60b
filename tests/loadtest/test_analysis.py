"""What raw rows are taken for: synthetic ones, of which the answer is known. 4 s."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from nanorecsys.loadtest import analysis
from nanorecsys.loadtest.figures import COLORS
from nanorecsys.loadtest.result import LoadRow, Predicted
from nanorecsys.loadtest.simulation import Costs, Machine, Service, simulate

MS = 1_000_000
NAN = float("nan")


def rows(n=1000, seed=0, **columns):
    """A run at 100 requests a second: 70 % hits of 1 ms, computed ones with a queue that grows along the run."""
    rng = np.random.default_rng(seed)
    intended = np.arange(n) * 10 * MS
    hot = rng.random(n) < 0.7
    queue = np.where(hot, NAN, rng.exponential(20.0, n))
    encode, retrieve, rank = (np.where(hot, NAN, x) for x in (5.0, 0.5, 1.0))
    total = np.where(hot, 0.6, np.nan_to_num(queue) + 5 + 0.5 + 1 + 0.4)
    sent = intended + int(0.2 * MS)
    made = {
        "intended_ns": intended,
        "sent_ns": sent,
        "done_ns": sent + ((total + 0.3) * MS).astype(np.int64),
        "user": np.arange(n, dtype=np.int32),
        "hot": hot,
        "status": np.full(n, 200, np.int16),
        "source": np.where(hot, "cache", "model"),
        "cache_ms": np.full(n, 0.02, np.float32),
        "queue_ms": queue.astype(np.float32),
        "encode_ms": encode.astype(np.float32),
        "retrieve_ms": retrieve.astype(np.float32),
        "rank_ms": rank.astype(np.float32),
        "encode_cpu_ms": np.float32(0.8) * encode.astype(np.float32),
        "retrieve_cpu_ms": retrieve.astype(np.float32),
        "rank_cpu_ms": rank.astype(np.float32),
        "total_ms": total.astype(np.float32),
        "worker": np.full(n, 7, np.int32),
        "retries": np.zeros(n, np.int8),
        "warm_up": intended < 50 * 10 * MS,
    }
    return pl.DataFrame(made | columns)


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


def test_parts_add_up_to_the_latency_without_the_warm_up():
    found = analysis.parts(rows())
    assert len(found) == 950
    assert found.select(analysis.PARTS).sum_horizontal().to_numpy() == pytest.approx(
        found["latency_ms"].to_numpy(), abs=1e-4
    )
    computed = found.filter(pl.col("source") == "model")
    assert computed["encode"].to_numpy() == pytest.approx(4.0)
    assert computed["waiting for a core"].to_numpy() == pytest.approx(1.0)
    assert computed["event loop"].to_numpy() == pytest.approx(0.4, abs=1e-3)
    assert set(COLORS) == set(analysis.PARTS)


def test_requests_without_an_answer_are_no_part_of_it():
    broken = rows()
    status = np.where(np.arange(1000) % 2 == 0, 503, 200).astype(np.int16)
    assert len(analysis.parts(broken.with_columns(status=pl.Series(status)))) == 475


def test_bands_cover_every_request_and_the_tail_is_the_queue():
    found = analysis.bands(rows())
    assert sum(b.requests for b in found) == 950
    assert [b.mean_ms for b in found] == sorted(b.mean_ms for b in found)
    for band in found:
        assert sum(band.parts_ms.values()) == pytest.approx(band.mean_ms, abs=1e-3)
    assert found[0].computed_share == 0
    assert found[-1].computed_share == 1
    assert found[-1].parts_ms["queue"] / found[-1].mean_ms > 0.8
    waiting = found[-1].parts_ms["queue"] + found[-1].parts_ms["waiting for a core"]
    assert found[-1].waiting_share == pytest.approx(waiting / found[-1].mean_ms)


def test_stages_are_those_of_computed_requests():
    found = analysis.stages(rows())
    assert found["embedding"].p50 == found["embedding"].p99 == 5.0
    assert found["compute"].p95 == 6.5
    assert found["compute, CPU time"].p95 == pytest.approx(5.5)
    assert found["total"].p50 == pytest.approx(1.1, abs=0.01)
    assert analysis.stages(rows().filter("hot")) == {}


def overloaded():
    """10 s: 100 a second, from 2 to 5 s 400 of which 120 a second are answered; 1 s later all keep the bound again."""
    rng = np.random.default_rng(0)
    due = np.concatenate(
        [np.arange(200) / 100, 2 + np.arange(1200) / 400, 5 + np.arange(500) / 100]
    )
    n = len(due)
    good = (due < 2) | (due >= 5) | (rng.random(n) < 0.3)
    late = np.where((due >= 2) & (due < 6), 150.0, 5.0)
    intended = (due * 1e9).astype(np.int64)
    return pl.DataFrame(
        {
            "intended_ns": intended,
            "sent_ns": intended,
            "done_ns": intended + (np.where(good, late, 1.0) * MS).astype(np.int64),
            "status": np.where(good, 200, 503).astype(np.int16),
            "source": np.where(good, "model", ""),
            "warm_up": np.zeros(n, bool),
        }
    )


def test_overload_is_read_from_the_rows():
    highest = load_row(offered_per_s=200.0, goodput_per_s=150.0)
    found = analysis.overload(
        overloaded(), [(100, 2), (400, 3), (100, 5)], load_row(), highest, bound_ms=100.0
    )
    assert found.times_highest == 2.0
    assert found.goodput_share == pytest.approx(120 / 150, rel=0.08)
    assert found.p99_ms == pytest.approx(150.0)
    assert found.refused_share == pytest.approx(0.7, abs=0.05)
    assert found.not_deliberate == 0
    assert found.recovery_s == 1.0


def test_other_server_errors_and_broken_connections_are_not_deliberate():
    status = pl.Series([500, 0, 503, *[200] * 1897], dtype=pl.Int16)
    found = analysis.overload(
        overloaded().with_columns(status=status),
        [(100, 2), (400, 3), (100, 5)],
        load_row(),
        load_row(),
        bound_ms=100.0,
    )
    assert found.not_deliberate == 2


def test_a_server_that_never_recovers_takes_until_the_end():
    late = overloaded().with_columns(done_ns=pl.col("intended_ns") + 500 * MS)
    assert analysis.recovery_s(late, int(5e9), 100.0) == 5.0
    assert analysis.recovery_s(late, int(5e9), 1000.0) == 0.0


def spent(encode_ms, server_ms, generator_ms, together=1):
    """Runs whose computed requests take 1.5 ms and that for encode of CPU time, and 2 ms more of time; so many after
    each other are a batch."""
    batch = (pl.col("hot").cum_count() // together).cast(pl.Float32)
    given = (
        rows()
        .filter(~pl.col("hot") | (together == 1))
        .with_columns(encode_cpu_ms=encode_ms + 1e-4 * batch)
    )
    given = given.with_columns(
        encode_ms=pl.when(~pl.col("hot")).then(pl.col("encode_cpu_ms") + 2.0).otherwise(NAN)
    )
    return analysis.Spent(
        given.with_columns(pl.when(~pl.col("hot")).then("encode_cpu_ms")), server_ms, generator_ms
    )


def test_service_times_are_those_of_busy_and_of_idle_cores():
    lengths = np.arange(1000) % 200 + 1
    measured = rows().filter(~pl.col("warm_up"))
    share = 1 - measured["hot"].mean()
    means = {
        of: spent(of, 0, 0).rows.filter(~pl.col("warm_up") & ~pl.col("hot"))["encode_cpu_ms"]
        for of in (3.0, 5.0)
    }
    busy, idle = (1.5 + means[of].mean() for of in (3.0, 5.0))
    found = analysis.service_times(
        spent(5.0, (1 - share) * (0.1 + 0.2) + share * (0.5 + 2 * 0.2 + idle), 0.4),
        spent(3.0, (1 - share) * 0.1 + share * (0.5 + busy), 0.15),
        0.1,
        lengths,
        [1.0, 0.9],
    )
    for costs, hot, cold, generator, encode, more in (
        (found.busy, 0.1, 0.5, 0.15, 3.0, 0.0),
        (found.idle, 0.3, 0.9, 0.4, 5.0, 2.0),
    ):
        assert (costs.hot_ms, costs.cold_ms) == (
            pytest.approx(hot, abs=1e-4),
            pytest.approx(cold, abs=1e-3),
        )
        assert costs.generator_ms == generator
        assert costs.compute_ms == pytest.approx(1.5 + more + means[encode].to_numpy(), abs=1e-5)
        assert (
            costs.lengths.tolist()
            == lengths[measured.filter(~pl.col("hot"))["user"].to_numpy()].tolist()
        )
    assert found.wire_ms == pytest.approx(1.1 - 0.3 - 0.4, abs=1e-3)


def test_a_micro_batch_is_counted_once_and_is_no_sample_of_a_request_alone():
    given = spent(3.0, 5.0, 0.1, together=2)
    loop, share = given.loop()
    assert share == 1.0
    assert 5.0 - loop == pytest.approx((1.5 + 3.0) / 2, abs=0.05)
    assert (
        len(analysis._alone(given.rows, np.ones(1000, int), "ms")[0]) <= 2
    )  # at the warm-up's end, and at the run's
    assert len(analysis._alone(spent(3.0, 5.0, 0.1).rows, np.ones(1000, int), "ms")[0]) > 200


def test_a_simulated_run_is_predicted_by_its_own_service_times():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 3000)

    def service(times):
        costs = Costs(lengths[:500], times * lengths[:500] * 0.05, 0.1, 0.3, 0.1)
        return Service(costs, costs)

    machine = Machine(threads=1)
    due = np.cumsum(rng.exponential(1e3 / 250, 3000))
    hot = rng.random(3000) < 0.5
    real = simulate(due, hot, lengths, service(1.0), machine, rng).latency_ms
    frame = pl.DataFrame(
        {
            "intended_ns": (due * MS).astype(np.int64),
            "user": np.arange(3000),
            "hot": hot,
            "warm_up": due < 500,
        }
    )
    foreseen = analysis.replayed(frame, lengths, service(1.0), machine, seed=3)
    assert foreseen.p99_ms == pytest.approx(np.nanpercentile(real[due >= 500], 99), rel=0.1)
    assert (
        analysis.replayed(frame, lengths, service(1.5), machine, seed=3).p99_ms
        > 1.3 * foreseen.p99_ms
    )


def test_a_rate_is_predicted_by_the_median_of_its_rounds_without_those_that_are_void():
    costs = Costs(np.full(5, 10), np.full(5, 6.0), 0.1, 0.3, 0.1)
    run = SimpleNamespace(frame=rows)
    measured = (10.0, 90.0, 12.0)
    sweep = [
        [(load_row(p99_ms=p99), run) for p99 in measured]
        + [(load_row(p99_ms=500.0, verdict="VOID"), run)],
        [(load_row(offered_per_s=200.0, verdict="VOID"), run)],
    ]
    (found,) = analysis.predictions(
        sweep, np.full(1000, 10), Service(costs, costs), Machine(), 1, 400.0
    )
    assert (found.offered_per_s, found.load) == (100.0, 0.25)
    assert (found.measured_p99_ms, found.measured_p99_low_ms, found.measured_p99_high_ms) == (
        12.0,
        10.0,
        90.0,
    )
    assert 6.0 < found.predicted_p95_ms <= found.predicted_p99_ms < 20.0


def predicted(load, p99, measured):
    values = {f"{of}_{p}_ms": 1.0 for of in ("predicted", "measured") for p in ("p50", "p95")}
    rounds = {f"measured_p99_{end}_ms": measured for end in ("low", "high")}
    return Predicted(
        offered_per_s=load,
        load=load,
        predicted_p99_ms=p99,
        measured_p99_ms=measured,
        **values | rounds,
    )


def test_the_error_is_the_largest_below_four_fifths():
    found = [predicted(0.4, 12.0, 10.0), predicted(0.7, 15.0, 20.0), predicted(1.2, 1.0, 100.0)]
    assert analysis.prediction_error(found) == pytest.approx(0.25)
    assert analysis.prediction_error(found[2:]) is None


def test_the_original_queue_grows_with_its_rate_and_hits_suffer_where_they_wait():
    found = analysis.original((40, 110), 6000, 0)
    passing, waiting = ([o for o in found if o.hits_wait == w] for w in (False, True))
    assert passing[1].p99_ms > 2 * passing[0].p99_ms
    assert waiting[1].p50_ms > 3 * passing[1].p50_ms
    assert passing[0].load < 0.35


def test_what_limits_is_told_in_shares_of_the_cores():
    told = analysis.limited_by(load_row(offered_per_s=500.0), "at 600/s: P99 is 120 ms", cores=2)
    assert "75% of the 2 cores" in told
    assert "67% of that" in told
    assert "at 600/s" in told
