"""Every way to run the tower gives the vectors that PyTorch gives."""

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.data import Histories
from nanorecsys.export import quantize, variants
from nanorecsys.export.errors import ExportError
from nanorecsys.export.graph import Graph, feed_forward, fused_tower
from nanorecsys.export.names import (
    COMPILED,
    CORE,
    FUSED,
    INT8_CHANNEL,
    INT8_PADDED,
    INT8_ROWS,
    INT8_STATIC,
    TORCH_PADDED,
    VARIANTS,
)
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.models.retriever import EveryPosition
from nanorecsys.serving.encoder import Encoder, encode_users, session
from nanorecsys.serving.errors import ServingError
from tests.export.conftest import N_ITEMS, small_encoder

TORCH = {positions: small_encoder(positions=positions) for positions in ("rotary", "absolute")}
ONNX = {
    positions: Encoder(fused_tower(model).SerializeToString()) for positions, model in TORCH.items()
}


def in_torch(encoder, items, lengths):
    with torch.inference_mode():
        return encoder(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()


def histories(*rows):
    return Histories(
        np.cumsum([0, *map(len, rows)]), np.concatenate([np.array(r, np.int32) for r in rows])
    )


@pytest.mark.parametrize("positions", TORCH)
@given(rows=st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=25), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_the_fused_graph_equals_torch_on_any_histories(positions, rows):
    """Empty, one item, repeats, longer than the window, and whoever shares the batch."""
    model, run = TORCH[positions], ONNX[positions]
    csr = (
        histories(*rows)
        if any(rows)
        else Histories(np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int32))
    )
    together = encode_users(run, csr, 10)
    alone = encode_users(run, csr, 10, batch_tokens=1)
    expected = encode_users(lambda items, lengths: in_torch(model, items, lengths), csr, 10)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("positions", ["rotary", "absolute"])
def test_few_layers(layers, positions, batch):
    model = small_encoder(layers=layers, positions=positions)
    found = Encoder(fused_tower(model).SerializeToString())(*batch)
    np.testing.assert_allclose(found, in_torch(model, *batch), atol=1e-5)


def test_more_events_than_the_window_are_not_read(encoder):
    run = Encoder(fused_tower(encoder).SerializeToString())
    long = histories(list(range(30)))
    short = histories(list(range(20, 30)))
    np.testing.assert_array_equal(encode_users(run, long, 10), encode_users(run, short, 10))


def test_what_lies_beyond_a_history_is_not_read(encoder, batch):
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


@pytest.mark.parametrize("opset", [18, 23])
def test_pytorchs_export_is_symbolic_and_exact(encoder, batch, opset, tmp_path):
    path = tmp_path / "tower.onnx"
    export_encoder(encoder, 10, path, opset)
    run = Encoder(path)
    np.testing.assert_allclose(run(*batch), in_torch(encoder, *batch), atol=1e-5)
    one = batch[0][1:2, :1], batch[1][1:2]
    np.testing.assert_allclose(run(*one), in_torch(encoder, *one), atol=1e-5)
    shapes = [
        [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim]
        for i in onnx.load(path).graph.input
    ]
    assert shapes == [["B", "L"], ["B"]]


@pytest.fixture(scope="module")
def fused_path(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("fused") / "tower.onnx"
    onnx.save(fused_tower(encoder), path)
    return path


def quantized(name, source, target, batch):
    if name == "static":
        return quantize.static(source, target, [batch])
    if name == "weights only":
        return quantize.weight_only(source, target)
    return quantize.dynamic(source, target, per_channel=name != "tensor", tables=name == "tables")


@pytest.mark.parametrize("name", ["tensor", "channel", "tables", "static", "weights only"])
def test_int8_quantizes_every_product_and_stays_close(name, fused_path, encoder, batch, tmp_path):
    products = sum(n.op_type == "MatMul" for n in onnx.load(fused_path).graph.node)
    assert quantized(name, fused_path, tmp_path / "int8.onnx", batch) == products
    found, expected = Encoder(tmp_path / "int8.onnx")(*batch), in_torch(encoder, *batch)
    assert (found * expected).sum(1).min() > 0.98
    assert np.abs(found - expected).max() > 1e-5  # it is another model


@pytest.mark.parametrize(("has", "largest"), [(True, 127), (False, 64)])
def test_without_int8_dot_products_weights_leave_room_for_a_sum_in_16_bits(
    has, largest, fused_path, batch, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantize, "has_int8_dot_products", lambda: has)
    for name in ("channel", "static"):
        quantized(name, fused_path, tmp_path / "int8.onnx", batch)
        tensors = [
            onnx.numpy_helper.to_array(t)
            for t in onnx.load(tmp_path / "int8.onnx").graph.initializer
        ]
        assert (
            max(np.abs(t.astype(int)).max() for t in tensors if t.dtype == np.int8 and t.ndim == 2)
            == largest
        )


def test_a_scale_a_row_keeps_one_position_from_costing_the_others(encoder, tmp_path):
    """One position whose gate opens far: with one scale for all of them, the others are left a few steps."""
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
        assert (
            quantize.dynamic(tmp_path / "part.onnx", tmp_path / "int8.onnx", per_channel=True) == 3
        )
        found = session(tmp_path / "int8.onnx").run(None, {"h": x})[0]
        error[by_row] = np.abs(found - expected)[0, 1:].mean()
    assert error[True] < 0.5 * error[False]


def test_a_scale_a_row_changes_nothing_in_single_precision(encoder, batch):
    found = Encoder(fused_tower(encoder, by_row=True).SerializeToString())(*batch)
    np.testing.assert_allclose(found, in_torch(encoder, *batch), atol=1e-5)


def test_scales_found_beforehand_know_no_company(encoder, batch, tmp_path):
    built = variants.build(
        encoder, histories(*(range(n, n + 9) for n in range(9))), tmp_path, [INT8_STATIC, INT8_ROWS]
    )
    changed = {}
    for v in built:
        together = v.encode[1](*batch)
        alone = np.concatenate(
            [v.encode[1](i[None, :n], np.array([n])) for i, n in zip(*batch, strict=True)]
        )
        changed[v.name] = np.abs(together - alone).max()
    assert changed[INT8_STATIC] < 1e-6 < 1e-4 < changed[INT8_ROWS]


def test_tables_in_int8_make_the_file_smaller(fused_path, tmp_path):
    sizes = []
    for tables in (False, True):
        quantize.dynamic(fused_path, tmp_path / "int8.onnx", per_channel=True, tables=tables)
        sizes.append((tmp_path / "int8.onnx").stat().st_size)
    saved = (
        4 * (N_ITEMS + 1) * 16 * 3
    )  # the items and three projections of them, three bytes a number
    assert sizes[0] - sizes[1] > 0.8 * saved


def test_a_quantizer_that_finds_nothing_is_an_error(tmp_path):
    nothing = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1])],
            [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(nothing, tmp_path / "nothing.onnx")
    with pytest.raises(ExportError, match="no quantized node"):
        quantize.dynamic(tmp_path / "nothing.onnx", tmp_path / "out.onnx", per_channel=True)


def test_the_variants_are_built_and_agree(encoder, batch, tmp_path):
    csr = histories([], [4], [0, 1, 2], [6] * 4, list(range(10)))
    names = [n for n in VARIANTS if n != COMPILED]
    built = variants.build(encoder, csr, tmp_path, names, threads=(1, 2))
    assert [v.name for v in built] == names
    assert set(CORE) <= set(names)
    for v in built:
        assert v.padded == (v.name in (TORCH_PADDED, INT8_PADDED))
        assert (v.quantized > 0) == v.name.startswith("int8")
        assert (v.path is None) == v.name.startswith("torch")
        for threads in (1, 2):
            found = v.encode[threads](batch[0][:, :7], np.minimum(batch[1], 7))
            expected = in_torch(encoder, batch[0][:, :7], np.minimum(batch[1], 7))
            assert (found * expected).sum(1).min() > (0.98 if v.quantized else 1 - 1e-6), v.name
    assert {p.name for p in tmp_path.iterdir()} == {v.path.name for v in built if v.path}


def test_a_variant_that_does_not_exist_is_named(encoder, tmp_path):
    with pytest.raises(ExportError, match=r"(?s)no variant 'int4'.*int8 by channel"):
        variants.build(encoder, histories([1]), tmp_path, ["int4"])
    assert not list(tmp_path.iterdir())


def test_torch_compile_needs_a_compiler(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match="C\\+\\+ compiler"):
        variants.build(encoder, histories([1]), tmp_path / "out", [COMPILED])


def test_nobody_to_encode_is_named(fused_path):
    with pytest.raises(ServingError, match="no user"):
        encode_users(Encoder(fused_path), histories([1]), 10, np.array([], int))


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ServingError, match=r"broken\.onnx"):
        session(tmp_path / "broken.onnx")


def test_an_item_outside_the_vocabulary_is_an_error_not_an_answer(fused_path):
    with pytest.raises(Exception, match="out of data bounds"):
        Encoder(fused_path)(np.array([[N_ITEMS + 1]]), np.array([1]))


def test_names_are_unique_files():
    assert FUSED in CORE
    assert INT8_CHANNEL in CORE
