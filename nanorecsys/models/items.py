"""The item table: one unit vector per item, shared by input and output of the retriever."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

# Width of a year bin: a single year has too few films, a decade too different ones.
YEAR_BIN = 5
# A word of a single title adds nothing to the item's id.
MIN_TITLES = 2
# Runs of letters, digits and apostrophes.
WORD = re.compile(r"(?:[^\W_]|')+")
YEAR = re.compile(r"[0-9]{4}")
# Initial spread of the vectors. Rows are normalised, so the smaller the vectors, the faster they
# turn at the same learning rate. Ids start smaller than content, so that content is learned first.
CONTENT_SCALE = 0.05
ID_SCALE = 0.01


@dataclass(frozen=True)
class ItemContent:
    """The features of every item, as compressed sparse rows.

    Item i has `features[offsets[i]:offsets[i + 1]]`, which may be empty.

    Args:
        offsets: int64 (n_items + 1,).
        features: Numbers of features, int64 (n,).
        names: Names of the features, such as "genre:Comedy", "year:1995", "word:toy".
    """

    offsets: Tensor
    features: Tensor
    names: tuple[str, ...]


def item_content(items: pd.DataFrame) -> ItemContent:
    """Genres, five-year bins, and those words of the titles that more than one title has.

    Args:
        items: One row per item, with the columns title (str), year (int or null) and genres (lists
            of str), as in `nanorecsys.data.Dataset`.

    Example:
        >>> frame = pd.DataFrame(
        ...     {
        ...         "title": ["Toy Story (1995)", "Toy Story 2 (1999)"],
        ...         "year": [1995, None],
        ...         "genres": [["Comedy"], []],
        ...     }
        ... )
        >>> item_content(frame).names
        ('genre:Comedy', 'word:story', 'word:toy', 'year:1995')
    """
    words = [set(WORD.findall(title.lower())) for title in items["title"]]
    titles_with = Counter(chain.from_iterable(words))
    # The year in a title is not a word: there is a separate feature for it.
    shared = {w for w, n in titles_with.items() if n >= MIN_TITLES and not YEAR.fullmatch(w)}
    features = []  # one sorted list per item
    for year, genres, found in zip(items["year"], items["genres"], words, strict=True):
        names = {f"genre:{genre}" for genre in genres} | {f"word:{w}" for w in found & shared}
        if not pd.isna(year):
            names.add(f"year:{int(year) // YEAR_BIN * YEAR_BIN}")
        features.append(sorted(names))
    offsets = np.cumsum([0, *map(len, features)], dtype=np.int64)
    vocabulary, numbers = np.unique([*chain.from_iterable(features)], return_inverse=True)
    return ItemContent(
        torch.from_numpy(offsets), torch.from_numpy(numbers), tuple(vocabulary.tolist())
    )


class ItemTable(nn.Module):
    """Unit vectors of the vocabulary: row 0 is padding, item i is row i + 1.

    A row is the direction of `id + content`: the learned vector of the id, plus the sum of the
    learned vectors of the item's features over the square root of their number. Training drops
    whole ids at random, so that the content alone has to place an item. An item without training
    events never gets an id. An empty history consists of the padding.

    Args:
        known: Whether an item has training events, bool (n_items,).
        d: Size of a vector.
        content: Features of the items; None for ids alone.
    """

    keep: Tensor
    offsets: Tensor
    bags: Tensor
    scale: Tensor

    def __init__(self, known: np.ndarray, d: int, content: ItemContent | None) -> None:
        super().__init__()
        self.content = content
        spread = ID_SCALE if content else CONTENT_SCALE
        self.ids = nn.Parameter(torch.randn(len(known) + 1, d) * spread)
        self.features: nn.Parameter | None = None
        counts = content.offsets.diff().numpy() if content else np.zeros(len(known), np.int64)
        # An item without features keeps its id, or nothing would be left.
        self.register_buffer("keep", _column(known | (counts == 0), first=True))
        if content is not None:
            self.features = nn.Parameter(torch.randn(len(content.names), d) * CONTENT_SCALE)
            scale = np.where(counts > 0, np.maximum(counts, 1) ** -0.5, 0).astype(np.float32)
            offsets = functional.pad(content.offsets[:-1], (1, 0))  # no feature of the padding
            self.register_buffer("offsets", offsets, persistent=False)
            self.register_buffer("bags", content.features, persistent=False)
            self.register_buffer("scale", _column(scale, first=0), persistent=False)

    def forward(self, id_dropout: float = 0.0) -> Tensor:
        """Unit vectors (n_items + 1, d).

        Args:
            id_dropout: Probability that an item's id is dropped in training; only with content.
        """
        if self.features is None:
            return functional.normalize(self.ids, dim=-1)
        keep = self.keep
        if id_dropout:
            dropped = torch.rand(len(keep), 1, device=keep.device) < id_dropout
            keep = keep & ~(dropped & (self.scale > 0))
        return functional.normalize(self.ids * keep + self._content(self.features), dim=-1)

    def content_only(self) -> Tensor:
        """Unit vectors of the content alone, (n_items + 1, d); zero where there are no features."""
        if self.features is None:
            return torch.zeros_like(self.ids)
        return functional.normalize(self._content(self.features), dim=-1)

    def _content(self, features: Tensor) -> Tensor:
        return functional.embedding_bag(self.bags, features, self.offsets, mode="sum") * self.scale


def _column(values: np.ndarray, first: float) -> Tensor:
    """(n,) -> (n + 1, 1), with a value for the padding row."""
    return torch.from_numpy(np.insert(values, 0, first))[:, None]
