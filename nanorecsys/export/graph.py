"""The user tower as a graph of ONNX Runtime's fused operators, written node by node.

PyTorch's exporter writes rotary positions, gates and norms as a dozen small nodes each, and every
node reads and writes all activations. ONNX Runtime has one node for each: Attention,
and in the domain com.microsoft RotaryEmbedding, QuickGelu and SkipSimplifiedLayerNormalization.

The first layer's queries, keys and values, before rotation, depend on the item alone: they are
looked up in tables as large as the item table. In the other layers they have a matrix each: the
result of a joint one would have to be split again.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nanorecsys.models.retriever import Block, UserEncoder

# The first opset with RMSNormalization and Attention; before it they are spelled out.
OPSET, MICROSOFT = 23, "com.microsoft"
OF_MICROSOFT = {"MultiHeadAttention", "QuickGelu", "RotaryEmbedding"}
OF_MICROSOFT |= {"SkipSimplifiedLayerNormalization"}
# Default of torch's RMSNorm.
EPSILON = float(np.finfo(np.float32).eps)


class Graph:
    """Nodes and weights in the order in which they are added; values are referred to by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def weight(self, name: str, values: Tensor | np.ndarray | np.generic) -> str:
        """Add a constant."""
        array = values.detach().numpy() if isinstance(values, Tensor) else np.asarray(values)
        self.weights[name] = array
        return name

    def add(self, op: str, *inputs: str, others: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node, and return its first output; `others` names the others."""
        name, domain = f"{op}_{len(self.nodes)}", MICROSOFT if op in OF_MICROSOFT else ""
        outputs = [name, *others]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        return name

    def matmul(self, x: str, name: str, layer: nn.Linear) -> str:
        """Add a linear layer without bias."""
        return self.add("MatMul", x, self.weight(name, layer.weight.T))

    def add_and_norm(self, x: str, added: str, name: str, layer: nn.RMSNorm) -> tuple[str, str]:
        """Add `x + added` and its norm; returns the sum, then the norm."""
        op, total = "SkipSimplifiedLayerNormalization", f"{name}_sum"
        weight = self.weight(name, layer.weight)
        return total, self.add(op, x, added, weight, others=["", "", total], epsilon=EPSILON)

    def model(
        self,
        inputs: Mapping[str, tuple[int, Sequence[int | str]]],
        output: tuple[str, Sequence[int | str]],
        result: str,
        kind: int = TensorProto.FLOAT,
    ) -> onnx.ModelProto:
        """Make the model.

        Args:
            inputs: Element type and shape by name; symbolic dimensions are names.
            output: Name and shape of the output.
            result: Value that becomes the output.
            kind: Element type of the output.
        """
        name, shape = output
        self.nodes.append(helper.make_node("Identity", [result], [name], name=name))
        graph = helper.make_graph(
            self.nodes,
            "tower",
            [helper.make_tensor_value_info(n, *described) for n, described in inputs.items()],
            [helper.make_tensor_value_info(name, kind, shape)],
            [numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in self.weights.items()],
        )
        # ONNX cannot infer the types of ONNX Runtime's own operators, and quantizers skip values
        # without a type.
        for node in self.nodes:
            if node.domain:
                graph.value_info.extend(
                    helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
                    for value in filter(None, node.output)
                )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=11, producer_name="nanorecsys"
        )


def fused_tower(encoder: UserEncoder, *, by_row: bool = False) -> onnx.ModelProto:
    """Write the encoder as one ONNX graph in single precision.

    The last layer is computed at the last position only.

    Args:
        encoder: The trained encoder, with rotary positions.
        by_row: Whether to divide the input of each feed-forward's last product by the largest value
            of its position, and to multiply the output. In fp32 this changes nothing. In int8 it
            matters: a gate's output has outliers at some positions, and one scale for all of them
            leaves the others few steps.

    Returns:
        A model with the inputs items int64 (B, L) and lengths int64 (B,), as in
        `UserEncoder.forward`, and the output vectors float32 (B, d).
    """
    config, tower = encoder.tower.config, encoder.tower
    blocks = cast(list[Block], list(tower.blocks))
    g = Graph()
    one = g.weight("one", np.ones(1, np.int64))
    table = encoder.table * config.d**0.5  # as `UserTower.begin` scales it
    x = g.add("Gather", g.weight("table", table), "items")
    rotate, project = _rotary(g, encoder), partial(_look_up, g, table, blocks[0])
    for i, block in enumerate(blocks):
        k, v = rotate(project("key"), None), project("value")
        if block is blocks[-1]:
            end = g.add("Unsqueeze", g.add("Sub", "lengths", one), one)  # (B, 1)
            x = _take(g, x, end)
            q = rotate(project("query", end), end)
            # This operator takes numbers of keys, which hides the padding of shorter histories.
            seen = "", g.add("Cast", "lengths", to=TensorProto.INT32)
            a = g.add("MultiHeadAttention", q, k, v, *seen, num_heads=config.heads)
        else:
            q = rotate(project("query"), None)
            heads: dict[str, Any] = {"q_num_heads": config.heads, "kv_num_heads": config.heads}
            a = g.add("Attention", q, k, v, is_causal=1, **heads)
        x, h = g.add_and_norm(
            x, g.matmul(a, f"out_{i}", block.out), f"feed_forward_{i}", block.feed_forward_norm
        )
        following = tower.norm if block is blocks[-1] else blocks[i + 1].attention_norm
        x, h = g.add_and_norm(x, feed_forward(g, h, i, block, by_row), f"norm_{i + 1}", following)
        if block is not blocks[-1]:
            project = partial(_multiply, g, h, i + 1, blocks[i + 1])
    vectors = g.add("Squeeze", g.add("LpNormalization", h, axis=-1, p=2), one)
    inputs = {"items": (TensorProto.INT64, ["B", "L"]), "lengths": (TensorProto.INT64, ["B"])}
    return g.model(inputs, ("vectors", ["B", config.d]), vectors)


@torch.no_grad()
def _look_up(g: Graph, table: Tensor, block: Block, name: str, end: str | None = None) -> str:
    """A projection of the first layer, from a table of it for every item; see `_multiply`."""
    rows = g.weight(f"{name}_0", getattr(block, name)(block.attention_norm(table)))
    return g.add("Gather", rows, _take(g, "items", end) if end else "items")


def _multiply(g: Graph, h: str, i: int, block: Block, name: str, end: str | None = None) -> str:
    """A projection of a layer's normed input `h` (B, L, d), at all positions or at `end` (B, 1)."""
    return g.matmul(_take(g, h, end) if end else h, f"{name}_{i}", getattr(block, name))


def _rotary(g: Graph, encoder: UserEncoder) -> Callable[[str, str | None], str]:
    """Rotation of (B, L, d) by position: 0, 1, ... where positions int64 (B, L) are None."""
    tower, heads = encoder.tower, encoder.tower.config.heads
    half = encoder.tower.config.d // heads // 2
    cos, sin = (g.weight(name, getattr(tower, name)[:, 0, :half]) for name in ("cos", "sin"))
    start = g.weight("start", np.zeros(1, np.int64))

    return lambda x, positions: g.add(
        "RotaryEmbedding", x, positions or start, cos, sin, num_heads=heads
    )


def _take(g: Graph, x: str, position: str) -> str:
    """(B, L, ...) at positions (B, 1): (B, 1, ...)."""
    index = g.add("Unsqueeze", position, g.weight("last_axis", np.full(1, 2)))  # (B, 1, 1)
    return g.add("GatherND", x, index, batch_dims=1)


def feed_forward(g: Graph, h: str, i: int, block: Block, by_row: bool = False) -> str:
    """SwiGLU; QuickGelu with alpha 1 is x sigma(x). See `fused_tower` for `by_row`."""
    gate = g.add("QuickGelu", g.matmul(h, f"gate_{i}", block.gate), alpha=1.0)
    h = g.add("Mul", gate, g.matmul(h, f"up_{i}", block.up))
    if not by_row:
        return g.matmul(h, f"down_{i}", block.down)
    axis = g.weight("last_axis", np.full(1, 2))
    largest = g.add("ReduceMax", g.add("Abs", h), axis, keepdims=1)  # (B, L, 1)
    largest = g.add("Max", largest, g.weight("least", np.float32(1e-9)))
    return g.add("Mul", g.matmul(g.add("Div", h, largest), f"down_{i}", block.down), largest)
