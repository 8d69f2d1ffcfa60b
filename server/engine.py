"""From histories to ranked items: encode, retrieve, rank, all on the calling thread.

A bundle without a ranker is served in the retriever's order, with the retriever's scores.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from nanorecsys.serving.bundle import open_bundle
from nanorecsys.serving.candidates import candidates_of
from nanorecsys.serving.encoder import Encode
from nanorecsys.serving.milvus import Milvus, bundle_index
from nanorecsys.serving.ranker import best_first
from server.schema import MAX_K, FoundItem
from server.search import TitleSearch
from server.settings import Settings

STAGES = ("encode", "retrieve", "rank")
WARM_UP_LENGTHS = (1, 20, 70, 200)
_ITEM, _SCORE = np.dtype("<i4"), np.dtype("<f4")

# Milliseconds by stage: elapsed, and CPU time of the computing thread where it computes. They
# differ by the wait for a core or for the interpreter's lock.
Timings = dict[str, tuple[float, float | None]]
# Scores float32 (B, C) of users float32 (B, d) and items int64 (B, C).
Rank = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Query:
    """A whole history as item numbers, int64 (n,), oldest first, n >= 1."""

    items: np.ndarray
    exclude_seen: bool


@dataclass(frozen=True, eq=False)
class Ranked:
    """Up to `MAX_K` item numbers int32, the best first, and their scores float32."""

    items: np.ndarray
    scores: np.ndarray

    def to_bytes(self) -> bytes:
        """Serialize for a cache."""
        return self.items.tobytes() + self.scores.tobytes()

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Ranked":
        """Read what `to_bytes` wrote."""
        n = len(stored) // (_ITEM.itemsize + _SCORE.itemsize)
        scores = np.frombuffer(stored, _SCORE, n, offset=n * _ITEM.itemsize)
        return cls(np.frombuffer(stored, _ITEM, n), scores)


class Engine:
    """An open bundle and the models that compute with it. Any number of threads may call it.

    Args:
        settings: Bundle, engine and sizes; `torch-padded` always pads to the whole window.
        milvus: Milvus to search in place of the bundle's index; None for that one.

    Raises:
        ServingError: The bundle or a model is missing, damaged or of another shape.
    """

    def __init__(self, settings: Settings, milvus: Milvus | None = None) -> None:
        remote = partial(bundle_index, milvus, settings.bundle) if milvus else None
        bundle = self.bundle = open_bundle(settings.bundle, remote=remote)
        self.encode: Encode = bundle.encoder
        self.rank: Rank | None = bundle.ranker
        kind = settings.engine
        pad = settings.pad or kind == "torch-padded"
        if kind != "onnx":
            from server.torch_models import TorchModels

            assert settings.models is not None  # `read_settings` checks it
            every_position = kind == "torch-padded"
            models = TorchModels(settings.models, bundle, every_position, settings.compile)
            self.encode = models.encode
            self.rank = models.rank if bundle.ranker else None
            kind = f"{kind}-{models.id}"  # the bundle's id does not name these models
        manifest = bundle.manifest
        self.id, self.window, self.pad = manifest.id, manifest.window, pad
        self.candidates = min(settings.candidates, manifest.n_items)
        read_events = self.window if pad else settings.read_events or manifest.events_read
        self.read_events = min(read_events, self.window)
        # Everything but the request that an answer depends on. Of the hosts of one Redis, some may
        # lack the library of the index.
        index = type(bundle.index).__name__
        self.cache_id = f"{self.id}:{kind}:{index}:{self.candidates}:{self.read_events}:{pad:d}"
        self.item_ids: list[int | str] = bundle.items["item_id"].to_list()
        self.titles: list[str] = bundle.items["title"].to_list()
        self.search = TitleSearch(self.titles, bundle.popular)

    def warm_up(self) -> None:
        """Compute a few answers, so that the first requests do not pay for memory.

        Raises:
            RetrievalError: Milvus does not answer, or does not have the bundle's vectors.
        """
        for length in WARM_UP_LENGTHS:
            self([Query(np.arange(length) % self.bundle.manifest.vocabulary, exclude_seen=True)])

    def length(self, query: Query) -> int:
        """Number of events that the encoder reads."""
        return self.window if self.pad else min(len(query.items), self.read_events)

    def __call__(self, queries: Sequence[Query]) -> tuple[list[Ranked], Timings]:
        """Rank items for each query of a batch; also the time that the batch took by stage."""
        marks = [_now()]
        users = self.encode(*self._padded(queries))
        marks.append(_now())
        seen = [query.items if query.exclude_seen else query.items[:0] for query in queries]
        found, scores = candidates_of(self.bundle, users, seen, self.candidates)
        items = found.astype(_ITEM)
        if self.rank is not None:
            marks.append(_now())
            best = best_first(items, self.rank(users, np.maximum(found, 0)), MAX_K)
        else:  # The candidates are in the retriever's order, and -1 fills their end.
            kept = np.minimum((found >= 0).sum(1), MAX_K).tolist()
            best = [(items[row, :n], scores[row, :n]) for row, n in enumerate(kept)]
        answers = [Ranked(*ranked) for ranked in best]
        marks.append(_now())
        took = (np.diff(marks, axis=0) / 1e6).tolist()
        stages = zip(STAGES, took, strict=False)  # Without a ranker there is no last stage.
        return answers, {stage: (ms, cpu) for stage, (ms, cpu) in stages}

    def _padded(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        """Lay histories out as `serving.padding.padded` does, or padded to the whole window."""
        read = [query.items[-self.read_events :] for query in queries]
        lengths = np.array([len(items) for items in read])
        padded = np.zeros((len(read), self.window if self.pad else lengths.max()), np.int64)
        for row, items in zip(padded, read, strict=True):
            np.add(items, 1, out=row[: len(items)])
        return padded, lengths

    def popular(self, seen: np.ndarray) -> Ranked:
        """Rank items by their number of events, without the seen ones."""
        bundle = self.bundle
        left_out = np.zeros(bundle.manifest.n_items, bool)
        left_out[seen] = True
        items = bundle.popular[: MAX_K + len(seen)]
        items = items[~left_out[items]][:MAX_K]
        return Ranked(items.astype(_ITEM), bundle.popularity[items].astype(_SCORE))

    def find(self, words: str, limit: int) -> list[FoundItem]:
        """Find items by words of their titles, the most popular first."""
        rows = self.bundle.items.iloc[self.search.find(words, limit)].itertuples()
        return [
            FoundItem(
                row.item_id, row.title, None if pd.isna(row.year) else int(row.year), row.genres
            )
            for row in rows
        ]


def _now() -> tuple[int, int]:
    """Nanoseconds of time, and of this thread's CPU time."""
    return time.perf_counter_ns(), time.thread_time_ns()
