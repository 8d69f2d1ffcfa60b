"""The arithmetic of an encode, the machine's peak rate, and the time by operator."""

import json
import math
import tempfile
import timeit
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from onnx import TensorProto, helper

from nanorecsys.export.graph import Graph
from nanorecsys.serving.encoder import session

# Rows, inner size and columns of the product whose rate counts as the peak: the tower's widest, at
# a full window.
PEAK_SHAPE = 200, 256, 1024
PRODUCTS = {"MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat"}
PRODUCTS |= {"DynamicQuantizeMatMul", "QLinearMatMul"}
ATTENTION = {"Attention", "MultiHeadAttention"}
WARM_UP_CALLS = 3


def peaks(repeats: int = 30) -> dict[str, float]:
    """Measure one thread's rate of ONNX Runtime's fp32 and int8 products.

    Returns:
        Billions of multiply-accumulates per second by precision: the best of the repeats on
        `PEAK_SHAPE`.
    """
    rows, inner, columns = PEAK_SHAPE
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 255, (rows, inner)), rng.integers(-127, 127, (inner, columns))
    found = {}
    for name, operator, a_type, b_type, output_kind in (
        ("fp32", "MatMul", np.float32, np.float32, TensorProto.FLOAT),
        ("int8", "MatMulInteger", np.uint8, np.int8, TensorProto.INT32),
    ):
        graph = Graph()
        product = graph.add(operator, "a", graph.weight("b", b.astype(b_type)))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(a_type))
        model = graph.model(
            {"a": (kind, [rows, inner])}, ("y", [rows, columns]), product, output_kind
        )
        run, inputs = session(model.SerializeToString()).run, {"a": a.astype(a_type)}
        best_s = min(timeit.repeat(partial(run, None, inputs), number=1, repeat=repeats))
        found[name] = rows * inner * columns / best_s / 1e9
    return found


@dataclass(frozen=True)
class OperatorTimes:
    """One encode in ONNX Runtime's profiler.

    Args:
        macs: Multiply-accumulates of its products, by weights and in attention. Attention under a
            causal mask is counted whole, as it is computed.
        ms: Milliseconds by operator, the largest first.
    """

    macs: int
    ms: dict[str, float]


def operator_times(path: Path, n_items: int, length: int, calls: int = 30) -> OperatorTimes:
    """Run a tower under ONNX Runtime's profiler.

    Args:
        path: ONNX file of the tower.
        n_items: Number of items.
        length: Number of events in the history.
        calls: Number of calls that are averaged, after a warm-up.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(path, profile=Path(folder) / "profile")
        for _ in range(WARM_UP_CALLS + calls):
            items = rng.integers(1, n_items + 1, (1, length))
            profiled.run(None, {"items": items, "lengths": np.array([length])})
        events = json.loads(Path(profiled.end_profiling()).read_text())
    kernels = [e for e in events if e["name"].endswith("kernel_time")]  # in the order of the calls
    nodes = len(kernels) // (WARM_UP_CALLS + calls)
    macs = sum(multiply_accumulates(kernel["args"]) for kernel in kernels[:nodes])
    timed = pd.DataFrame(
        {"operator": kernel["args"]["op_name"], "ms": kernel["dur"] / 1000 / calls}
        for kernel in kernels[WARM_UP_CALLS * nodes :]
    )
    spent = timed.groupby("operator")["ms"].sum().sort_values(ascending=False)
    return OperatorTimes(macs, spent.to_dict())


def multiply_accumulates(node: dict[str, Any]) -> int:
    """Count those of one node, from the name and the shapes that the profiler noted.

    >>> multiply_accumulates({"op_name": "MatMul", "output_type_shape": [{"float": [1, 9, 6]}],
    ...                       "input_type_shape": [{"float": [1, 9, 4]}, {"float": [4, 6]}]})
    216
    """
    shapes = [next(iter(value.values())) for value in node["input_type_shape"] if value]
    if node["op_name"] in ATTENTION:
        queries, keys = shapes[0], shapes[1]
        return 2 * math.prod(queries) * keys[-2]
    if node["op_name"] in PRODUCTS:
        return math.prod(next(iter(node["output_type_shape"][0].values()))) * shapes[0][-1]
    return 0
