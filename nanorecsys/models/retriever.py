"""The retriever: a causal transformer over a user's items, and the table of the items' vectors.

Both sides are unit vectors, so a score is their inner product, and the logit is `score /
temperature`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nanorecsys.models.errors import ModelError
from nanorecsys.models.items import ItemContent, ItemTable
from nanorecsys.system.files import atomic_path

Rotation = tuple[Tensor, Tensor]  # cosines and sines of the positions' angles


@dataclass(frozen=True)
class RetrieverConfig:
    """Every size of the retriever; the defaults are the study shape.

    Args:
        d: Size of the vectors.
        layers, heads, hidden: Sizes of the transformer; `hidden` is the width of its SwiGLU.
        window: Number of events that are read, the last ones of a longer history.
        dropout: Dropout on the input and on the output of each half block.
        content: Whether items have content beside their ids.
        id_dropout: See `ItemTable.forward`.
        temperature: Divisor of the inner products before the softmax.
    """

    d: int = 256
    layers: int = 4
    heads: int = 8
    hidden: int = 1024
    window: int = 200
    dropout: float = 0.3
    content: bool = True
    id_dropout: float = 0.1
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.d % (2 * self.heads):
            raise ModelError(
                f"d = {self.d} cannot be cut into {self.heads} even heads",
                "Make d a multiple of 2 x heads.",
            )
        if min(self.layers, self.hidden, self.window) < 1:
            raise ModelError("layers, hidden and window must be at least 1", "Raise the others.")


class Block(nn.Module):
    """Pre-norm attention and SwiGLU (Shazeer 2020, GLU variants improve transformer), no biases."""

    def __init__(self, config: RetrieverConfig) -> None:
        super().__init__()
        d = config.d
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.RMSNorm(d)
        self.feed_forward_norm = nn.RMSNorm(d)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(d, config.hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(config.hidden, d, bias=False)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Tensor | None, last: Tensor | None = None
    ) -> Tensor:
        """One layer at every position, or at one position of each row.

        Args:
            x: (B, L, D).
            rotation: Cosines and sines (L, 1, D / heads).
            mask: Additive mask (B, 1, L, L); None for plain causal attention.
            last: The one position, which attends to all up to itself, int64 (B, 1, 1).

        Returns:
            (B, L, D), or (B, 1, D) at one position.
        """
        h = self.attention_norm(x)
        k, v = rotate(self.heads_of(self.key(h)), *rotation), self.heads_of(self.value(h))
        if last is not None:
            x, h = (t.gather(1, last.expand(-1, 1, t.shape[-1])) for t in (x, h))
            rotation = rotation[0][last[:, 0]], rotation[1][last[:, 0]]  # (B, 1, 1, D / heads)
            seen = torch.arange(k.shape[1], device=k.device) <= last  # (B, 1, L)
            mask = torch.where(seen[:, None], 0.0, -torch.inf).to(v.dtype)  # (B, 1, 1, L)
        q = rotate(self.heads_of(self.query(h)), *rotation)
        x = x + dropout(self.out(attend(q, k, v, mask, self.training)), self.dropout, self.training)
        h = self.feed_forward_norm(x)
        h = self.down(functional.silu(self.gate(h)) * self.up(h))
        return x + dropout(h, self.dropout, self.training)

    def heads_of(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, heads, D / heads)."""
        return x.unflatten(-1, (self.heads, -1))


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout that is faster on a CPU: `p` is rounded to 256ths, with one random byte per element.

    PyTorch draws a random number per element, on one thread. That takes four times as long, a sixth
    of a training step.
    """
    if x.device.type != "cpu" or not training or p == 0:
        return functional.dropout(x, p, training)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None)  # all 64 bits
    dropped = min(round(256 * p), 255)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * keep.to(x.dtype).mul_(256 / (256 - dropped))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of x (B, L, heads, D / heads) by their position's angles."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, training: bool) -> Tensor:
    """Causal attention, or under an additive mask: three (B, L, heads, D / heads) -> (B, L, D)."""
    q, k, v = (t.to(v.dtype).transpose(1, 2) for t in (q, k, v))  # (B, heads, L, D / heads)
    if training and mask is not None and q.device.type == "cpu":
        # PyTorch's fused backward pass takes 2.3 times as long there.
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3) + mask).softmax(-1)
        attended = weights.to(v.dtype) @ v
    else:
        attended = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
    return attended.transpose(1, 2).flatten(2)


class UserTower(nn.Module):
    """From the vectors of a user's items to the vector of the user.

    Positions are rotary (Su et al. 2021, RoFormer).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: RetrieverConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d)
        size = config.d // config.heads
        frequencies = 1e4 ** (-torch.arange(0, size, 2) / size)
        angle = torch.outer(torch.arange(config.window).float(), frequencies)
        angle = torch.cat([angle, angle], -1)[:, None]  # (window, 1, D / heads)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # Additions to the residual stream start smaller, the more layers there are (GPT-2).
                small = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * config.layers) ** 0.5 if small else 0.02)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Users' vectors; the last layer is computed only at the end of each history.

        Args:
            x: Unit vectors of the items, (B, L, D) with L <= window; histories are left-aligned.
            lengths: Lengths from 1 to L, int64 (B,). Items beyond a length have no effect.

        Returns:
            unit vectors (B, D).
        """
        x, rotation = self.begin(x)
        for block in self.blocks[:-1]:
            x = block(x, rotation, None)
        x = self.blocks[-1](x, rotation, None, last=lengths[:, None, None] - 1)
        return self.end(x)[:, 0]

    def everywhere(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        """Vectors at every position of rows that hold several histories each.

        Args:
            x: Unit vectors of the items, (B, L, D).
            segments: int64 (B, L), non-decreasing; a position attends only to positions of the same
                segment, up to itself. None if a row is one history.

        Returns:
            unit vectors (B, L, D).
        """
        mask = None
        if segments is not None:
            place = torch.arange(x.shape[1], device=x.device)
            same = segments[:, :, None] == segments[:, None]  # (B, L, L)
            visible = same & (place[:, None] >= place)
            autocast = torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
            mask = torch.where(visible[:, None], 0.0, -torch.inf).to(dtype)
        x, rotation = self.begin(x)
        for block in self.blocks:
            x = block(x, rotation, mask)
        return self.end(x)

    def begin(self, x: Tensor) -> tuple[Tensor, Rotation]:
        """The residual stream (B, L, D) and the rotations."""
        x = x * self.config.d**0.5  # unit vectors get a mean square of 1
        rotation = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        return dropout(x, self.config.dropout, self.training), rotation

    def end(self, x: Tensor) -> Tensor:
        return functional.normalize(self.norm(x).float(), dim=-1)


class UserEncoder(nn.Module):
    """The model that is exported and served: item numbers in, user vectors out.

    Args:
        tower: The user tower.
        table: Unit vectors of the vocabulary (n_items + 1, d), see `ItemTable`.
    """

    table: Tensor

    def __init__(self, tower: UserTower, table: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.register_buffer("table", table)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Users' unit vectors (B, D).

        Args:
            items: Vocabulary numbers (item + 1), left-aligned, 0 beyond the length, int64 (B, L).
                An empty history is one 0 with length 1.
            lengths: int64 (B,).
        """
        return self.tower(functional.embedding(items, self.table), lengths)


class Retriever(nn.Module):
    """Item table and user tower, trained together.

    Args:
        config: Sizes.
        known: Whether an item has training events, bool (n_items,).
        content: Features of the items, needed with `config.content`.
    """

    def __init__(
        self, config: RetrieverConfig, known: np.ndarray, content: ItemContent | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.items = ItemTable(known, config.d, content)
        self.tower = UserTower(config)

    def forward(self, items: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors at every position and of every item, for training.

        Args:
            items: Vocabulary numbers, int64 (B, L).
            segments: See `UserTower.everywhere`, int64 (B, L).

        Returns:
            unit vectors (B, L, D) and (n_items + 1, D).
        """
        table = self.items(self.config.id_dropout if self.training else 0.0)
        return self.tower.everywhere(functional.embedding(items, table), segments), table

    @torch.no_grad()
    def item_vectors(self, content_only: bool = False) -> np.ndarray:
        """Unit vectors of the items, float32 (n_items, d), without the padding.

        Args:
            content_only: Whether to leave out the ids.
        """
        table = self.items.content_only() if content_only else self.items()
        return table[1:].cpu().numpy()

    @torch.no_grad()
    def encoder(self) -> UserEncoder:
        """The user encoder with the current table, in evaluation mode; it shares the tower."""
        return UserEncoder(self.tower, self.items()).eval()


class EveryPosition(nn.Module):
    """The encoder of the earlier benchmark, which computes all layers at every position.

    Args:
        encoder: The user encoder; the weights are shared.
    """

    def __init__(self, encoder: UserEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Users' unit vectors (B, D).

        Args:
            items: Vocabulary numbers, padded on the right, int64 (B, window).
            lengths: int64 (B,).
        """
        x = self.encoder.tower.everywhere(functional.embedding(items, self.encoder.table))
        return x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]


def save_retriever(path: Path, model: Retriever) -> None:
    """Write weights, sizes and content as one file."""
    state = {
        "config": asdict(model.config),
        "weights": model.state_dict(),
        "content": model.items.content and vars(model.items.content),
    }
    with atomic_path(path) as part:
        torch.save(state, part)


def load_retriever(path: Path) -> Retriever:
    """The model that `save_retriever` wrote, on the CPU and in evaluation mode.

    Raises:
        ModelError: there is no such file, or it is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        content = state["content"] and ItemContent(**state["content"])
        known = state["weights"]["items.keep"][1:, 0].numpy()
        model = Retriever(RetrieverConfig(**state["config"]), known, content)
        model.load_state_dict(state["weights"])
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ModelError(
            f"{path} is not a saved retriever: {error}", "Run the training chapter again."
        ) from error
    return model.eval()
