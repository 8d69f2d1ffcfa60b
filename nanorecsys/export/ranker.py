"""The ranker as ONNX.

    score(u, v) = u . v / temperature + MLP(u, v, u * v, f, is_unknown)

The first layer is a sum with one term for each part of its input. In the served ranker an item is
known or unknown for good, so the terms of the item and its features are one row of a table. The
user's term is computed once per request. Only the product is multiplied for every candidate. That
leaves 41k multiply-accumulates per candidate at d 256, of the 568k that a plain network 512-256-128
over the concatenation takes.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto

from nanorecsys.export.graph import Graph
from nanorecsys.models.ranker import FittedRanker
from nanorecsys.system.files import atomic_path


@torch.no_grad()
def ranker_tables(fitted: FittedRanker) -> tuple[np.ndarray, np.ndarray]:
    """Compute the item side of the ranker, one row per item.

    Returns:
        vectors float32 (n_items, d), from the content where the item is unknown; terms float32
        (n_items, hidden[0]) of the item, its features and the bias in the first layer.
    """
    ranker = fitted.ranker
    vectors, features, unknown = fitted.items.read(torch.arange(len(fitted.items.vectors)))
    extra = torch.cat([features, unknown[:, None]], -1)
    terms = ranker.item(vectors * ranker.config.d**0.5) + ranker.features(extra) + ranker.user.bias
    return vectors.numpy(), terms.numpy()


def export_ranker(fitted: FittedRanker, path: Path) -> None:
    """Write the ranker with the items inside the graph.

    The graph takes users float32 (B, d) and items int64 (B, C), from 0, and gives scores float32
    (B, C). ONNX Runtime raises an error for an item beyond the catalogue.
    """
    ranker = fitted.ranker
    tables = ranker_tables(fitted)
    graph = Graph()
    vectors, terms = (
        graph.add("Gather", graph.weight(name, table), "items")  # (B, C, d) and (B, C, hidden[0])
        for name, table in zip(("vectors", "terms"), tables, strict=True)
    )
    last, one = graph.weight("last", np.array([-1])), graph.weight("one", np.array([1]))
    # Users and items are scaled to the size of the features, see `Ranker.forward`.
    scale = ranker.config.d**0.5
    of_user = graph.add("MatMul", "users", graph.weight("user", (ranker.user.weight * scale).T))
    product = graph.add("Mul", graph.add("Unsqueeze", "users", one), vectors)
    h = graph.add("MatMul", product, graph.weight("product", (ranker.product.weight * scale**2).T))
    h = graph.add("Add", graph.add("Add", h, terms), graph.add("Unsqueeze", of_user, one))
    for number, layer in enumerate([*ranker.hidden, ranker.out]):
        h = graph.add("MatMul", graph.add("Relu", h), graph.weight(f"w{number}", layer.weight.T))
        h = graph.add("Add", h, graph.weight(f"b{number}", layer.bias))
    # A matrix product reads the vectors once more, and is still faster than the sum over `product`.
    logit = graph.add("MatMul", vectors, graph.add("Unsqueeze", "users", last))
    temperature = graph.weight("temperature", np.float32(ranker.config.temperature))
    logit = graph.add("Div", logit, temperature)
    scores = graph.add("Squeeze", graph.add("Add", logit, h), last)
    d = ranker.config.d
    model = graph.model(
        {"users": (TensorProto.FLOAT, ["B", d]), "items": (TensorProto.INT64, ["B", "C"])},
        ("scores", ["B", "C"]),
        scores,
    )
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as part:
        onnx.save(model, part)
