"""How much arithmetic an encode takes, how fast this machine can do it, and where the time goes instead."""

import json
import math
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nanorecsys.serving.encoder import session

# Rows, inner size and columns of the product whose rate is taken for the peak: the tower's widest,
# at a full window.
PEAK_SHAPE = 200, 256, 1024
PRODUCTS = {
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}
PRODUCTS |= {"QLinearMatMul", "MatMulNBits"}
ATTENTION = {"Attention", "MultiHeadAttention"}


def peaks(repeats: int = 30) -> dict[str, float]:
    """Multiply-accumulates a second, in billions, of one thread in ONNX Runtime's own fp32 and int8 products.

    The best of the repeats, on `PEAK_SHAPE`: what the machine can do when nothing else is done.
    """
    rows, inner, columns = PEAK_SHAPE
    rng = np.random.default_rng(0)
    floats = (
        rng.normal(size=(rows, inner)).astype(np.float32),
        rng.normal(size=(inner, columns)).astype(np.float32),
    )
    bytes_ = (
        rng.integers(0, 255, (rows, inner)).astype(np.uint8),
        rng.integers(-127, 127, (inner, columns)),
    )
    found = {}
    for name, op, (a, b), out in (
        ("fp32", "MatMul", floats, TensorProto.FLOAT),
        ("int8", "MatMulInteger", (bytes_[0], bytes_[1].astype(np.int8)), TensorProto.INT32),
    ):
        kind = helper.np_dtype_to_tensor_dtype(a.dtype)
        graph = helper.make_graph(
            [helper.make_node(op, ["a", "b"], ["y"])],
            "product",
            [helper.make_tensor_value_info("a", kind, [rows, inner])],
            [helper.make_tensor_value_info("y", out, [rows, columns])],
            [numpy_helper.from_array(b, "b")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        run = session(model.SerializeToString())
        best = np.inf
        for _ in range(repeats):
            start = time.perf_counter_ns()
            run.run(None, {"a": a})
            best = min(best, time.perf_counter_ns() - start)
        found[name] = rows * inner * columns / best
    return found


@dataclass(frozen=True)
class Profile:
    """One encode, as ONNX Runtime itself saw it.

    Args:
        macs: multiply-accumulates of its products, by weights and in attention. Attention under a
            causal mask is counted whole, as it is computed.
        ms: milliseconds by operator, the largest first.
    """

    macs: int
    ms: dict[str, float]


def profile(path: Path, n_items: int, length: int, window: int, calls: int = 30) -> Profile:
    """Run a tower under ONNX Runtime's profiler.

    Args:
        path: its file.
        length: of the one history in a call.
        window: that it is padded to; the same as `length` for a tower that needs no padding.
        calls: that are averaged, after three that warm up.
    """
    rng = np.random.default_rng(0)
    warm = 3
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(path, profile=Path(folder) / "profile")
        for _ in range(warm + calls):
            items = np.zeros((1, window), np.int64)
            items[0, :length] = rng.integers(1, n_items + 1, length)
            profiled.run(None, {"items": items, "lengths": np.array([length])})
        events = json.loads(Path(profiled.end_profiling()).read_text())
    spent: dict[str, float] = defaultdict(float)
    seen: Counter[str] = Counter()
    macs = 0
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("kernel_time"):
            continue
        seen[event["name"]] += 1
        if seen[event["name"]] == 1:
            macs += multiply_accumulates(event["args"])
        if seen[event["name"]] > warm:
            spent[event["args"]["op_name"]] += event["dur"] / 1000 / calls
    return Profile(macs, dict(sorted(spent.items(), key=lambda pair: -pair[1])))


def multiply_accumulates(node: dict[str, Any]) -> int:
    """Of one node, from the name and the shapes that the profiler noted.

    >>> multiply_accumulates({"op_name": "MatMul", "input_type_shape": [{"float": [1, 9, 4]}, {"float": [4, 6]}],
    ...                       "output_type_shape": [{"float": [1, 9, 6]}]})
    216
    """
    shapes = [next(iter(value.values())) for value in node["input_type_shape"] if value]
    if node["op_name"] in ATTENTION:
        queries, keys = shapes[0], shapes[1]
        return 2 * math.prod(queries) * keys[-2]
    if node["op_name"] in PRODUCTS:
        return math.prod(next(iter(node["output_type_shape"][0].values()))) * shapes[0][-1]
    return 0
