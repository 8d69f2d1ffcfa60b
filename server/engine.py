"""From histories to ranked items: encode, retrieve, leave seen items out, rank; on the thread that calls it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from nanorecsys.serving.bundle import Bundle, open_bundle
from nanorecsys.serving.padding import Histories, padded
from nanorecsys.serving.retrieval import top_items
from server.search import TitleSearch

STAGES = ("encode", "retrieve", "rank")
KEPT = 100  # ranked items of an answer that are kept: those that any k may ask for
WARM_UP_LENGTHS = (1, 20, 70, 200)
_ITEM, _SCORE = np.dtype("<i4"), np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked for: items int64 (n,), the whole history in item numbers, oldest first, n >= 1."""

    items: np.ndarray
    exclude_seen: bool


@dataclass(frozen=True, eq=False)
class Ranked:
    """Up to `KEPT` item numbers int32, the best first, and their scores float32."""

    items: np.ndarray
    scores: np.ndarray

    def to_bytes(self) -> bytes:
        """As a cache keeps it."""
        return self.items.tobytes() + self.scores.tobytes()

    @classmethod
    def from_bytes(cls, kept: bytes) -> "Ranked":
        """From what `to_bytes` made."""
        n = len(kept) // (_ITEM.itemsize + _SCORE.itemsize)
        return cls(
            np.frombuffer(kept, _ITEM, n), np.frombuffer(kept, _SCORE, n, offset=n * _ITEM.itemsize)
        )


@dataclass(frozen=True)
class Stages:
    """What a batch took in encode, retrieve and rank: milliseconds, and those of CPU time on the thread that computed.

    They differ by what the thread waited for: a core, or the interpreter's lock.
    """

    ms: dict[str, float]
    cpu_ms: dict[str, float]


# Users' vectors float32 (B, d) of histories int64 (B, L), vocabulary numbers, and lengths int64
# (B,).
Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Scores float32 (B, C) of users float32 (B, d) and items int64 (B, C), from 0.
Rank = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Models(Protocol):
    """The two models of an engine."""

    encode: Encode
    rank: Rank


class OnnxModels:
    """Those of the bundle, in ONNX Runtime."""

    def __init__(self, bundle: Bundle) -> None:
        self.encode: Encode = bundle.encoder
        ranker = bundle.ranker
        self.rank: Rank = lambda users, items: ranker.run(None, {"users": users, "items": items})[0]


class Engine:
    """An open bundle and what computes with it. Any number of threads may call it.

    Args:
        bundle: what is served.
        models: that encode and rank.
        candidates: items retrieved for the ranker.
        read_events: of a history, the last ones, that are encoded; 0 for as many as the bundle
            says.
        pad: encode the whole window, padded where a history is shorter.
    """

    def __init__(
        self,
        bundle: Bundle,
        models: Models,
        candidates: int = 100,
        read_events: int = 0,
        pad: bool = False,
    ) -> None:
        self.bundle, self.models = bundle, models
        self.window, self.n_items = bundle.manifest.window, bundle.manifest.n_items
        self.read_events = (
            self.window if pad else min(read_events or bundle.manifest.events_read, self.window)
        )
        self.candidates, self.pad = min(candidates, self.n_items), pad
        self.id = bundle.manifest.id
        self.item_ids: list[int | str] = bundle.items["item_id"].to_list()
        self.titles: list[str] = bundle.items["title"].to_list()
        self.search = TitleSearch(self.titles, bundle.popularity)
        popular = bundle.popular[: KEPT + 1]
        self.popular = Ranked(popular.astype(_ITEM), bundle.popularity[popular].astype(_SCORE))

    def length(self, query: Query) -> int:
        """Events of a history that the encoder reads."""
        return self.window if self.pad else min(len(query.items), self.read_events)

    def __call__(self, queries: Sequence[Query]) -> tuple[list[Ranked], Stages]:
        """Ranked items of each query."""
        marks = [_now()]
        users = self.models.encode(*self._padded(queries))
        marks.append(_now())
        found = self._retrieve(users, queries)
        marks.append(_now())
        scores = self.models.rank(users, np.maximum(found, 0))
        scores[found < 0] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :KEPT]
        answers = []
        for row, best in enumerate(order):
            best = best[found[row, best] >= 0]
            answers.append(Ranked(found[row, best].astype(_ITEM), scores[row, best].astype(_SCORE)))
        marks.append(_now())
        took = np.diff(marks, axis=0) / 1e6
        return answers, Stages(
            *(dict(zip(STAGES, column, strict=True)) for column in took.T.tolist())
        )

    def _padded(self, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
        """Histories as the towers take them, see `serving.padding.padded`."""
        offsets = np.cumsum([0, *(len(q.items) for q in queries)])
        histories = Histories(offsets, np.concatenate([q.items for q in queries]))
        items, lengths = padded(histories, np.arange(len(queries)), self.read_events)
        if self.pad:
            items = np.pad(items, ((0, 0), (0, self.window - items.shape[1])))
        return items, lengths

    def _retrieve(self, users: np.ndarray, queries: Sequence[Query]) -> np.ndarray:
        """Candidates int64 (B, C), seen items left out where asked; -1 fills up a row that has fewer."""
        seen = [q.items if q.exclude_seen else q.items[:0] for q in queries]
        # most seen items are far from the top: this depth nearly always suffices
        depth = self.candidates + min(max(len(s) for s in seen), self.candidates)
        found = self.bundle.index.search(users, min(depth, self.n_items))[1]
        candidates = np.full((len(queries), self.candidates), -1, np.int64)
        left_out = np.zeros(self.n_items + 1, bool)
        left_out[-1] = True  # the index fills up with -1
        for row, (nearest, leave_out) in enumerate(zip(found, seen, strict=True)):
            left_out[leave_out] = True
            kept = nearest[~left_out[nearest]][: self.candidates]
            left_out[leave_out] = False
            if len(kept) < self.candidates:
                kept = self._exact(users[row], leave_out)
            candidates[row, : len(kept)] = kept
        return candidates

    def _exact(self, user: np.ndarray, leave_out: np.ndarray) -> np.ndarray:
        """By comparing with every item, for those who have seen most of what is near them."""
        scores = self.bundle.item_vectors @ user
        scores[leave_out] = -np.inf
        best = top_items(scores[None], self.candidates)[0]
        return best[best >= 0]

    def warm_up(self) -> None:
        """Run once at several lengths, so that the first requests do not pay for memory."""
        for length in WARM_UP_LENGTHS:
            self([Query(np.arange(length) % self.n_items, exclude_seen=True)])


def _now() -> tuple[int, int]:
    """Nanoseconds of time, and of this thread's CPU time."""
    return time.perf_counter_ns(), time.thread_time_ns()


def open_engine(
    bundle: Path,
    engine: str = "onnx",
    models: Path | None = None,
    candidates: int = 100,
    read_events: int = 0,
    pad: bool = False,
) -> Engine:
    """Open a bundle, verified, and warm it up.

    Args:
        bundle: its folder.
        engine: onnx or torch.
        models: folder of the PyTorch models, for torch.
        candidates: items retrieved for the ranker.
        read_events: of a history, the last ones, that are encoded; 0 for as many as the bundle
            says.
        pad: encode the whole window, padded where a history is shorter; torch always does.

    Raises:
        NanorecsysError: the bundle or a model is missing, damaged or of another shape.
    """
    opened = open_bundle(bundle)
    if engine == "torch":
        from server.torch_models import TorchModels

        made = Engine(opened, TorchModels(models, opened), candidates, pad=True)
    else:
        made = Engine(opened, OnnxModels(opened), candidates, read_events, pad)
    made.warm_up()
    return made
