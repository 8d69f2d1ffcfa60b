"""Recall curves of a catalogue: what each family of indexes finds of the exact neighbours, and for how much work.

Neighbours are the nearest items that the user has not seen, as a service leaves the seen ones out;
the same is counted among all items beside it.

The rows are shuffled first: k-means and graphs must not meet the real items before the made-up
ones. FAISS's k-means is trained anew for each seed, so that its noise can be averaged away; that of
the lists several times.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from nanorecsys.ann.exact import Exact, exact_neighbours, list_lengths, without_seen
from nanorecsys.data import Histories
from nanorecsys.system.blas import faiss

K = 10
PROBES = (1, 2, 4, 8, 16, 32)
BEAMS = (10, 16, 32, 64, 128, 256)
LINKS = 16
PQ_BYTES = (8, 16, 32, 64)
SQ_BITS = {"SQ4": faiss.ScalarQuantizer.QT_4bit, "SQ6": faiss.ScalarQuantizer.QT_6bit}
SQ_BITS["SQ8"] = faiss.ScalarQuantizer.QT_8bit
FAMILIES = ("IVF", "HNSW", "PQ", "SQ")
IVF_TRAININGS = 3  # that are averaged: k-means of lists is cheap, and its noise the largest of all
PQ_ITERATIONS = 6  # of k-means for the codes: more of them add less than 0.01 of recall, to every catalogue alike
PQ_POINTS = 64  # a centroid, at most


class Curve(msgspec.Struct, frozen=True):
    """Recall@10 of one family at each setting, from the cheapest to the dearest, with what a query costs there.

    The setting is nprobe for IVF, efSearch for HNSW and bytes a vector for PQ and SQ; the work is
    vectors compared with for IVF and HNSW, and bytes a vector for the others. `recall_all` counts
    among all items, the seen ones included.
    """

    settings: list[int]
    recall: list[float]
    work: list[float]
    recall_all: list[float] = []


@dataclass(frozen=True, eq=False)
class _Users:
    """Who queries a catalogue: unit float32 (q, d), what they have seen of it, and their neighbours in it."""

    queries: np.ndarray
    seen: Histories
    unseen: Exact
    all: Exact

    def scanned(self, index: faiss.Index) -> tuple[float, float]:
        """Mean recall of a scan, among unseen items and among all.

        A scan puts all that it reads into one order, so it is asked for more, and the seen ones are
        left out after.
        """
        depths = list_lengths(self.seen.lengths, index.ntotal, K)
        kept, first = (np.empty((len(self.queries), K), np.int64) for _ in range(2))
        for depth in np.unique(depths):
            users = np.flatnonzero(depths == depth)
            items = index.search(self.queries[users], int(depth))[1]
            kept[users] = without_seen(items, self.seen, users, index.ntotal, K)
            first[users] = items[:, :K]
        return self._recalls(kept, first)

    def walked(self, index: faiss.IndexHNSWFlat, beam: int) -> tuple[float, float, float]:
        """Mean recall of a graph as `scanned`, and vectors compared with for a query among unseen items.

        Asked for more it would search with a wider beam; so the seen ones are kept out of its
        answer, not of its way.
        """
        index.hnsw.efSearch = beam
        first = index.search(self.queries, K)[1]
        kept = np.empty_like(first)
        faiss.cvar.hnsw_stats.reset()
        for i, (start, stop) in enumerate(
            zip(self.seen.offsets, self.seen.offsets[1:], strict=False)
        ):
            others = faiss.IDSelectorNot(faiss.IDSelectorBatch(self.seen.items[start:stop]))
            wanted = faiss.SearchParametersHNSW(efSearch=beam, sel=others)
            kept[i] = index.search(self.queries[i : i + 1], K, params=wanted)[1]
        return *self._recalls(kept, first), faiss.cvar.hnsw_stats.ndis / len(kept)

    def _recalls(self, kept: np.ndarray, first: np.ndarray) -> tuple[float, float]:
        return float(self.unseen.recall(kept, K).mean()), float(self.all.recall(first, K).mean())


def recall_curves(
    vectors: np.ndarray,
    queries: np.ndarray,
    seen: Histories,
    seed: int,
    families: Sequence[str] = FAMILIES,
) -> dict[str, Curve]:
    """The curves of one catalogue.

    Args:
        vectors: unit float32 (n, d).
        queries: unit float32 (q, d), real users.
        seen: CSR by query, rows of `vectors` that the user has seen.
        seed: of the order of the rows and of every training.
        families: of `FAMILIES`.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    shuffled = np.ascontiguousarray(vectors[order])
    seen = relabelled(seen, np.argsort(order))
    unseen, every = (exact_neighbours(shuffled, queries, K, seen=s) for s in (seen, None))
    users = _Users(queries, seen, unseen, every)
    curves = {"IVF": _ivf, "HNSW": _hnsw, "PQ": _pq, "SQ": _sq}
    return {family: curves[family](shuffled, users, seed) for family in families}


def relabelled(seen: Histories, rows: np.ndarray) -> Histories:
    """What users have seen of another catalogue: int `rows` (items,) says where an item is there, -1 that it is not.

    >>> relabelled(Histories(np.array([0, 2, 3]), np.array([2, 1, 2])), np.array([-1, 7, -1])).items.tolist()
    [7]
    """
    there = rows[seen.items]
    kept = there >= 0
    return Histories(np.concatenate([[0], np.cumsum(kept)])[seen.offsets], there[kept])


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves over the same settings."""
    values = ([c.recall for c in curves], [c.work for c in curves], [c.recall_all for c in curves])
    return Curve(curves[0].settings, *(np.mean(v, axis=0).tolist() for v in values))


def work_at(curve: Curve, recall: float) -> float | None:
    """Work at which a curve first reaches a recall, between settings on a straight line in the log of work.

    None where it does not reach it.

    >>> work_at(Curve([1, 2], [0.8, 1.0], [10.0, 1000.0]), 0.9)
    100.0
    """
    above = [i for i, r in enumerate(curve.recall) if r >= recall]
    if not above:
        return None
    i = above[0]
    if i == 0:
        return curve.work[0]
    share = (recall - curve.recall[i - 1]) / (curve.recall[i] - curve.recall[i - 1])
    low, high = np.log(curve.work[i - 1 : i + 1])
    return float(np.exp(low + share * (high - low)).round(9))


def _ivf(vectors: np.ndarray, users: _Users, seed: int) -> Curve:
    seeds = [1 + IVF_TRAININGS * seed + number for number in range(IVF_TRAININGS)]
    return mean_curve([_ivf_once(vectors, users, s) for s in seeds])


def _ivf_once(vectors: np.ndarray, users: _Users, seed: int) -> Curve:
    n, d = vectors.shape
    lists = round(n**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    index.train(vectors)
    index.add(vectors)
    probes = [p for p in PROBES if p <= lists]
    sizes = np.array([index.invlists.list_size(i) for i in range(lists)])
    ranked = index.quantizer.search(users.queries, probes[-1])[1]
    found, work = [], []
    for nprobe in probes:
        index.nprobe = nprobe
        found.append(users.scanned(index))
        work.append(float(lists + sizes[ranked[:, :nprobe]].sum(axis=1).mean()))
    return _curve(probes, found, work)


def _hnsw(vectors: np.ndarray, users: _Users, seed: int) -> Curve:
    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    *found, work = zip(*(users.walked(index, beam) for beam in BEAMS), strict=True)
    return _curve(BEAMS, list(zip(*found, strict=True)), work)


def _pq(vectors: np.ndarray, users: _Users, seed: int) -> Curve:
    d = vectors.shape[1]
    sizes = [m for m in PQ_BYTES if d % m == 0]
    found = []
    for m in sizes:
        index = faiss.IndexPQ(d, m, 8, faiss.METRIC_INNER_PRODUCT)
        index.do_polysemous_training = False
        index.pq.cp.seed, index.pq.cp.niter = seed + 1, PQ_ITERATIONS
        index.pq.cp.min_points_per_centroid, index.pq.cp.max_points_per_centroid = 1, PQ_POINTS
        index.train(vectors)
        index.add(vectors)
        found.append(users.scanned(index))
    return _curve(sizes, found, sizes)


def _sq(vectors: np.ndarray, users: _Users, seed: int) -> Curve:
    d = vectors.shape[1]
    found, sizes = [], []
    for kind in SQ_BITS.values():
        index = faiss.IndexScalarQuantizer(d, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        found.append(users.scanned(index))
        sizes.append(index.sa_code_size())
    return _curve(sizes, found, sizes)


def _curve(
    settings: Sequence[int], recalls: Sequence[tuple[float, float]], work: Sequence[float]
) -> Curve:
    recall, recall_all = (list(values) for values in zip(*recalls, strict=True))
    return Curve(list(settings), recall, [float(w) for w in work], recall_all)
