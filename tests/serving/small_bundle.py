"""Parts of a small serving bundle, whose models are a few ONNX nodes."""

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

from nanorecsys.data import Histories
from nanorecsys.serving.bundle import Parts

N_ITEMS, N_USERS, D, WINDOW = 20, 5, 8, 6


def item_vectors(seed: int = 0) -> np.ndarray:
    """Random unit vectors, float32 (N_ITEMS, D)."""
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def tower(
    vectors: np.ndarray,
    *,
    items: str = "items",
    batch: int | str = "B",
    length: int | str = "L",
    normalize: bool = True,
    vectors_name: str = "vectors",
) -> onnx.ModelProto:
    """The mean over all places of the item vectors, the padding's among them, of norm 1."""
    table = np.concatenate([np.full((1, D), D**-0.5, np.float32), vectors])
    nodes = [
        helper.make_node("Gather", ["table", items], ["x"]),  # (B, L, D)
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["lengths"], ["l"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["l", "axis"], ["scale"]),
        helper.make_node("Mul", ["mean", "scale"], ["sum"]),
        helper.make_node("LpNormalization", ["sum"], ["unit"], axis=-1, p=2),
        helper.make_node("Identity", ["unit" if normalize else "sum"], [vectors_name]),
    ]
    inputs = [
        helper.make_tensor_value_info(items, TensorProto.INT64, [batch, length]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, [batch]),
    ]
    output = helper.make_tensor_value_info(vectors_name, TensorProto.FLOAT, [batch, D])
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    return checked(helper.make_graph(nodes, "tower", inputs, [output], weights))


def ranker(vectors: np.ndarray, *, scale: float = 1.0) -> onnx.ModelProto:
    """Inner products, times `scale`."""
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["x"]),  # (B, C, D)
        helper.make_node("Unsqueeze", ["users", "axis"], ["u"]),  # (B, D, 1)
        helper.make_node("MatMul", ["x", "u"], ["products"]),
        helper.make_node("Squeeze", ["products", "axis"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info("users", TensorProto.FLOAT, ["B", D]),
        helper.make_tensor_value_info("items", TensorProto.INT64, ["B", "C"]),
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "C"])
    weights = [
        numpy_helper.from_array(vectors, "table"),
        numpy_helper.from_array(np.array([2]), "axis"),
        numpy_helper.from_array(np.float32(scale), "scale"),
    ]
    return checked(helper.make_graph(nodes, "ranker", inputs, [output], weights))


def checked(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of `graph` that ONNX's own checker takes."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model, return its path."""
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path)
    return path


def small_parts(folder: Path) -> Parts:
    """Parts that fit each other, their models in `folder`; user 2 has no history."""
    vectors = item_vectors()
    events = np.array([3, 1, 4, 1, 5, 9, 2, 6, 19, 0], np.int32)
    items = pd.DataFrame(
        {
            "item": np.arange(N_ITEMS, dtype=np.int32),
            "item_id": [100 + 3 * i for i in range(N_ITEMS)],
            "title": [f"Film {i}" for i in range(N_ITEMS)],
            "year": pd.array([None, *range(1981, 1980 + N_ITEMS)], dtype="Int16"),
            "genres": [["Drama"]] * N_ITEMS,
        }
    )
    return Parts(
        tower=save(tower(vectors), folder / "int8.onnx"),
        ranker=save(ranker(vectors), folder / "ranker.onnx"),
        item_vectors=vectors,
        items=items,
        histories=Histories(np.array([0, 4, 7, 7, 8, 10]), events),
        user_ids=np.array([11, 22, 33, 44, 55]),
        popularity=np.bincount(events, minlength=N_ITEMS),
        dataset="tiny",
        commit="0123456789ab",
        window=WINDOW,
        events_read=WINDOW,
        tower_variant="int8_dynamic",
        tower_is_int8=True,
    )
