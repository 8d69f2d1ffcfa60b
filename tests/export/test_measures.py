"""What the export chapter measures and how it chooses."""

import json

import msgspec
import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import DEFAULT_DATASET, SECOND_DATASET, Histories, Interactions, leave_one_out
from nanorecsys.evaluation import Change, DotProduct, make_task
from nanorecsys.export import arithmetic, latency, parity
from nanorecsys.export.chapter import FINDINGS
from nanorecsys.export.errors import ExportError
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.result import ExportResult, Parity, VariantResult
from nanorecsys.export.variants import (
    EXPORTED,
    FUSED,
    INT8_PADDED,
    INT8_STATIC,
    TORCH,
    TORCH_PADDED,
    Variant,
)
from nanorecsys.models.inference import TorchEncoder
from nanorecsys.serving.encoder import Encoder
from nanorecsys.study.spread import Interval, Spread
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
    trained = parity.rank(TorchEncoder(encoder), task, items, 10, 100)
    vectors, ranked = trained
    unchanged = parity.ndcg_change(ranked, ranked)
    same = parity.compare(trained, trained, 0.0, unchanged)
    assert (same.max_difference, same.overlap) == (0, 1)
    assert (same.ndcg.change, same.validation_ndcg.change) == (0, 0)
    assert same.cosine_lowest == pytest.approx(1)
    rng = np.random.default_rng(1)
    noisy = vectors + rng.normal(size=vectors.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    noisy_ranks = task.rank(DotProduct(noisy, items))
    other = parity.compare((noisy, noisy_ranks), trained, 0.0, unchanged)
    assert other.cosine_lowest < 0.9
    assert other.ndcg.low <= other.ndcg.change <= other.ndcg.high
    assert other.ndcg.base == pytest.approx(same.ndcg.base)


def test_the_batch_effect_is_what_a_batch_changes(encoder, task):
    def with_effect(items, lengths):
        return TorchEncoder(encoder)(items, lengths) + 0.01 * len(items)

    assert parity.batch_effect(TorchEncoder(encoder), task, 10) < 1e-6
    effect = parity.batch_effect(with_effect, task, 10)  # of 30 users in one batch
    assert effect == pytest.approx(0.29, abs=1e-6)


def test_users_without_a_target_have_no_vector(encoder, task):
    vectors, _ = parity.rank(TorchEncoder(encoder), task, encoder.table[1:].numpy(), 10, 100)
    has_target = task.targets.lengths > 0
    assert np.all(np.linalg.norm(vectors, axis=1).round(4) == has_target)


class Recorder:
    """A variant that records its calls, and the order of all of them."""

    def __init__(self, name, order=None):
        self.calls, self.order = [], [] if order is None else order
        self.variant = Variant(name, None, {1: self, 2: self})

    def __call__(self, items, lengths):
        self.calls.append(items.shape)
        self.order.append(self.variant.name)
        return np.zeros((len(items), 4), np.float32)


def test_the_grid_measures_every_cell_in_turn_and_padded_ones_once():
    free, padded = Recorder("free"), Recorder(TORCH_PADDED)
    rows = latency.grid([free.variant, padded.variant], 9, 20, [1, 3], [5, 20, 90], [1, 2])
    cells = rows.groupby(["variant", "threads", "batch", "length"]).size()
    assert set(cells.index) == {
        *(("free", n, b, length) for n in (1, 2) for b in (1, 3) for length in (5, 20)),
        *((TORCH_PADDED, n, b, 20) for n in (1, 2) for b in (1, 3)),
    }
    assert (cells == latency.REPEATS).all()


def test_the_grid_keeps_no_memory_of_its_largest_calls(monkeypatch):
    """Every variant has its own sessions, and each would keep its activations."""
    monkeypatch.setattr(latency, "REPEATS", 1)
    window, batch, many = 200, 64, 4
    model = fused_tower(small_encoder(d=64, hidden=256, window=window)).SerializeToString()
    encoders = [Encoder(model) for _ in range(many)]
    built = [Variant(str(n), None, {1: e}) for n, e in enumerate(encoders)]
    before = resident_bytes()
    encoders[0](np.ones((batch, window), np.int64), np.full(batch, window))
    kept = resident_bytes() - before
    encoders[0].release()
    assert kept > 2**24
    latency.grid(built, N_ITEMS, window, [batch], [window], [1])
    assert resident_bytes() - before < 0.5 * many * kept


def test_an_export_that_differs_from_pytorch_stops_the_chapter(encoder, task):
    def off(items, lengths):
        return TorchEncoder(encoder)(items, lengths) + np.float32(2 * parity.EXACT)

    trained = TorchEncoder(encoder)
    exported = Encoder(fused_tower(encoder).SerializeToString())
    assert parity.check_exact(exported, trained, task, 10) <= parity.EXACT
    with pytest.raises(ExportError, match="differs from PyTorch"):
        parity.check_exact(off, trained, task, 10)


def test_real_histories_are_spread_over_the_lengths_and_read_as_far_as_asked():
    lengths = np.array([0, 1, 2, 3, 4, 50])
    csr = Histories(
        np.concatenate([[0], np.cumsum(lengths)]), np.arange(lengths.sum(), dtype=np.int32)
    )
    one, padded = Recorder("one"), Recorder(TORCH_PADDED)
    rows = latency.real_histories([one.variant, padded.variant], csr, [3, 20], users=5, rounds=2)
    read = rows.groupby("reads")["length"].unique().map(sorted).to_dict()
    assert read == {3: [1, 2, 3], 20: [1, 2, 3, 4, 20]}
    assert len(rows) == 2 * 2 * 2 * 5
    assert {shape[1] for shape in padded.calls} == {3, 20}
    assert {shape[1] for shape in one.calls} == {1, 2, 3, 4, 20}
    assert len(one.calls) == 2 * 3 * 5  # one round warms up


def test_variants_take_turns_in_another_order_each_round():
    csr = Histories(np.arange(5), np.arange(4, dtype=np.int32))
    order = []
    names = [Recorder(name, order).variant for name in "abcd"]
    latency.real_histories(names, csr, [9], users=4, rounds=3)
    turns = np.array(order).reshape(4, 4, 4)  # rounds, turns, users
    assert (turns == turns[:, :, :1]).all()
    rounds = ["".join(of[:, 0]) for of in turns]
    assert {"".join(sorted(of)) for of in rounds} == {"abcd"}
    assert len(set(rounds)) > 1


def test_the_ratio_of_latencies_is_taken_within_each_round():
    rows = pd.DataFrame(
        {
            "variant": ["a"] * 6 + ["b"] * 6,
            "reads": 16,
            "round": [1, 1, 2, 2, 3, 3] * 2,
            "ms": [1.0, 3.0, 4.0, 6.0, 9.0, 9.0, 4.0, 4.0, 15.0, 15.0, 9.0, 9.0],
        }
    )
    rows = pd.concat([rows, rows.assign(reads=200, ms=1.0)])
    means = latency.mean_latency(rows)
    assert means["a", 16] == Spread(middle=5.0, low=2.0, high=9.0)
    assert means["a", 200] == Spread(middle=1.0, low=1.0, high=1.0)
    found = latency.times_as_fast(rows, "a", "b", 16)
    assert found == Spread(middle=2.0, low=1.0, high=3.0)


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
        found = arithmetic.operator_times(path, N_ITEMS, length, calls=2)
        assert found.macs == macs, name
        assert found.ms
        assert list(found.ms.values()) == sorted(found.ms.values(), reverse=True)
        assert not list(path.parent.glob("*.json"))


def test_peaks_are_billions_per_second():
    found = arithmetic.peaks(repeats=5)
    assert min(found.values()) > 1
    assert found["int8"] > 0.5 * found["fp32"]


def variant(mean, low=0.0, high=0.0, *, load=1.0, nodes=0, batch_effect=0.0):
    """A variant with this mean latency, and this interval of its change on validation."""
    ndcg = Change(base=0.1, change=(low + high) / 2, low=low, high=high)
    spread = Spread(middle=mean, low=mean, high=mean)
    return VariantResult(
        mib=1.0,
        load_ms=load,
        compile_s=0.0,
        quantized_nodes=nodes,
        parity=Parity(
            max_difference=1e-6,
            cosine_lowest=1.0,
            overlap=0.99,
            ndcg=Change(base=0.1, change=-0.1, low=-0.1, high=-0.1),
            validation_ndcg=ndcg,
            batch_effect=batch_effect,
        ),
        served_ms=spread,
        window_ms=Spread(middle=1 / mean, low=1 / mean, high=1 / mean),
        macs=None,
        share_of_peak=None,
    )


def test_the_fastest_that_keeps_its_quality_on_validation_is_chosen():
    found = {
        "in PyTorch": variant(0.5, load=None),  # cannot be served
        "fp32": variant(3.0),
        "best": variant(1.0, low=-0.0009, high=0.001),
        "loses": variant(0.9, low=-0.0011, high=0.001),  # may lose more than 1 %
        "batched": variant(0.8, batch_effect=0.002),  # depends on the batch
    }
    assert parity.choose(found) == "best"
    with pytest.raises(ExportError, match="no exported variant keeps"):
        parity.choose({"a": variant(1.0, low=-0.1)})


def result(**changes):
    values = {
        "dataset": DEFAULT_DATASET,
        "is_study_shape": True,
        "layers": 2,
        "window": 200,
        "events_read": 16,
        "users": 10,
        "mean_length": 90.0,
        "variants": {TORCH: variant(20.0, load=None), INT8_STATIC: variant(2.0, nodes=28)},
        "missing": {},
        "chosen": INT8_STATIC,
        "chosen_is_int8": True,
        "best_torch": TORCH,
        "times_torch": Spread(middle=2.5, low=2.1, high=3.0),
        "int8_change": {
            DEFAULT_DATASET: Change(base=0.1, change=-0.001, low=-0.0015, high=0.001),
            SECOND_DATASET: Change(base=0.2, change=-0.002, low=-0.006, high=0.0),
        },
        "peak_gmacs": {"fp32": 70.0, "int8": 280.0},
        "profile_ms": {},
    }
    return ExportResult(**(values | changes))


def test_the_findings_are_read_with_their_intervals():
    assert FINDINGS["speed"](result()) == {DEFAULT_DATASET: Interval(2.5, 2.1, 3.0)}
    int8 = FINDINGS["int8"](result())
    assert list(int8) == [DEFAULT_DATASET, SECOND_DATASET]
    assert msgspec.structs.astuple(int8[SECOND_DATASET]) == pytest.approx((-0.01, -0.03, 0.0))


def test_a_run_of_another_size_or_on_one_data_set_has_no_finding():
    for other in (result(is_study_shape=False), result(dataset="ml-20m")):
        assert FINDINGS["speed"](other) is None
        assert FINDINGS["int8"](other) is None
    first = dict(list(result().int8_change.items())[:1])
    assert FINDINGS["int8"](result(int8_change=first)) is None


def test_the_record_survives_json():
    encoded = json.dumps(msgspec.to_builtins(result()))
    assert msgspec.json.decode(encoded, type=ExportResult) == result()
