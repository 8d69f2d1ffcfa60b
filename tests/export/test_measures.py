"""What the export chapter measures and how it chooses."""

import json

import msgspec
import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import Histories, Interactions, leave_one_out
from nanorecsys.evaluation import Change, make_task
from nanorecsys.export import arithmetic, latency, parity
from nanorecsys.export.chapter import CLAIMS
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.result import ExportResult, Parity, RankerTime, VariantResult
from nanorecsys.export.variants import (
    EXPORTED,
    FUSED,
    INT8_PADDED,
    INT8_STATIC,
    TORCH_PADDED,
    Variant,
    in_torch,
)
from nanorecsys.serving.encoder import Encoder
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


def test_the_trained_model_is_equal_to_itself_and_noise_is_not(encoder, task):
    items = encoder.table[1:].numpy()
    vectors = parity.encode_task(in_torch(encoder), task, 10, 100)
    ranked = parity.rank(vectors, items, task)
    same = parity.compare(vectors, ranked, vectors, ranked, 0.0)
    assert (same.max_difference, same.overlap) == (0, 1)
    assert (same.ndcg.change, same.hitrate.change) == (0, 0)
    assert same.cosine_lowest == pytest.approx(1)
    rng = np.random.default_rng(1)
    noisy = vectors + rng.normal(size=vectors.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    other = parity.compare(noisy, parity.rank(noisy, items, task), vectors, ranked, 0.0)
    assert other.cosine_median < 0.9
    assert other.ndcg.low <= other.ndcg.change <= other.ndcg.high
    assert other.ndcg.base == pytest.approx(same.ndcg.base)
    frame = parity.rank_frame({"a": ranked, "b": ranked})
    assert list(frame) == ["variant", "user", "item", "rank"]
    assert frame["variant"].value_counts().to_dict() == dict.fromkeys("ab", len(ranked.rank))


def test_the_batch_effect_is_what_a_batch_changes(encoder, task):
    def with_effect(items, lengths):
        return in_torch(encoder)(items, lengths) + 0.01 * len(items)

    assert parity.batch_effect(in_torch(encoder), task, 10) < 1e-6
    effect = parity.batch_effect(with_effect, task, 10, users=7)
    assert effect == pytest.approx(0.06, abs=1e-6)


def test_users_without_a_target_have_no_vector(encoder, task):
    vectors = parity.encode_task(in_torch(encoder), task, 10, 100)
    has_target = task.targets.lengths > 0
    assert np.all(np.linalg.norm(vectors, axis=1).round(4) == has_target)


class Recorder:
    """A variant that records its calls."""

    def __init__(self, name, padded=False):
        self.calls = []
        self.variant = Variant(name, None, {1: self, 2: self}, padded, 0, 0.0, None)

    def __call__(self, items, lengths):
        self.calls.append(items.shape)
        return np.zeros((len(items), 4), np.float32)


def test_the_grid_measures_every_cell_in_turn_and_padded_ones_once():
    free, padded = Recorder("free"), Recorder("padded", padded=True)
    rows = latency.grid([free.variant, padded.variant], 9, 20, [1, 3], [5, 20, 90], [1, 2])
    cells = rows.groupby(["variant", "threads", "batch", "length"]).size()
    assert set(cells.index) == {
        *(("free", n, b, length) for n in (1, 2) for b in (1, 3) for length in (5, 20)),
        *(("padded", n, b, 20) for n in (1, 2) for b in (1, 3)),
    }
    assert cells.between(latency.FEWEST_REPEATS, latency.MOST_REPEATS).all()


def test_the_grid_keeps_no_memory_of_its_largest_calls():
    """Every variant has its own sessions, and each would keep its activations."""
    window, batch, many = 200, 64, 4
    model = fused_tower(small_encoder(d=64, hidden=256, window=window)).SerializeToString()
    encoders = [Encoder(model) for _ in range(many)]
    built = [
        Variant(str(n), None, {1: e}, False, 0, 0.0, None, (e,)) for n, e in enumerate(encoders)
    ]
    before = resident_bytes()
    encoders[0](np.ones((batch, window), np.int64), np.full(batch, window))
    kept = resident_bytes() - before
    encoders[0].release()
    assert kept > 2**24
    latency.grid(built, N_ITEMS, window, [batch], [window], [1])
    assert resident_bytes() - before < 0.5 * many * kept


def test_real_histories_are_spread_over_the_lengths_and_weighted():
    lengths = np.array([0, 1, 2, 3, 4, 50])
    csr = Histories(
        np.concatenate([[0], np.cumsum(lengths)]), np.arange(lengths.sum(), dtype=np.int32)
    )
    one, other = Recorder("one"), Recorder("other")
    rows = latency.real_histories([one.variant, other.variant], csr, 20, users=5, repeats=2)
    assert sorted(set(rows["length"])) == [1, 2, 3, 4, 20]
    assert len(rows) == 2 * 2 * 5
    assert len(one.calls) == 3 * 5  # one repeat warms up


def test_the_mean_latency_is_the_median_over_repeats():
    rows = pd.DataFrame(
        {
            "variant": ["a"] * 6 + ["b"] * 2,
            "repeat": [1, 1, 2, 2, 3, 3, 1, 1],
            "ms": [1.0, 3.0, 4.0, 6.0, 9.0, 9.0, 7.0, 8.0],
        }
    )
    means = latency.mean_latency(rows)
    assert means.loc["a"].to_dict() == {"median": 5.0, "min": 2.0, "max": 9.0}
    assert means.loc["b"].to_dict() == {"median": 7.5, "min": 7.5, "max": 7.5}


def test_arithmetic_is_counted_from_what_ran(encoder, built):
    config, length = encoder.tower.config, 9
    d, h = config.d, config.hidden
    whole = length * (4 * d * d + 3 * d * h) + 2 * length * length * d
    last = length * 2 * d * d + 2 * d * d + 3 * d * h + 2 * length * d
    expected = {
        FUSED: (config.layers - 1) * whole + last - 3 * length * d * d,
        EXPORTED: (config.layers - 1) * whole + last,
        INT8_PADDED: config.layers * whole,
    }
    for name, macs in expected.items():
        path = built[name].path
        found = arithmetic.operator_times(path, N_ITEMS, length, length, calls=2)
        assert found.macs == macs, name
        assert found.ms
        assert list(found.ms.values()) == sorted(found.ms.values(), reverse=True)
        assert not list(path.parent.glob("*.json"))


def test_peaks_are_billions_per_second():
    found = arithmetic.peaks(repeats=5)
    assert min(found.values()) > 1
    assert found["int8"] > 0.5 * found["fp32"]


def variant(mean, low=0.0, high=0.0, *, load=1.0, nodes=0, difference=1e-6, batch_effect=0.0):
    ndcg = Change(base=0.1, change=(low + high) / 2, low=low, high=high)
    return VariantResult(
        mib=1.0,
        load_ms=load,
        quantized_nodes=nodes,
        parity=Parity(
            max_difference=difference,
            cosine_median=1.0,
            cosine_lowest=1.0,
            overlap=0.99,
            hitrate=ndcg,
            ndcg=ndcg,
            batch_effect=batch_effect,
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
        "in PyTorch": variant(0.5, load=None),  # cannot be served
        "fp32": variant(3.0),
        "best": variant(1.0, low=-0.0009, high=0.001),
        "loses": variant(0.9, low=-0.0011, high=0.001),  # may lose more than 1 %
        "batched": variant(0.8, batch_effect=0.002),  # depends on the batch
    }
    assert parity.choose(found) == "best"
    with pytest.raises(NanorecsysError, match="no exported variant keeps"):
        parity.choose({"a": variant(1.0, low=-0.1)})


def result(**changes):
    values = {
        "dataset": "d",
        "is_study_shape": True,
        "window": 200,
        "users": 10,
        "mean_length": 90.0,
        "variants": {
            TORCH_PADDED: variant(20.0, load=None),
            EXPORTED: variant(6.0),
            FUSED: variant(5.0),
            INT8_STATIC: variant(2.0, nodes=28, difference=0.1),
        },
        "chosen": INT8_STATIC,
        "chosen_is_int8": True,
        "peak_gmacs": {"fp32": 70.0, "int8": 280.0},
        "profile_ms": {},
        "candidates": 100,
        "rankers": {"items inside": RankerTime(mib=1, ms=0.1, lowest_ms=0.1, highest_ms=0.1)},
        "ranker_difference": 1e-6,
    }
    return ExportResult(**(values | changes))


def test_the_claims_follow_the_numbers():
    good = {c.id: c for c in judge("03_export", CLAIMS, result())}
    assert {c.verdict for c in good.values()} == {"holds"}
    assert good["export.torch_padded"].value == 10
    assert good["export.parity"].value == 1e-6  # only fp32 variants count
    slow = {INT8_STATIC: variant(18.0, nodes=28), FUSED: variant(5.0, difference=1e-3)}
    slow = result().variants | slow
    bad = {c.id: c.verdict for c in judge("03_export", CLAIMS, result(variants=slow))}
    assert set(bad.values()) == {"fails"}
    other_shape = {c.id: c for c in judge("03_export", CLAIMS, result(is_study_shape=False))}
    assert other_shape["export.torch_padded"].verdict == "not_run"


def test_the_record_survives_json():
    encoded = json.dumps(msgspec.to_builtins(result()))
    assert msgspec.json.decode(encoded, type=ExportResult) == result()
