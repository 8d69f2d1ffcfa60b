"""The ranker as ONNX, and its time beside that of the original's shape.

    score(u, v) = u . v / temperature + MLP(u, v, u * v, f, is_unknown)

The first layer is a sum of one term for each part of its input. When the ranker serves, an item is
known or unknown for good, so what the item and its features add is one row of a table; what the
user adds is one row a request; only the product has to be multiplied for every candidate. That
leaves 41k multiply-accumulates a candidate at d 256, of the 568k that a plain network 512-256-128
over the concatenation takes.
"""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import torch
from onnx import TensorProto

from nanorecsys.export.graph import Graph
from nanorecsys.models.ranker import FittedRanker
from nanorecsys.serving.encoder import session
from nanorecsys.system.files import atomic_path

# The original's network, after the concatenation of user, item, product and features.
ORIGINAL_HIDDEN = (512, 256, 128)


@torch.no_grad()
def ranker_tables(fitted: FittedRanker) -> tuple[np.ndarray, np.ndarray]:
    """The item side of the ranker, one row an item.

    Returns:
        vectors float32 (n_items, d), of an unknown item the one that its content gives; first
        float32 (n_items, hidden[0]), what the item, its features and the bias add to the first
        layer.
    """
    ranker = fitted.ranker
    everything = torch.arange(len(fitted.items.vectors))
    vectors, features, unknown = fitted.items.read(
        everything, torch.zeros_like(everything, dtype=torch.bool)
    )
    extra = torch.cat([features, unknown[:, None]], -1)
    first = ranker.item(vectors * ranker.config.d**0.5) + ranker.features(extra) + ranker.user.bias
    return vectors.numpy(), first.numpy()


def export_ranker(fitted: FittedRanker, path: Path) -> None:
    """Write the ranker with the items inside the graph.

    The graph takes users float32 (B, d) and items int64 (B, C), from 0; it gives scores float32 (B,
    C). An item that the catalogue does not have is an error of ONNX Runtime.
    """
    graph = Graph()
    vectors, first = ranker_tables(fitted)
    row = _rows(graph, len(vectors))
    rows = (
        graph.add("Gather", graph.weight(name, table), row)
        for name, table in (("v", vectors), ("f", first))
    )
    _save(graph, path, _ITEMS, vectors.shape[1], _scores(graph, fitted, *rows))


def export_ranker_gathered(fitted: FittedRanker, path: Path) -> None:
    """Write the ranker without the items: their rows of `ranker_tables` are inputs.

    The graph takes users float32 (B, d), vectors (B, C, d) and first (B, C, hidden[0]); it gives
    scores (B, C).
    """
    graph = Graph()
    config = fitted.ranker.config
    sizes = {"vectors": config.d, "first": config.hidden[0]}
    items = {name: (TensorProto.FLOAT, ["B", "C", size]) for name, size in sizes.items()}
    _save(graph, path, items, config.d, _scores(graph, fitted, "vectors", "first"))


def original_ranker_shape(
    n_items: int, d: int, n_features: int, path: Path, *, seed: int = 0
) -> None:
    """Write a network of the original's shape, with random weights and the inputs and output of `export_ranker`.

    An MLP with ReLU, 512-256-128-1, over the concatenation of user, item, their product and the
    item's features.
    """
    rng = np.random.default_rng(seed)
    graph = Graph()

    def random(name: str, *shape: int) -> str:
        return graph.weight(
            name, (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
        )

    row = _rows(graph, n_items)
    vectors = graph.add("Gather", random("vectors", n_items, d), row)
    features = graph.add("Gather", random("features", n_items, n_features), row)
    user = graph.add("Unsqueeze", "users", graph.weight("one", np.array([1])))
    repeated = graph.add("Expand", user, graph.add("Shape", vectors))
    h = graph.add("Concat", repeated, vectors, graph.add("Mul", user, vectors), features, axis=-1)
    sizes = (3 * d + n_features, *ORIGINAL_HIDDEN, 1)
    for layer, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        h = graph.add("MatMul", h, random(f"w{layer}", inner, outer))
        h = graph.add("Add", h, random(f"b{layer}", outer))
        if outer > 1:
            h = graph.add("Relu", h)
    _save(graph, path, _ITEMS, d, graph.add("Squeeze", h, graph.weight("last", np.array([-1]))))


def compare_rankers(
    paths: Mapping[str, Path],
    tables: tuple[np.ndarray, np.ndarray],
    *,
    candidates: int = 100,
    batch: int = 1,
    repeats: int = 200,
    threads: int = 1,
    seed: int = 0,
) -> pl.DataFrame:
    """Raw timings of rankers that take turns: one row a request: variant, repeat, ms.

    Every repeat draws new users and candidates, the same for all variants. A variant whose graph
    does not hold the items has them gathered by NumPy, inside its time.

    Args:
        paths: files of the functions above, by name of the variant.
        tables: see `ranker_tables`.
        candidates, batch: C and B.
        repeats: after as many as a tenth of them, which warm up and are not counted.
    """
    rng = np.random.default_rng(seed)
    sessions = {variant: session(path, threads) for variant, path in paths.items()}
    gathered = {variant: len(runner.get_inputs()) == 3 for variant, runner in sessions.items()}
    vectors, first = tables
    warm_up = -(-repeats // 10)
    rows = []
    for repeat in range(-warm_up, repeats):
        users = vectors[rng.integers(len(vectors), size=batch)]
        items = rng.integers(len(vectors), size=(batch, candidates))
        # No variant always follows the same other one.
        for variant in rng.permutation(list(sessions)).tolist():
            start = time.perf_counter_ns()
            inputs = (
                {"vectors": vectors[items], "first": first[items]}
                if gathered[variant]
                else {"items": items}
            )
            sessions[variant].run(None, {"users": users, **inputs})
            rows.append(
                {"variant": variant, "repeat": repeat, "ms": (time.perf_counter_ns() - start) / 1e6}
            )
    return pl.DataFrame(rows).filter(pl.col("repeat") >= 0)


def _scores(graph: Graph, fitted: FittedRanker, vectors: str, first: str) -> str:
    """Scores (B, C) of candidates whose rows of `ranker_tables` are (B, C, d) and (B, C, hidden[0])."""
    ranker, last = fitted.ranker, graph.weight("last", np.array([-1]))
    # Both users and items are scaled to the size of the features, see `Ranker.forward`.
    scale = ranker.config.d**0.5
    of_user = graph.add("MatMul", "users", graph.weight("user", (ranker.user.weight * scale).T))
    one = graph.weight("one", np.array([1]))
    product = graph.add("Mul", graph.add("Unsqueeze", "users", one), vectors)
    h = graph.add("MatMul", product, graph.weight("product", (ranker.product.weight * scale**2).T))
    h = graph.add("Add", graph.add("Add", h, first), graph.add("Unsqueeze", of_user, one))
    for number, layer in enumerate([*ranker.hidden, ranker.out]):
        h = graph.add("MatMul", graph.add("Relu", h), graph.weight(f"w{number}", layer.weight.T))
        h = graph.add("Add", h, graph.weight(f"b{number}", layer.bias))
    # A matrix product reads the vectors once more, and is still faster than the sum over the
    # product.
    logit = graph.add("MatMul", vectors, graph.add("Unsqueeze", "users", last))
    logit = graph.add(
        "Div", logit, graph.weight("temperature", np.float32(ranker.config.temperature))
    )
    return graph.add("Squeeze", graph.add("Add", logit, h), last)


def _rows(graph: Graph, n_items: int) -> str:
    """The items as rows to gather: ONNX counts negative ones from the end, here they are out of range."""
    n, zero = graph.weight("n_items", np.int64(n_items)), graph.weight("zero", np.int64(0))
    return graph.add("Where", graph.add("Less", "items", zero), n, "items")


def _save(
    graph: Graph, path: Path, items: Mapping[str, tuple[int, list]], d: int, scores: str
) -> None:
    """Write the graph that takes users and `items`, element types and shapes by name."""
    inputs = {"users": (TensorProto.FLOAT, ["B", d]), **items}
    model = graph.model(inputs, ("scores", ["B", "C"]), scores)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as part:
        onnx.save(model, part)


_ITEMS = {"items": (TensorProto.INT64, ["B", "C"])}
