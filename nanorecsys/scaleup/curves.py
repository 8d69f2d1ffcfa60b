"""Recall curves of a catalogue: what each family of indexes finds of the exact neighbours.

Neighbours are the nearest items that the user has not seen, since a service leaves out the seen
ones. The recall among all items is counted as well.

The rows are shuffled first: k-means and graphs must not meet the real items before the synthetic
ones. Each seed trains FAISS's k-means again, so that its noise can be averaged; that of the lists
is averaged over several trainings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nanorecsys.ann.exact import Exact, exact_neighbours, list_lengths, without_seen
from nanorecsys.data import Histories
from nanorecsys.system.blas import faiss

K = 10
PROBES = (1, 2, 4, 8, 16, 32)
BEAMS = (10, 16, 32, 64, 128, 256)
LINKS = 16
PQ_BYTES = (8, 16, 32, 64)
FAMILIES = ("IVF", "HNSW", "PQ")
IVF_TRAININGS = 3  # averaged: k-means of lists is cheap, and its noise the largest
PQ_ITERATIONS = 6  # k-means iterations for codes; more add less than 0.01 of recall
PQ_POINTS = 64  # per centroid, at most


@dataclass(frozen=True, eq=False)
class Audience:
    """Users who query a catalogue.

    Args:
        queries: Unit float32 (q, d).
        seen: CSR by query, the catalogue's items that the user has seen.
        unseen: Exact neighbours among what the user has not seen.
        all: Exact neighbours among all items.
    """

    queries: np.ndarray
    seen: Histories
    unseen: Exact
    all: Exact

    def scan(self, index: faiss.Index) -> tuple[float, float]:
        """Return the mean recalls of a scan, among unseen items and among all.

        The scan is asked for more neighbours, and the seen ones are left out afterwards.
        """
        depths = list_lengths(self.seen.lengths, index.ntotal, K)
        kept, first = (np.empty((len(self.queries), K), np.int64) for _ in range(2))
        for depth in np.unique(depths):
            users = np.flatnonzero(depths == depth)
            items = index.search(self.queries[users], int(depth))[1]
            kept[users] = without_seen(items, self.seen.take(users), index.ntotal, K)
            first[users] = items[:, :K]
        return self._recalls(kept, first)

    def walk(self, index: faiss.IndexHNSWFlat, beam: int) -> tuple[float, float]:
        """Return the mean recalls of a graph, among unseen items and among all.

        Asking for more would widen the beam. So seen items may be passed but not returned.
        """
        index.hnsw.efSearch = beam
        first = index.search(self.queries, K)[1]
        kept = np.empty_like(first)
        for i in range(len(kept)):
            own = self.seen.items[self.seen.offsets[i] : self.seen.offsets[i + 1]]
            others = faiss.IDSelectorNot(faiss.IDSelectorBatch(own))
            wanted = faiss.SearchParametersHNSW(efSearch=beam, sel=others)  # type: ignore[attr-defined]
            kept[i] = index.search(self.queries[i : i + 1], K, params=wanted)[1]
        return self._recalls(kept, first)

    def _recalls(self, kept: np.ndarray, first: np.ndarray) -> tuple[float, float]:
        return float(self.unseen.recall(kept, K).mean()), float(self.all.recall(first, K).mean())


def recall_curves(
    vectors: np.ndarray,
    queries: np.ndarray,
    seen: Histories,
    seed: int,
    families: Sequence[str] = FAMILIES,
) -> pd.DataFrame:
    """Measure recall@10 of each family at each setting.

    The setting is nprobe for IVF, efSearch for HNSW and bytes per vector for PQ.

    Args:
        vectors: Unit float32 (n, d).
        queries: Unit float32 (q, d), real users.
        seen: CSR by query, rows of `vectors` that the user has seen.
        seed: Random seed of the order of the rows and of every training.
        families: Some of `FAMILIES`.

    Returns:
        Columns family, setting, recall, and recall_all, which counts seen items as neighbours, too.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    shuffled = np.ascontiguousarray(vectors[order])
    seen = relabelled(seen, np.argsort(order))
    unseen, every = (exact_neighbours(shuffled, queries, K, seen=s) for s in (seen, None))
    audience = Audience(queries, seen, unseen, every)
    measures = {"IVF": _ivf, "HNSW": _hnsw, "PQ": _pq}
    rows = [
        (family, *row) for family in families for row in measures[family](shuffled, audience, seed)
    ]
    frame = pd.DataFrame(rows, columns=["family", "setting", "recall", "recall_all"])
    return frame.groupby(["family", "setting"], as_index=False).mean()


def relabelled(seen: Histories, rows: np.ndarray) -> Histories:
    """Translate seen items to another catalogue.

    Args:
        seen: CSR of items.
        rows: int (items,), the item's row in the other catalogue, -1 if it is not there.

    >>> seen = Histories(np.array([0, 2, 3]), np.array([2, 1, 2]))
    >>> relabelled(seen, np.array([-1, 7, -1])).items.tolist()
    [7]
    """
    there = rows[seen.items]
    kept = there >= 0
    return Histories(np.concatenate([[0], np.cumsum(kept)])[seen.offsets], there[kept])


def _ivf(vectors: np.ndarray, audience: Audience, seed: int) -> Iterator[tuple[int, float, float]]:
    n, d = vectors.shape
    lists = round(n**0.5)
    for number in range(IVF_TRAININGS):
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.min_points_per_centroid = 1 + IVF_TRAININGS * seed + number, 1
        index.train(vectors)
        index.add(vectors)
        for nprobe in PROBES:
            if nprobe <= lists:
                index.nprobe = nprobe
                yield nprobe, *audience.scan(index)


def _hnsw(vectors: np.ndarray, audience: Audience, seed: int) -> Iterator[tuple[int, float, float]]:
    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    for beam in BEAMS:
        yield beam, *audience.walk(index, beam)


def _pq(vectors: np.ndarray, audience: Audience, seed: int) -> Iterator[tuple[int, float, float]]:
    d = vectors.shape[1]
    for size in PQ_BYTES:
        if d % size == 0:
            index: Any = faiss.IndexPQ(d, size, 8, faiss.METRIC_INNER_PRODUCT)
            index.do_polysemous_training = False
            training = index.pq.cp
            training.seed, training.niter = seed + 1, PQ_ITERATIONS
            training.min_points_per_centroid, training.max_points_per_centroid = 1, PQ_POINTS
            index.train(vectors)
            index.add(vectors)
            yield size, *audience.scan(index)
