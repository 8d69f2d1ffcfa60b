"""The item table: one unit vector per item, shared by input and output of the retriever."""

import re
from collections import Counter
from dataclasses import dataclass

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

    @property
    def n_items(self) -> int:
        return len(self.offsets) - 1


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
    titles_with = Counter(word for found in words for word in found)
    features = []  # one sorted list per item
    for year, genres, found in zip(items["year"], items["genres"], words, strict=True):
        names = {f"genre:{genre}" for genre in genres}
        # The year in a title is not a word: there is a separate feature for it.
        names |= {
            f"word:{word}"
            for word in found
            if titles_with[word] >= MIN_TITLES and not YEAR.fullmatch(word)
        }
        if not pd.isna(year):
            names.add(f"year:{int(year) // YEAR_BIN * YEAR_BIN}")
        features.append(sorted(names))
    vocabulary = sorted({name for found in features for name in found})
    number = {name: i for i, name in enumerate(vocabulary)}
    offsets = np.cumsum([0, *map(len, features)], dtype=np.int64)
    numbers = np.array([number[name] for found in features for name in found], np.int64)
    return ItemContent(torch.from_numpy(offsets), torch.from_numpy(numbers), tuple(vocabulary))


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
    has_content: Tensor
    offsets: Tensor
    bags: Tensor
    weights: Tensor

    def __init__(self, known: np.ndarray, d: int, content: ItemContent | None) -> None:
        super().__init__()
        self.content = content
        scale = ID_SCALE if content else CONTENT_SCALE
        self.ids = nn.Parameter(torch.randn(len(known) + 1, d) * scale)
        self.features: nn.Parameter | None = None
        counts = content.offsets.diff().numpy() if content else np.zeros(len(known), np.int64)
        # An item without features keeps its id, or nothing would be left.
        self.register_buffer("keep", _column(known | (counts == 0), first=True))
        if content is not None:
            self.features = nn.Parameter(torch.randn(len(content.names), d) * CONTENT_SCALE)
            weights = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
            for name, buffer in (
                ("has_content", _column(counts > 0, first=False)),
                ("offsets", functional.pad(content.offsets[:-1], (1, 0))),  # none of the padding
                ("bags", content.features),
                ("weights", torch.from_numpy(weights)),
            ):
                self.register_buffer(name, buffer, persistent=False)

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
            keep = keep & ~(dropped & self.has_content)
        return functional.normalize(self.ids * keep + self._content(self.features), dim=-1)

    def content_only(self) -> Tensor:
        """Unit vectors of the content alone, (n_items + 1, d); zero where there are no features."""
        if self.features is None:
            return torch.zeros_like(self.ids)
        return functional.normalize(self._content(self.features), dim=-1)

    def _content(self, features: Tensor) -> Tensor:
        return functional.embedding_bag(
            self.bags, features, self.offsets, mode="sum", per_sample_weights=self.weights
        )


def _column(values: np.ndarray, first: bool) -> Tensor:
    """bool (n,) -> (n + 1, 1), with a value for the padding row."""
    return torch.from_numpy(np.concatenate([[first], values]))[:, None]
