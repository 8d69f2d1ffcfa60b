"""The user tower as a graph of ONNX Runtime's fused operators, written node by node.

The exporter of PyTorch spells rotary positions, gates and norms as a dozen small nodes each, and
every one of them reads and writes all activations. ONNX Runtime has one node for each: Attention,
and in the domain com.microsoft RotaryEmbedding, QuickGelu and SkipSimplifiedLayerNormalization.

Before they are rotated, the first layer's queries, keys and values depend on the item alone: they
are looked up, in tables as large as the item table, rather than multiplied. In the other layers
they keep a matrix each: made one, their parts would have to be split again.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nanorecsys.models.retriever import Block, UserEncoder

OPSET, MICROSOFT = 23, "com.microsoft"  # the first opset with Attention
# What torch's RMSNorm takes when no epsilon is given.
EPSILON = float(np.finfo(np.float32).eps)


class Graph:
    """Nodes and weights in the order in which they are added; values go by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def weight(self, name: str, values: Tensor | np.ndarray) -> str:
        """A constant."""
        self.weights[name] = values.detach().numpy() if isinstance(values, Tensor) else values
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes)
        )
        return name

    def matmul(self, x: str, name: str, layer: nn.Linear) -> str:
        """A linear layer without bias."""
        return self.add("MatMul", x, self.weight(name, layer.weight.T))

    def norm(self, x: str, name: str, layer: nn.RMSNorm) -> str:
        """Root mean square norm."""
        weight = self.weight(name, layer.weight)
        return self.add(
            "SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=EPSILON, stash_type=1
        )

    def add_and_norm(self, x: str, added: str, name: str, layer: nn.RMSNorm) -> tuple[str, str]:
        """`x + added`, and the norm of it: the two returned, the sum first."""
        norm, total = f"{name}_norm", f"{name}_sum"
        inputs = x, added, self.weight(name, layer.weight)
        op = "SkipSimplifiedLayerNormalization"
        self.nodes.append(
            helper.make_node(
                op, inputs, [norm, "", "", total], name=norm, domain=MICROSOFT, epsilon=EPSILON
            )
        )
        return total, norm

    def model(
        self, inputs: dict[str, tuple[int, list]], output: tuple[str, list], result: str
    ) -> onnx.ModelProto:
        """The model.

        Args:
            inputs: name to element type and shape, symbolic dimensions by their names.
            output: name and shape of the float output.
            result: the value that becomes it.
        """
        name, shape = output
        self.nodes.append(helper.make_node("Identity", [result], [name], name=name))
        graph = helper.make_graph(
            self.nodes,
            "tower",
            [helper.make_tensor_value_info(n, *described) for n, described in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.asarray(v, order="C"), n) for n, v in self.weights.items()],
        )
        # Nobody can infer the types of ONNX Runtime's own operators, and quantizers skip what has
        # none.
        own = [
            o
            for n in self.nodes
            if n.domain or n.op_type.startswith("Simplified")
            for o in n.output
            if o
        ]
        graph.value_info.extend(
            helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in own
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=11, producer_name="nanorecsys"
        )


def fused_tower(encoder: UserEncoder, *, by_row: bool = False) -> onnx.ModelProto:
    """The encoder as one ONNX graph in single precision, the last layer at the last position only.

    Args:
        by_row: divide what goes into the last product of each feed-forward by the largest of its
            position, and multiply what comes out. It changes nothing here, and what int8 makes of
            it: what a gate lets through has outliers at some positions, and one scale for all of
                them leaves the others few steps.

    Returns:
        a model with the inputs items int64 (B, L) and lengths int64 (B,), as `UserEncoder.forward`
        has them, and the output vectors float32 (B, d).
    """
    config, tower = encoder.tower.config, encoder.tower
    g = Graph()
    one = g.weight("one", np.ones(1, np.int64))
    table = encoder.table * config.d**0.5  # as `UserTower.begin` scales it
    x = g.add("Gather", g.weight("table", table), "items")
    if tower.positions is None:
        rotate, project = _rotary(g, encoder), _looked_up(g, table, tower.blocks[0])
    else:
        x, rotate = _add_positions(g, x, tower.positions), _as_it_is
        project = _multiplied(
            g, g.norm(x, "norm_0", tower.blocks[0].attention_norm), 0, tower.blocks[0]
        )
    for i, block in enumerate(tower.blocks):
        k, v = rotate(project("key"), None), project("value")
        if block is tower.blocks[-1]:
            end = g.add("Unsqueeze", g.add("Sub", "lengths", one), one)  # (B, 1)
            x = _take(g, x, end, config.d)
            q = rotate(project("query", end), end)
            # This one takes counts of keys: what lies beyond a history's end, in a batch of unequal
            # ones, is hidden.
            seen = "", g.add("Cast", "lengths", to=TensorProto.INT32)
            a = g.add(
                "MultiHeadAttention", q, k, v, *seen, domain=MICROSOFT, num_heads=config.heads
            )
        else:
            q = rotate(project("query"), None)
            a = g.add(
                "Attention",
                q,
                k,
                v,
                q_num_heads=config.heads,
                kv_num_heads=config.heads,
                is_causal=1,
            )
        x, h = g.add_and_norm(
            x, g.matmul(a, f"out_{i}", block.out), f"feed_forward_{i}", block.feed_forward_norm
        )
        following = tower.norm if block is tower.blocks[-1] else tower.blocks[i + 1].attention_norm
        x, h = g.add_and_norm(x, feed_forward(g, h, i, block, by_row), f"norm_{i + 1}", following)
        if block is not tower.blocks[-1]:
            project = _multiplied(g, h, i + 1, tower.blocks[i + 1])
    vectors = g.add("Squeeze", g.add("LpNormalization", h, axis=-1, p=2), one)
    inputs = {"items": (TensorProto.INT64, ["B", "L"]), "lengths": (TensorProto.INT64, ["B"])}
    return g.model(inputs, ("vectors", ["B", config.d]), vectors)


def _looked_up(g: Graph, table: Tensor, block: Block) -> Callable[..., str]:
    """The first layer's projections of every item, to be read by number."""

    def project(name: str, end: str | None = None) -> str:
        with torch.no_grad():
            rows = getattr(block, name)(block.attention_norm(table))
        value = g.add("Gather", g.weight(f"{name}_0", rows), "items")
        return _take(g, value, end, rows.shape[1]) if end else value

    return project


def _multiplied(g: Graph, h: str, i: int, block: Block) -> Callable[..., str]:
    """A layer's projections of its normed input `h` (B, L, d), at all positions or at `end` (B, 1) only."""

    def project(name: str, end: str | None = None) -> str:
        layer = getattr(block, name)
        return g.matmul(_take(g, h, end, layer.in_features) if end else h, f"{name}_{i}", layer)

    return project


def _add_positions(g: Graph, x: str, positions: Tensor) -> str:
    """The learned vectors of the first L positions on top of x (B, L, d)."""
    start, one = g.weight("start", np.zeros(1, np.int64)), g.weight("one", np.ones(1, np.int64))
    length = g.add("Gather", g.add("Shape", "items"), one)
    return g.add("Add", x, g.add("Slice", g.weight("positions", positions), start, length))


def _rotary(g: Graph, encoder: UserEncoder) -> Callable[[str, str | None], str]:
    """Rotation of (B, L, d) by position: 0, 1, ... where no positions int64 (B, L) are given."""
    tower, heads = encoder.tower, encoder.tower.config.heads
    half = encoder.tower.config.d // heads // 2
    cos, sin = (g.weight(name, getattr(tower, name)[:, 0, :half]) for name in ("cos", "sin"))
    start = g.weight("start", np.zeros(1, np.int64))

    def rotate(x: str, positions: str | None) -> str:
        return g.add(
            "RotaryEmbedding", x, positions or start, cos, sin, domain=MICROSOFT, num_heads=heads
        )

    return rotate


def _as_it_is(x: str, positions: str | None) -> str:
    return x


def _take(g: Graph, x: str, position: str, d: int) -> str:
    """(B, L, d) at positions (B, 1): (B, 1, d)."""
    last = g.weight("last_axis", np.full(1, 2))
    wide = g.add(
        "Expand", g.add("Unsqueeze", position, last), g.weight("wide", np.array([1, 1, d]))
    )
    return g.add("GatherElements", x, wide, axis=1)


def feed_forward(g: Graph, h: str, i: int, block: Block, by_row: bool = False) -> str:
    """SwiGLU; QuickGelu with alpha 1 is x sigma(x). See `fused_tower` for `by_row`."""
    gate = g.add("QuickGelu", g.matmul(h, f"gate_{i}", block.gate), domain=MICROSOFT, alpha=1.0)
    h = g.add("Mul", gate, g.matmul(h, f"up_{i}", block.up))
    if not by_row:
        return g.matmul(h, f"down_{i}", block.down)
    largest = g.add(
        "ReduceMax", g.add("Abs", h), g.weight("last_axis", np.full(1, 2)), keepdims=1
    )  # (B, L, 1)
    largest = g.add("Max", largest, g.weight("least", np.float32(1e-9)))
    return g.add("Mul", g.matmul(g.add("Div", h, largest), f"down_{i}", block.down), largest)
