"""The ranker: a small network that puts the retriever's candidates in order."""

from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from nanorecsys.models.errors import ModelError
from nanorecsys.system.files import atomic_path

# Column of `item_features`, before the year, its flag and the genres.
POPULARITY = 0


@dataclass(frozen=True)
class RankerConfig:
    """Sizes of the ranker.

    Args:
        d: Size of the retriever's vectors.
        features: Number of columns of `item_features`.
        hidden: Widths of the hidden layers.
        dropout: Dropout after each hidden layer.
        temperature: Temperature of the retriever.
    """

    d: int
    features: int
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.2
    temperature: float = 0.1


def item_features(items: pd.DataFrame, counts: np.ndarray) -> np.ndarray:
    """The ranker's input about an item beside its vector, float32 (n_items, 3 + genres).

    Popularity is log(1 + events) over that of the most popular item. The year is (year - 1980) /
    20, or 0 and a flag where it is unknown.

    Args:
        items: One row per item with year and genres, see `nanorecsys.data.Dataset`.
        counts: Training events of each item, int (n_items,).
    """
    popularity = np.log1p(counts) / max(np.log1p(counts.max(initial=0)), 1e-9)
    years = items["year"].to_numpy(np.float32, na_value=np.nan)
    columns = [popularity, np.nan_to_num((years - 1980) / 20), np.isnan(years)]
    genres = sorted(set(chain.from_iterable(items["genres"])))
    columns += [np.array([genre in found for found in items["genres"]]) for genre in genres]
    return np.stack(columns, 1).astype(np.float32)


class Ranker(nn.Module):
    """score(u, v, f) = u . v / temperature + MLP(u, v, u * v, f, is_unknown)

    The first term is the retriever's own logit, so the network starts from the retriever's order
    and learns corrections. The first layer is split by the parts of its input: the user's part is
    computed once, not once per candidate.
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
        """Scores of candidates (B, C).

        Where all users have the same candidates, the item side may have a batch of 1.

        Args:
            users: Unit vectors (B, D).
            items: Unit vectors (B, C, D); for an unknown item the vector of its content.
            features: See `item_features`, (B, C, F); the popularity of an unknown item is 0.
            unknown: 1 where the item has no training events, else 0, (B, C).
        """
        # The entries of unit vectors are about d ** -1/2: scale them to the size of the features.
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
    """The ranker's input about the items."""

    vectors: Tensor  # float32 (n_items, D)
    content_vectors: Tensor  # float32 (n_items, D)
    features: Tensor  # float32 (n_items, F)
    known: Tensor  # bool (n_items,)

    def read(self, items: Tensor, masked: Tensor | bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors, features and unknown flags of some items, see `Ranker.forward`.

        Args:
            items: int64 (B, C).
            masked: Whether to treat the item as unknown, bool (B, C) or one for all.
        """
        unknown = ~self.known[items] | masked
        vectors = torch.where(unknown[..., None], self.content_vectors[items], self.vectors[items])
        features = self.features[items]
        features[..., POPULARITY].masked_fill_(unknown, 0)
        return vectors, features, unknown.float()


@dataclass(frozen=True)
class FittedRanker:
    """A trained ranker in evaluation mode, and its input."""

    ranker: Ranker
    items: ItemSide


def save_ranker(path: Path, fitted: FittedRanker) -> None:
    """Write the ranker and its input as one file."""
    state = {
        "config": asdict(fitted.ranker.config),
        "weights": fitted.ranker.state_dict(),
        "items": vars(fitted.items),
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
        return FittedRanker(ranker.eval(), items)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise ModelError(
            f"{path} is not a saved ranker: {error}", "Run the training chapter again."
        ) from error
