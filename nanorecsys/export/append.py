"""Appending one event to a user whose state is kept: the keys and values of every layer.

A new event attends to the earlier ones, and none of them to it: their keys and values stay as they
are, and only those of the new event are computed. While all events fit the window this is the full
encode, to rounding. Then it is not: the full encode forgets what has left the window, but the keys
and values that are kept were computed when they still saw it. How far the two drift apart is
measured.

One graph serves both: a whole history is what is appended to an empty state. Keys are kept as they
are rotated, and rotary positions depend on differences only, so positions are free to grow.

Using a state takes no torch, only its export does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from nanorecsys.data import Histories
from nanorecsys.export.errors import ExportError
from nanorecsys.serving.encoder import Encode, session

if TYPE_CHECKING:
    from onnx import ModelProto

    from nanorecsys.models.retriever import RetrieverConfig, UserEncoder

# Positions that the graph has rotations for, 2 MB at 32 values a head. A full encode starts again
# from 0.
LONGEST = 16_384


def step_tower(encoder: "UserEncoder") -> "ModelProto":
    """The encoder over new events only, as one ONNX graph in single precision.

    Returns:
        a model with the inputs items and positions, both int64 (B, L), and for each layer i keys_i
        and values_i (B, heads, P, d / heads), of the earlier events in any order, P = 0 allowed;
        and the outputs vectors (B, d), new_keys and new_values (layers, B, heads, L, d / heads).

    Raises:
        ExportError: positions are absolute.
    """
    # They bring torch, which what serves does without.
    from onnx import TensorProto, helper

    from nanorecsys.export.graph import MICROSOFT, Graph, feed_forward

    config, tower = encoder.tower.config, encoder.tower
    if config.positions != "rotary":
        raise ExportError(
            f"a state with {config.positions} positions cannot slide: they count from the first event of the window",
            'Train with positions="rotary".',
        )
    size = config.d // config.heads
    angle = np.outer(np.arange(LONGEST), 1e4 ** (-np.arange(0, size, 2) / size))
    g = Graph()
    cos, sin = (
        g.weight("cos", np.cos(angle).astype(np.float32)),
        g.weight("sin", np.sin(angle).astype(np.float32)),
    )
    last, end, one = (
        g.weight(name, np.array([n])) for name, n in (("last", -1), ("end", 2**31), ("one", 1))
    )

    def rotate(x: str) -> str:
        return g.add(
            "RotaryEmbedding", x, "positions", cos, sin, domain=MICROSOFT, num_heads=config.heads
        )

    # The table comes scaled as the tower scales its input.
    x = g.add("Gather", g.weight("table", encoder.table * config.d**0.5), "items")
    h = g.norm(x, "norm_0", tower.blocks[0].attention_norm)
    after = [*(block.attention_norm for block in tower.blocks[1:]), tower.norm]
    new = {"new_keys": [], "new_values": []}
    for i, (block, next_norm) in enumerate(zip(tower.blocks, after, strict=True)):
        q, k = (
            rotate(g.matmul(h, f"{name}_{i}", getattr(block, name))) for name in ("query", "key")
        )
        v = g.matmul(h, f"value_{i}", block.value)
        new["new_keys"].append(k)
        new["new_values"].append(v)
        a = f"attended_{i}"
        inputs = [q, k, v, "", "", "", f"keys_{i}", f"values_{i}"]
        # It takes past keys only where it may return them with the new ones, which nobody reads.
        outputs = [a, f"present_keys_{i}", f"present_values_{i}"]
        options = {"domain": MICROSOFT, "num_heads": config.heads, "unidirectional": 1}
        g.nodes.append(helper.make_node("MultiHeadAttention", inputs, outputs, name=a, **options))
        if block is tower.blocks[-1]:
            # Of the last layer only the last place is read.
            x, a = (g.add("Slice", value, last, end, one) for value in (x, a))
        x, h = g.add_and_norm(
            x, g.matmul(a, f"out_{i}", block.out), f"feed_forward_{i}", block.feed_forward_norm
        )
        x, h = g.add_and_norm(x, feed_forward(g, h, i, block), f"norm_{i + 1}", next_norm)
    split = g.weight("split", np.array([0, 0, config.layers, config.heads, size]))
    for name, parts in new.items():
        layers = g.add(
            "Reshape", g.add("Concat", *parts, axis=-1), split
        )  # (B, L, layers, heads, d / heads)
        g.nodes.append(
            helper.make_node("Transpose", [layers], [name], name=name, perm=[2, 0, 3, 1, 4])
        )
    vectors = g.add("Squeeze", g.add("LpNormalization", h, axis=-1, p=2), one)

    past = [f"{name}_{i}" for name in ("keys", "values") for i in range(config.layers)]
    inputs = {name: (TensorProto.INT64, ["B", "L"]) for name in ("items", "positions")}
    inputs |= {name: (TensorProto.FLOAT, ["B", config.heads, "P", size]) for name in past}
    model = g.model(inputs, ("vectors", ["B", config.d]), vectors)
    shape = [config.layers, "B", config.heads, "L", size]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in new
    )
    return model


@dataclass
class State:
    """What is kept of users who have seen equally many events, B of them.

    Args:
        keys, values: float32 (layers, B, heads, P, d / heads), of the last P events, at most a
        window less one.
        position: of the next event.
        oldest: the slot among the P of the event that is the first to be forgotten.
    """

    keys: np.ndarray
    values: np.ndarray
    position: int
    oldest: int = 0


class Appender:
    """Users' vectors one event at a time.

    Args:
        model: what `step_tower` gives, written to a file or as bytes; int8 is fine.
        window: events that count, the last ones.
        threads: for one operator.
    """

    def __init__(self, model: Path | bytes, window: int, threads: int = 1) -> None:
        self.session = session(model, threads)
        self.window = window
        past = [value for value in self.session.get_inputs() if value.name.startswith("keys_")]
        self.layers, (_, self.heads, _, self.size) = len(past), past[0].shape

    def prefill(self, items: np.ndarray) -> tuple[np.ndarray, State]:
        """Encode whole histories.

        Args:
            items: int64 (B, L), vocabulary numbers (item + 1); of more than a window the last ones
                count. L = 0 is allowed.

        Returns:
            unit vectors float32 (B, d), and the state.
        """
        items = items[:, -self.window :]
        batch, length = items.shape
        empty = np.empty((self.layers, batch, self.heads, 0, self.size), np.float32)
        if not length:
            # The vector of an empty history is that of the padding, which no later event sees.
            return self._run(np.zeros((batch, 1), np.int64), State(empty, empty, 0))[0], State(
                empty, empty, 0
            )
        vectors, keys, values = self._run(items, State(empty, empty, 0))
        first = max(0, length - self.window + 1)
        keys, values = (np.ascontiguousarray(kept[:, :, :, first:]) for kept in (keys, values))
        return vectors, State(keys, values, length)

    def append(self, state: State, items: np.ndarray) -> np.ndarray:
        """Vectors after one more event of each user, float32 (B, d); `state` is then theirs.

        Args:
            items: int64 (B,), vocabulary numbers.

        Raises:
            ExportError: the state has seen too many events.
        """
        if state.position >= LONGEST:
            raise ExportError(
                f"the state is at event {state.position}, rotations reach to {LONGEST}",
                "Encode the window anew.",
            )
        vectors, keys, values = self._run(items[:, None], state)
        room = self.window - 1  # the next event is one of the window
        if state.keys.shape[3] < room:
            state.keys = np.concatenate([state.keys, keys], 3)
            state.values = np.concatenate([state.values, values], 3)
        elif room:
            # Attention does not ask for the order of its keys, so nothing has to move.
            state.keys[:, :, :, state.oldest] = keys[:, :, :, 0]
            state.values[:, :, :, state.oldest] = values[:, :, :, 0]
            state.oldest = (state.oldest + 1) % room
        state.position += 1
        return vectors

    def _run(self, items: np.ndarray, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions = np.broadcast_to(state.position + np.arange(items.shape[1]), items.shape)
        past = {f"keys_{i}": keys for i, keys in enumerate(state.keys)}
        past |= {f"values_{i}": values for i, values in enumerate(state.values)}
        return tuple(
            self.session.run(
                None, {"items": items, "positions": np.ascontiguousarray(positions), **past}
            )
        )


def state_bytes(config: "RetrieverConfig", length: int) -> int:
    """Bytes of the state of one user after `length` events, keys and values in single precision."""
    return 2 * 4 * config.layers * config.d * min(length, config.window - 1)


def append_timings(
    appender: Appender,
    encode: Encode,
    n_items: int,
    lengths: Sequence[int],
    *,
    repeats: int = 30,
    seed: int = 0,
) -> pl.DataFrame:
    """Raw timings of one user's update, all ways in turn: one row a call: variant, length, repeat, ms.

    "append" is one more event with the state kept, the update of the state included; "full encode"
    is `encode`; and "prefill" is the full encode that leaves a state. All end at the same history.

    Args:
        n_items: histories are random items of so many.
        lengths: of the history with its new event; of more than a window the last events count.
        repeats: of each length, after one that warms up and is not counted.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        items = rng.integers(1, n_items + 1, (1, length))
        recent = np.ascontiguousarray(items[:, -appender.window :])
        kept = np.array([recent.shape[1]])
        _, before = appender.prefill(items[:, :-1])
        for repeat in range(-1, repeats):
            state = replace(before)
            ways = {
                "append": lambda state=state, item=items[:, -1]: appender.append(state, item),
                "prefill": lambda recent=recent: appender.prefill(recent),
                "full encode": lambda recent=recent, kept=kept: encode(recent, kept),
            }
            for variant in rng.permutation(list(ways)).tolist():
                start = time.perf_counter_ns()
                ways[variant]()
                ms = (time.perf_counter_ns() - start) / 1e6
                rows.append({"variant": variant, "length": length, "repeat": repeat, "ms": ms})
    return pl.DataFrame(rows).filter(pl.col("repeat") >= 0)


def append_drift(
    appender: Appender,
    encode: Encode,
    histories: Histories,
    *,
    start: int | None = None,
    at: Sequence[int] = (0, 1, 2, 5, 10, 20, 50, 100, 200),
    users: int = 32,
    seed: int = 0,
) -> pl.DataFrame:
    """How far appended vectors are from those of a full encode of the last window.

    Args:
        histories: of the users; the last events of those who have enough are used.
        start: events of the full encode that the state begins with; a window by default.
        at: numbers of events appended since, at which the two are compared.
        users: at most so many, drawn at random.

    Returns:
        one row a user and number: user; appended; forgotten, events that have left the window
        since; cosine.

    Raises:
        ExportError: no user has enough events.
    """
    start = appender.window if start is None else start
    needed = start + max(at)
    enough = np.flatnonzero(histories.lengths >= needed)
    if not len(enough):
        raise ExportError(
            f"no user has {needed} events, the longest history has {histories.lengths.max(initial=0)}",
            "Append fewer, or start with fewer.",
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(enough)[:users])
    items = (
        histories.items[histories.offsets[chosen + 1, None] + np.arange(-needed, 0)].astype(
            np.int64
        )
        + 1
    )
    vectors, state = appender.prefill(items[:, :start])
    rows = []
    for appended in range(max(at) + 1):
        if appended:
            vectors = appender.append(state, items[:, start + appended - 1])
        if appended in at:
            seen = items[:, max(0, start + appended - appender.window) : start + appended]
            full = encode(np.ascontiguousarray(seen), np.full(len(chosen), seen.shape[1]))
            forgotten = max(0, start + appended - appender.window) - max(0, start - appender.window)
            rows.append(
                pl.DataFrame({"user": chosen, "cosine": (vectors * full).sum(1)}).with_columns(
                    appended=pl.lit(appended, pl.Int64), forgotten=pl.lit(forgotten, pl.Int64)
                )
            )
    return pl.concat(rows).select("user", "appended", "forgotten", "cosine")
