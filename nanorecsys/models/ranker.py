"""The ranker: a small network that puts the retriever's candidates in order."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from nanorecsys.models.errors import ModelError
from nanorecsys.system.files import atomic_path

# Columns of `item_features` before the genres.
POPULARITY, YEAR, NO_YEAR = 0, 1, 2


@dataclass(frozen=True)
class RankerConfig:
    """Sizes of the ranker.

    Args:
        d: size of the retriever's vectors.
        features: columns of `item_features`.
        hidden: widths of the hidden layers.
        dropout: after each of them.
        temperature: the retriever's.
    """

    d: int
    features: int
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    temperature: float = 0.1


def item_features(items: pd.DataFrame, counts: np.ndarray, genres: Sequence[str]) -> np.ndarray:
    """What the ranker knows of an item beside its vector, float32 (n_items, 3 + len(genres)).

    Popularity is log(1 + events) over that of the most popular item, the year is (year - 1980) /
    20, 0 where it is unknown and then flagged.

    Args:
        items: one row an item with year and genres, see `nanorecsys.data.Dataset`.
        counts: int (n_items,), events of training.
        genres: names of the last columns.
    """
    popularity = np.log1p(counts) / max(np.log1p(counts.max(initial=0)), 1e-9)
    years = items["year"].to_numpy(np.float32, na_value=np.nan)
    columns = [popularity, np.nan_to_num((years - 1980) / 20), np.isnan(years)]
    columns += [np.array([genre in found for found in items["genres"]]) for genre in genres]
    return np.stack(columns, 1).astype(np.float32)


class Ranker(nn.Module):
    """score(u, v, f) = u . v / temperature + MLP(u, v, u * v, f, is_unknown)

    The first term is the retriever's own logit: the network starts from its order and learns what
    to change. The first layer is one matrix over the parts of its input, and meets the user once,
    not once a candidate.
    """

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        first = config.hidden[0]
        self.user = nn.Linear(config.d, first)
        self.item = nn.Linear(config.d, first, bias=False)
        self.product = nn.Linear(config.d, first, bias=False)
        self.features = nn.Linear(config.features + 1, first, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(config.hidden, config.hidden[1:], strict=False)
        )
        self.out = nn.Linear(config.hidden[-1], 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, users: Tensor, items: Tensor, features: Tensor, unknown: Tensor) -> Tensor:
        """Scores of candidates (B, C); where all users have the same, the item side may have a batch of 1.

        Args:
            users: unit vectors (B, D).
            items: unit vectors (B, C, D); of an unknown item the one that its content gives.
            features: (B, C, F), see `item_features`; the popularity of an unknown item is 0.
            unknown: (B, C), 1 where training has not met the item, else 0.
        """
        # Unit vectors have entries of about d ** -1/2: bring them to the size of the features.
        scale = self.config.d**0.5
        product = users[:, None] * items  # (B, C, D)
        extra = torch.cat([features, unknown[..., None]], -1)
        h = (
            self.user(users * scale)[:, None]
            + self.item(items * scale)
            + self.product(product * scale**2)
        )
        h = self.dropout(functional.relu(h + self.features(extra)))
        for layer in self.hidden:
            h = self.dropout(functional.relu(layer(h)))
        return product.sum(-1) / self.config.temperature + self.out(h)[..., 0]


@dataclass(frozen=True)
class ItemSide:
    """What the ranker reads of the items: float32 (n_items, D), (n_items, D) and (n_items, F); bool (n_items,)."""

    vectors: Tensor
    content_vectors: Tensor
    features: Tensor
    known: Tensor

    def read(self, items: Tensor, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of the ranker for items (B, C), some of them as if training had never met them.

        Args:
            items: int64 (B, C).
            masked: bool (B, C).
        """
        unknown = masked | ~self.known[items]
        vectors = torch.where(unknown[..., None], self.content_vectors[items], self.vectors[items])
        features = self.features[items]
        features[..., POPULARITY].masked_fill_(unknown, 0)
        return vectors, features, unknown.float()


@dataclass(frozen=True)
class FittedRanker:
    """A trained ranker in evaluation mode, what it reads, and its curve (epoch, loss)."""

    ranker: Ranker
    items: ItemSide
    genres: tuple[str, ...]
    curve: pd.DataFrame


def save_ranker(path: Path, fitted: FittedRanker) -> None:
    """Write the ranker and what it reads as one file."""
    state = {"config": asdict(fitted.ranker.config), "weights": fitted.ranker.state_dict()}
    state |= {
        "items": vars(fitted.items),
        "genres": list(fitted.genres),
        "curve": fitted.curve.to_dict("records"),
    }
    with atomic_path(path) as part:
        torch.save(state, part)


def load_ranker(path: Path) -> FittedRanker:
    """The ranker that `save_ranker` wrote, in evaluation mode.

    Raises:
        ModelError: there is no such file, or it is damaged.
    """
    try:
        state = torch.load(path, weights_only=True)
        ranker = Ranker(RankerConfig(**state["config"]))
        ranker.load_state_dict(state["weights"])
        items = ItemSide(**state["items"])
        return FittedRanker(
            ranker.eval(), items, tuple(state["genres"]), pd.DataFrame(state["curve"])
        )
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ModelError(
            f"{path} is not a saved ranker: {error}", "Run the training chapter again."
        ) from error
