"""Recall curves of a catalogue: what each family of indexes finds of the exact neighbours, and for how much work.

The rows are shuffled first: k-means and graphs must not meet the real items before the made-up ones. FAISS's k-means
is trained anew for each seed, so that its noise can be averaged away; that of the lists several times.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from nanorecsys.ann.exact import Exact, exact_neighbours
from nanorecsys.blas import faiss

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

    The setting is nprobe for IVF, efSearch for HNSW and bytes a vector for PQ and SQ; the work is vectors compared with
    for IVF and HNSW, and bytes a vector for the others.
    """

    settings: list[int]
    recall: list[float]
    work: list[float]


def recall_curves(
    vectors: np.ndarray, queries: np.ndarray, seed: int, families: Sequence[str] = FAMILIES
) -> dict[str, Curve]:
    """The curves of one catalogue.

    Args:
        vectors: unit float32 (n, d).
        queries: unit float32 (q, d), real users.
        seed: of the order of the rows and of every training.
        families: of `FAMILIES`.
    """
    order = np.random.default_rng(seed).permutation(len(vectors))
    shuffled = np.ascontiguousarray(vectors[order])
    exact = exact_neighbours(shuffled, queries, K)
    curves = {"IVF": _ivf, "HNSW": _hnsw, "PQ": _pq, "SQ": _sq}
    return {family: curves[family](shuffled, queries, exact, seed) for family in families}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves over the same settings."""
    recall = np.mean([c.recall for c in curves], axis=0)
    work = np.mean([c.work for c in curves], axis=0)
    return Curve(curves[0].settings, recall.tolist(), work.tolist())


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


def _mean_recall(index: faiss.Index, queries: np.ndarray, exact: Exact) -> float:
    return float(exact.recall(index.search(queries, K)[1], K).mean())


def _ivf(vectors: np.ndarray, queries: np.ndarray, exact: Exact, seed: int) -> Curve:
    seeds = [1 + IVF_TRAININGS * seed + number for number in range(IVF_TRAININGS)]
    return mean_curve([_ivf_once(vectors, queries, exact, s) for s in seeds])


def _ivf_once(vectors: np.ndarray, queries: np.ndarray, exact: Exact, seed: int) -> Curve:
    n, d = vectors.shape
    lists = round(n**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    index.train(vectors)
    index.add(vectors)
    probes = [p for p in PROBES if p <= lists]
    sizes = np.array([index.invlists.list_size(i) for i in range(lists)])
    ranked = index.quantizer.search(queries, probes[-1])[1]
    recall, work = [], []
    for nprobe in probes:
        index.nprobe = nprobe
        recall.append(_mean_recall(index, queries, exact))
        work.append(float(lists + sizes[ranked[:, :nprobe]].sum(axis=1).mean()))
    return Curve(probes, recall, work)


def _hnsw(vectors: np.ndarray, queries: np.ndarray, exact: Exact, seed: int) -> Curve:
    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    recall, work = [], []
    for beam in BEAMS:
        index.hnsw.efSearch = beam
        faiss.cvar.hnsw_stats.reset()
        recall.append(_mean_recall(index, queries, exact))
        work.append(faiss.cvar.hnsw_stats.ndis / len(queries))
    return Curve(list(BEAMS), recall, work)


def _pq(vectors: np.ndarray, queries: np.ndarray, exact: Exact, seed: int) -> Curve:
    d = vectors.shape[1]
    sizes = [m for m in PQ_BYTES if d % m == 0]
    recall = []
    for m in sizes:
        index = faiss.IndexPQ(d, m, 8, faiss.METRIC_INNER_PRODUCT)
        index.do_polysemous_training = False
        index.pq.cp.seed, index.pq.cp.niter = seed + 1, PQ_ITERATIONS
        index.pq.cp.min_points_per_centroid, index.pq.cp.max_points_per_centroid = 1, PQ_POINTS
        index.train(vectors)
        index.add(vectors)
        recall.append(_mean_recall(index, queries, exact))
    return Curve(sizes, recall, [float(m) for m in sizes])


def _sq(vectors: np.ndarray, queries: np.ndarray, exact: Exact, seed: int) -> Curve:
    d = vectors.shape[1]
    recall, sizes = [], []
    for kind in SQ_BITS.values():
        index = faiss.IndexScalarQuantizer(d, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        recall.append(_mean_recall(index, queries, exact))
        sizes.append(index.sa_code_size())
    return Curve(sizes, recall, [float(s) for s in sizes])
