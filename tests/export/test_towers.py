"""Every way to run the tower gives the vectors that PyTorch gives."""

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.export import quantize, variants
from nanorecsys.export.graph import Graph, feed_forward, fused_tower
from nanorecsys.export.variants import (
    EXPORTED,
    FUSED,
    IN_PYTORCH,
    INT8_ROWS,
    INT8_STATIC,
    TORCH_COMPILED,
)
from nanorecsys.models.retriever import EveryPosition
from nanorecsys.serving.encoder import Encoder, encode_users, session
from nanorecsys.serving.errors import ServingError
from tests.export.conftest import CALIBRATION, N_ITEMS, histories, small_encoder

TORCH = small_encoder()
ONNX = Encoder(fused_tower(TORCH).SerializeToString())


def in_torch(encoder, items, lengths):
    with torch.inference_mode():
        return encoder(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()


@given(rows=st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=25), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_the_fused_graph_equals_torch_on_any_histories(rows):
    """Empty, one item, repeats, longer than the window, and in any batch."""
    csr = histories(*rows)
    together = encode_users(ONNX, csr, 10)
    alone = encode_users(ONNX, csr, 10, batch_tokens=1)
    expected = encode_users(lambda items, lengths: in_torch(TORCH, items, lengths), csr, 10)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_few_layers(layers, batch):
    model = small_encoder(layers=layers)
    found = Encoder(fused_tower(model).SerializeToString())(*batch)
    np.testing.assert_allclose(found, in_torch(model, *batch), atol=1e-5)


def test_more_events_than_the_window_are_not_read(encoder):
    run = Encoder(fused_tower(encoder).SerializeToString())
    long = histories(list(range(30)))
    short = histories(list(range(20, 30)))
    np.testing.assert_array_equal(encode_users(run, long, 10), encode_users(run, short, 10))


def test_the_padding_is_not_read(encoder, batch):
    items, lengths = batch
    run = Encoder(fused_tower(encoder).SerializeToString())
    filled = np.where(np.arange(10) < lengths[:, None], items, 9)
    np.testing.assert_array_equal(run(items, lengths), run(filled, lengths))


def test_the_same_input_gives_the_same_bytes(encoder, batch):
    run = Encoder(fused_tower(encoder).SerializeToString())
    assert run(*batch).tobytes() == run(*batch).tobytes()


def test_every_position_is_the_encoder_at_the_end(encoder, batch):
    with torch.inference_mode():
        found = EveryPosition(encoder)(*map(torch.from_numpy, batch)).numpy()
    np.testing.assert_allclose(found, in_torch(encoder, *batch), atol=1e-5)


def test_pytorchs_export_is_symbolic_and_exact(encoder, batch, built):
    run = Encoder(built[EXPORTED].path)
    np.testing.assert_allclose(run(*batch), in_torch(encoder, *batch), atol=1e-5)
    one = batch[0][1:2, :1], batch[1][1:2]
    np.testing.assert_allclose(run(*one), in_torch(encoder, *one), atol=1e-5)
    shapes = [
        [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in onnx.load(built[EXPORTED].path).graph.input
    ]
    assert shapes == [["B", "L"], ["B"]]


@pytest.fixture(scope="module")
def fused_path(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("fused") / "tower.onnx"
    onnx.save(fused_tower(encoder), path)
    return path


def quantized(name, source, target, batch):
    if name == "static":
        quantize.static(source, target, [batch])
    else:
        quantize.dynamic(source, target, per_channel=name == "channel")


@pytest.mark.parametrize("name", ["tensor", "channel", "static"])
def test_int8_quantizes_every_product_and_stays_close(name, fused_path, encoder, batch, tmp_path):
    products = sum(n.op_type == "MatMul" for n in onnx.load(fused_path).graph.node)
    quantized(name, fused_path, tmp_path / "int8.onnx", batch)
    assert quantize.quantized_nodes(tmp_path / "int8.onnx") == products
    found, expected = Encoder(tmp_path / "int8.onnx")(*batch), in_torch(encoder, *batch)
    assert (found * expected).sum(1).min() > 0.98
    assert np.abs(found - expected).max() > 1e-5  # it is another model


def test_weights_leave_room_for_a_sum_in_16_bits(fused_path, batch, tmp_path):
    for name in ("channel", "static"):
        quantized(name, fused_path, tmp_path / "int8.onnx", batch)
        tensors = [
            onnx.numpy_helper.to_array(t)
            for t in onnx.load(tmp_path / "int8.onnx").graph.initializer
        ]
        assert (
            max(np.abs(t.astype(int)).max() for t in tensors if t.dtype == np.int8 and t.ndim == 2)
            == 64
        )


def test_a_scale_per_row_keeps_outliers_of_one_position_from_the_others(encoder, tmp_path):
    """One position has a large gate; one scale for all positions leaves the others few steps."""
    block = copy.deepcopy(encoder.tower.blocks[0])
    with torch.no_grad():
        for layer in (block.gate, block.up):
            layer.weight[:, 0] = 8 * layer.weight.abs().max()
    x = np.random.default_rng(0).normal(size=(1, 6, 16)).astype(np.float32)
    x[..., 0] = 0
    x[0, 0] = 0
    x[0, 0, 0] = 6
    h = torch.from_numpy(x)
    with torch.inference_mode():
        expected = block.down(torch.nn.functional.silu(block.gate(h)) * block.up(h)).numpy()
    error = {}
    for by_row in (False, True):
        graph = Graph()
        found = feed_forward(graph, "h", 0, block, by_row)
        onnx.save(
            graph.model({"h": (1, ["B", "L", 16])}, ("y", ["B", "L", 16]), found),
            tmp_path / "part.onnx",
        )
        exact = session(tmp_path / "part.onnx").run(None, {"h": x})[0]
        np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-3)
        quantize.dynamic(tmp_path / "part.onnx", tmp_path / "int8.onnx", per_channel=True)
        assert quantize.quantized_nodes(tmp_path / "int8.onnx") == 3
        found = session(tmp_path / "int8.onnx").run(None, {"h": x})[0]
        error[by_row] = np.abs(found - expected)[0, 1:].mean()
    assert error[True] < 0.5 * error[False]


def test_a_scale_per_row_changes_nothing_in_single_precision(encoder, batch):
    found = Encoder(fused_tower(encoder, by_row=True).SerializeToString())(*batch)
    np.testing.assert_allclose(found, in_torch(encoder, *batch), atol=1e-5)


def test_with_scales_found_beforehand_the_batch_changes_nothing(built, batch):
    changed = {}
    for name in (INT8_STATIC, INT8_ROWS):
        encode = built[name].encode[1]
        alone = [encode(i[None, :n], np.array([n])) for i, n in zip(*batch, strict=True)]
        changed[name] = np.abs(encode(*batch) - np.concatenate(alone)).max()
    assert changed[INT8_STATIC] < 1e-6 < 1e-4 < changed[INT8_ROWS]


def agree_with_pytorch(built, encoder, batch):
    items, lengths = batch[0][:, :7], np.minimum(batch[1], 7)
    expected = in_torch(encoder, items, lengths)
    for v in built.values():
        assert (v.quantized_nodes > 0) == v.name.startswith("int8")
        assert (v.path is None) == (v.name in IN_PYTORCH)
        for threads in v.encode:
            for events in (7, 10):
                found = v.reading(events, threads)(items, lengths)
                cosine = (found * expected).sum(1)
                assert cosine.min() > (0.98 if v.quantized_nodes else 1 - 1e-6), v.name
    paths = {v.path for v in built.values() if v.path}
    folder = next(iter(paths)).parent
    assert set(folder.iterdir()) == paths


def test_every_variant_agrees_with_pytorch(built, encoder, batch):
    agree_with_pytorch(built, encoder, batch)


def test_every_fused_variant_of_one_layer_agrees_with_pytorch(batch, tmp_path):
    """The last layer is the first: projections are looked up, one position is read."""
    encoder = small_encoder(layers=1)
    names = [FUSED, INT8_ROWS, INT8_STATIC]
    built = {v.name: v for v in variants.build(encoder, CALIBRATION, tmp_path, names=names)}
    agree_with_pytorch(built, encoder, batch)


def test_a_variant_that_cannot_run_says_why(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    [found] = variants.build(encoder, CALIBRATION, tmp_path, names=[TORCH_COMPILED])
    assert "no-such-compiler" in found.missing


def test_no_user_at_all_is_named(fused_path):
    with pytest.raises(ServingError, match="no user"):
        encode_users(Encoder(fused_path), histories([1]), 10, np.array([], int))


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ServingError, match=r"broken\.onnx"):
        session(tmp_path / "broken.onnx")


def test_an_item_outside_the_vocabulary_is_an_error_not_an_answer(fused_path):
    with pytest.raises(Exception, match="out of data bounds"):
        Encoder(fused_path)(np.array([[N_ITEMS + 1]]), np.array([1]))
