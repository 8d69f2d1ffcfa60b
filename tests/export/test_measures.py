"""What the export chapter measures: closeness, latency, arithmetic, and what it concludes from them."""

import json

import msgspec
import numpy as np
import onnx
import pytest

from nanorecsys.data import Histories, Interactions, leave_one_out
from nanorecsys.evaluation import Change, make_task
from nanorecsys.export import analysis, arithmetic, closeness, figures, latency, variants
from nanorecsys.export.chapter import CLAIMS, headline
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.names import (
    EXPORTED,
    FUSED,
    INT8_CHANNEL,
    INT8_PADDED,
    INT8_TENSOR,
    INT8_WEIGHTS,
    ORIGINAL_RANKER,
    RANKER,
    TORCH_PADDED,
)
from nanorecsys.export.result import Append, Closeness, ExportResult, RankerTime, VariantResult
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.export.variants import Variant, in_torch
from nanorecsys.models.retriever import EveryPosition
from nanorecsys.study.claims import judge
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.memory import resident_bytes
from tests.export.conftest import N_ITEMS, small_encoder


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    rows = [(u, i, t) for u in range(30) for t, i in enumerate(rng.choice(40, 9, replace=False))]
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    events = Interactions(
        user.astype(np.int32), item.astype(np.int32), np.ones(len(user), np.float32), time
    )
    return make_task(events, leave_one_out(events), "test")


def test_the_trained_model_is_close_to_itself_and_noise_is_not(encoder, task):
    items = encoder.table[1:].numpy()
    vectors = closeness.encode_asked(in_torch(encoder), task, 10, 100)
    ranked = closeness.rank(vectors, items, task)
    same = closeness.closeness(vectors, ranked, vectors, ranked)
    assert (same.max_difference, same.overlap, same.ndcg.change, same.hitrate.change) == (
        0,
        1,
        0,
        0,
    )
    assert same.cosine_lowest == pytest.approx(1)
    rng = np.random.default_rng(1)
    noisy = vectors + rng.normal(size=vectors.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    other = closeness.closeness(noisy, closeness.rank(noisy, items, task), vectors, ranked)
    assert other.cosine_median < 0.9
    assert other.ndcg.low <= other.ndcg.change <= other.ndcg.high
    assert other.ndcg.base == pytest.approx(same.ndcg.base)
    frame = closeness.rank_frame({"a": ranked, "b": ranked})
    assert frame.columns == ["variant", "user", "item", "rank"]
    assert len(frame) == 2 * len(ranked.rank)


def test_company_is_what_a_batch_changes(encoder, task):
    def counting(items, lengths):
        return in_torch(encoder)(items, lengths) + 0.01 * len(items)

    assert closeness.company(in_torch(encoder), task, 10) < 1e-6
    assert closeness.company(counting, task, 10, users=7) == pytest.approx(0.06, abs=1e-6)


def test_users_that_are_not_asked_for_have_no_vector(encoder, task):
    vectors = closeness.encode_asked(in_torch(encoder), task, 10, 100)
    asked = task.targets.lengths > 0
    assert np.all(np.linalg.norm(vectors, axis=1).round(4) == asked)


class Clock:
    """A variant that counts its calls."""

    def __init__(self, name, padded=False):
        self.calls = []
        self.variant = Variant(name, None, {1: self, 2: self}, padded, 0, 0.0, None)

    def __call__(self, items, lengths):
        self.calls.append(items.shape)
        return np.zeros((len(items), 4), np.float32)


def test_the_grid_measures_every_cell_in_turn_and_padded_ones_once():
    free, padded = Clock("free"), Clock("padded", padded=True)
    rows = latency.grid([free.variant, padded.variant], 9, 20, [1, 3], [5, 20, 90], [1, 2])
    cells = set(rows.select("variant", "threads", "batch", "length").iter_rows())
    assert cells == {
        *(("free", n, b, length) for n in (1, 2) for b in (1, 3) for length in (5, 20)),
        *(("padded", n, b, 20) for n in (1, 2) for b in (1, 3)),
    }
    repeats = rows.group_by("variant", "threads", "batch", "length").len()["len"]
    assert repeats.min() >= latency.FEWEST
    assert repeats.max() <= latency.MOST
    assert rows["ms"].min() > 0
    assert (
        latency.cell(rows, "free", 5)
        == rows.filter(variant="free", length=5, batch=1, threads=1)["ms"].median()
    )
    assert latency.cell(rows, "padded", 5) is None
    table = figures.grid_rows(rows, ["free", "padded"])
    assert len(table) == 8
    assert table[0][:3] == (1, 1, 5)
    assert table[0][4] is None


def test_the_grid_keeps_no_memory_of_its_largest_calls(tmp_path):
    """Every variant has its own sessions, and each would keep its activations: the memory of all, added up."""
    window, batch = 200, 64
    encoder = small_encoder(d=64, hidden=256, window=window)
    names = [FUSED, INT8_TENSOR, INT8_CHANNEL, INT8_WEIGHTS]
    built = variants.build(
        encoder, Histories(np.array([0, 1]), np.zeros(1, np.int32)), tmp_path, names
    )
    before = resident_bytes()
    built[0].encode[1](np.ones((batch, window), np.int64), np.full(batch, window))
    kept = resident_bytes() - before
    built[0].release()
    assert kept > 2**24
    latency.grid(built, N_ITEMS, window, [batch], [window], [1])
    assert resident_bytes() - before < 0.5 * len(names) * kept


def test_real_histories_are_spread_over_the_lengths_and_weighted():
    lengths = np.array([0, 1, 2, 3, 4, 50])
    csr = Histories(
        np.concatenate([[0], np.cumsum(lengths)]), np.arange(lengths.sum(), dtype=np.int32)
    )
    one, other = Clock("one"), Clock("other")
    rows = latency.real_histories([one.variant, other.variant], csr, 20, users=5, repeats=2)
    assert sorted(set(rows["length"])) == [1, 2, 3, 4, 20]
    assert len(rows) == 2 * 2 * 5
    assert len(one.calls) == 3 * 5  # one repeat warms up
    means = latency.weighted(rows)
    per_repeat = [rows.filter(variant="one", repeat=r)["ms"].mean() for r in (1, 2)]
    row = means.filter(variant="one").row(0, named=True)
    assert row["mean"] == pytest.approx(np.median(per_repeat))
    assert (row["lowest"], row["highest"]) == pytest.approx((min(per_repeat), max(per_repeat)))


def test_arithmetic_is_counted_from_what_ran(encoder, tmp_path):
    config, length = encoder.tower.config, 9
    d, h = config.d, config.hidden
    whole = length * (4 * d * d + 3 * d * h) + 2 * length * length * d
    last = length * 2 * d * d + 2 * d * d + 3 * d * h + 2 * length * d
    onnx.save(fused_tower(encoder), tmp_path / "fused.onnx")
    export_encoder(encoder, 10, tmp_path / "exported.onnx")
    export_encoder(EveryPosition(encoder), 10, tmp_path / "every.onnx", 18)
    expected = {
        "fused": (config.layers - 1) * whole + last - 3 * length * d * d,
        "exported": (config.layers - 1) * whole + last,
        "every": config.layers * whole,
    }
    for name, macs in expected.items():
        found = arithmetic.profile(tmp_path / f"{name}.onnx", 40, length, length, calls=2)
        assert found.macs == macs, name
        assert found.ms
        assert list(found.ms.values()) == sorted(found.ms.values(), reverse=True)
    assert not list(tmp_path.glob("*.json"))


def test_peaks_are_rates():
    found = arithmetic.peaks(repeats=2)
    assert set(found) == {"fp32", "int8"}
    assert min(found.values()) > 0


def variant(
    mean, low=0.0, high=0.0, *, change=0.0, load=1.0, nodes=0, difference=1e-6, company=0.0
):
    ndcg = Change(base=0.1, change=change, low=low, high=high)
    return VariantResult(
        mib=1.0,
        load_ms=load,
        quantized_nodes=nodes,
        closeness=Closeness(
            max_difference=difference,
            cosine_median=1.0,
            cosine_lowest=1.0,
            overlap=0.99,
            hitrate=ndcg,
            ndcg=ndcg,
            company=company,
        ),
        mean_ms=mean,
        mean_lowest_ms=mean,
        mean_highest_ms=mean,
        at_window_ms=2 * mean,
        macs_at_window=None,
        share_of_peak=None,
    )


def test_the_fastest_that_keeps_its_quality_is_chosen():
    found = {
        TORCH_PADDED: variant(0.5, load=None),  # cannot be served
        FUSED: variant(3.0),
        INT8_CHANNEL: variant(1.0, low=-0.0009, high=0.001),
        "int8 static": variant(0.9, low=-0.0011, high=0.001),  # may lose more than 1 %
        INT8_TENSOR: variant(0.8, company=0.002),  # answers differently in other company
    }
    assert analysis.choose(found) == INT8_CHANNEL
    with pytest.raises(NanorecsysError, match="no exported variant keeps"):
        analysis.choose({"a": variant(1.0, low=-0.1)})


def result(**changes):
    values = {
        "dataset": "d",
        "is_study_shape": True,
        "window": 200,
        "users": 10,
        "mean_length": 90.0,
        "variants": {
            TORCH_PADDED: variant(20.0, load=None),
            INT8_PADDED: variant(10.0, nodes=28, difference=0.1),
            EXPORTED: variant(6.0),
            FUSED: variant(5.0),
            INT8_CHANNEL: variant(2.0, nodes=28, difference=0.1),
        },
        "chosen": INT8_CHANNEL,
        "chosen_is_int8": True,
        "peak_gmacs": {"fp32": 70.0, "int8": 280.0},
        "profile_ms": {},
        "candidates": 100,
        "rankers": {
            n: RankerTime(mib=1, ms=ms, lowest_ms=ms, highest_ms=ms)
            for n, ms in ((RANKER, 0.1), (ORIGINAL_RANKER, 0.8))
        },
        "ranker_difference": 1e-6,
        "append": [Append(length=20, step_ms=0.3, full_ms=1.0, state_kib=20.0)],
        "append_drift": {"1": 0.999},
        "append_pays": True,
        "seconds": 100.0,
        "seconds_limit": 120.0,
    }
    return ExportResult(**(values | changes))


def test_the_claims_follow_the_numbers():
    good = {c.id: c for c in judge("03_export", CLAIMS, result())}
    assert {c.verdict for c in good.values()} == {"holds"}
    assert good["export.torch_padded"].value == 10
    assert good["export.int8_padded"].value == 5
    assert good["export.parity"].value == 1e-6  # of the fp32 ones alone
    dynamic = result().variants | {INT8_CHANNEL: variant(2.0, nodes=28, company=0.002)}
    assert {c.id: c for c in judge("03_export", CLAIMS, result(variants=dynamic))}[
        "export.company"
    ].verdict == "fails"
    slow = result().variants | {INT8_CHANNEL: variant(18.0, nodes=28)}
    bad = {c.id: c for c in judge("03_export", CLAIMS, result(variants=slow))}
    assert bad["export.torch_padded"].verdict == bad["export.int8_padded"].verdict == "fails"
    assert bad["export.at_window"].verdict == "fails"
    other_shape = {c.verdict for c in judge("03_export", CLAIMS, result(is_study_shape=False))}
    assert "not_run" in other_shape
    assert headline(result())[0][1] == "2.0 ms"


def test_sentences_follow_the_numbers():
    assert "not measurably different from" in analysis.story(result())["answer"]
    worse = result().variants | {INT8_CHANNEL: variant(2.0, -0.02, -0.01, change=-0.015, nodes=28)}
    told = analysis.story(result(variants=worse))
    assert "worse than" in told["answer"]
    assert "leaves out int8 by channel" in told["rule_sentence"]
    assert "at the same time" not in told["rule_sentence"]
    dynamic = result().variants | {INT8_TENSOR: variant(1.0, nodes=28, company=0.002)}
    assert (
        "leaves out int8 by tensor: " in analysis.story(result(variants=dynamic))["rule_sentence"]
    )
    assert "is shipped" in analysis.story(result())["append_sentence"]
    assert "not shipped" in analysis.story(result(append_pays=False))["append_sentence"]
    assert "slid" not in analysis.story(result(append_drift={}))["append_sentence"]


def test_states_pay_only_within_all_three_rules():
    cheap = Append(length=20, step_ms=0.4, full_ms=1.0, state_kib=20.0)
    assert analysis.append_pays([cheap], {"1": 0.999})
    assert not analysis.append_pays([cheap], {"1": 0.999, "200": 0.9})
    assert not analysis.append_pays([cheap, msgspec.structs.replace(cheap, step_ms=0.6)], {})
    assert not analysis.append_pays([msgspec.structs.replace(cheap, state_kib=600.0)], {})


def test_the_record_survives_json():
    assert (
        msgspec.json.decode(json.dumps(msgspec.to_builtins(result())), type=ExportResult)
        == result()
    )
