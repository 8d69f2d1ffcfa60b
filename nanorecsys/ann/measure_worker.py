"""`python -m nanorecsys.ann.measure_worker PLAN`: measure built indexes in a process that does nothing else.

It never imports torch, pins its threads, and prints `done/total` as it goes. Raw rows go to parquet
files beside the plan:

    accuracy  point, query, recall_10, recall_100 ..    one row a query of every point
    ranks     point, user, rank                         of the held-out item, infinite if not found
    latency   point, round, query, ns                   one query at a time, one thread
    batches   point, round, batch, threads, ns          nanoseconds a query of one call
    loads     factory, round, ns
    layers    point, adds, round, ns                    of one query in each layer of a search, see
    `indexes.layers` reads     point, bytes                              a query, where the index
    scans

A point is an index with a search setting, by its number in the plan. In each round indexes and
settings come in another random order, so that a drift of the machine favours none.
"""

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from threadpoolctl import ThreadpoolController

from nanorecsys.ann.errors import SpecificationError
from nanorecsys.ann.exact import Exact, exact_neighbours, list_lengths, target_ranks
from nanorecsys.ann.indexes import (
    build_index,
    code_bytes,
    fixed_bytes,
    layers,
    refined_bytes,
    visited,
)
from nanorecsys.ann.limits import Limits, best_of, measure_limits
from nanorecsys.ann.specs import parse_setting
from nanorecsys.data import Histories
from nanorecsys.serving.retrieval import Index, UsearchIndex, load_index
from nanorecsys.system.blas import faiss

BATCH = 1000  # of the throughput measure, and of the largest batch
SMALL_BATCH = 32
WARM_UP = 20  # queries before each series
CHUNK = 25  # queries of one point in a row, where points alternate


class Point(msgspec.Struct, frozen=True):
    """An index with a search setting."""

    number: int
    search: str


class Entry(msgspec.Struct, frozen=True):
    """A built index, its file, and its points."""

    factory: str
    file: str
    points: list[Point]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure. The folder of the plan holds corpus.npy, queries.npy and, for ranks, task.npz.

    Args:
        entries: the indexes.
        k: neighbours asked for.
        cutoffs: of recall, at most k.
        rounds: of everything timed.
        queries: one at a time, of each point in each round.
        threads: of the throughput measure.
        alternate: keep all indexes in memory and let their points alternate every few queries, one
            at a time only.
        tenth: measure Flat on every tenth vector as well, as point -1.
        seed: of the orders and of the queries.
    """

    entries: list[Entry]
    k: int
    cutoffs: list[int]
    rounds: int
    queries: int
    threads: int = 2
    alternate: bool = False
    tenth: bool = False
    seed: int = 0


class Finished(msgspec.Struct, frozen=True):
    """What the worker leaves beside its rows: the limits, and points whose search failed with the reason."""

    limits: Limits
    failures: dict[int, tuple[str, str]]


class Measurement:
    """One run of a plan."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.queries = np.load(folder / "queries.npy")
        self.rows: dict[str, list[pl.DataFrame]] = {}
        self.failures: dict[int, tuple[str, str]] = {}
        self.rng = np.random.default_rng(plan.seed)
        self.pools = ThreadpoolController()
        points = sum(len(e.points) for e in plan.entries)
        self.done, self.total = 0, points * plan.rounds

    def run(self) -> Finished:
        """Measure everything, and write the rows."""
        limits = measure_limits((1, self.plan.threads), repeats=3)
        (self._alternate if self.plan.alternate else self._table)()
        for name, frames in self.rows.items():
            pl.concat(frames).write_parquet(self.folder / f"{name}.parquet")
        return Finished(
            best_of(limits, measure_limits((1, self.plan.threads), repeats=3)), self.failures
        )

    def _table(self) -> None:
        """Every index by turns, one in memory at a time."""
        vectors = np.load(self.folder / "corpus.npy", mmap_mode="r")
        exact = exact_neighbours(vectors, self.queries, self.plan.k, self.plan.cutoffs)
        task = np.load(self.folder / "task.npz") if (self.folder / "task.npz").exists() else None
        for number in range(self.plan.rounds):
            sample = self.rng.permutation(len(self.queries))[: self.plan.queries]
            for i in self.rng.permutation(len(self.plan.entries)):
                entry = self.plan.entries[i]
                start = time.perf_counter_ns()
                index = load_index(entry.factory, self.folder / entry.file)
                self._add(
                    "loads",
                    factory=[entry.factory],
                    round=[number],
                    ns=[time.perf_counter_ns() - start],
                )
                for j in self.rng.permutation(len(entry.points)):
                    point = entry.points[j]
                    if point.number not in self.failures:
                        try:
                            index.set(point.search)
                            if number == 0:
                                self._accuracy(index, entry.factory, point, exact, task)
                            self._one_by_one(index, point.number, number, sample)
                            self._batches(index, point.number, number)
                        except (SpecificationError, RuntimeError, ValueError) as error:
                            self.failures[point.number] = (
                                type(error).__name__,
                                str(error).partition("\n")[0],
                            )
                    self._progress()

    def _accuracy(
        self, index: Index, factory: str, point: Point, exact: Exact, task: dict | None
    ) -> None:
        """Recall of every query, in large batches with all threads, which are timed; ranks; bytes."""
        k, threads = self.plan.k, self.plan.threads
        found = np.empty((len(self.queries), k), np.int64)
        self._pin(index, threads)
        index.search(self.queries[:WARM_UP], k)
        for start in range(0, len(found), BATCH):
            part = self.queries[start : start + BATCH]
            begin = time.perf_counter_ns()
            found[start : start + BATCH] = index.search(part, k)[1]
            taken = (time.perf_counter_ns() - begin) / len(part)
            self._add(
                "batches",
                point=[point.number],
                round=[0],
                batch=[BATCH],
                threads=[threads],
                ns=[taken],
            )
        if task is not None:
            self._ranks(index, point.number, exact.n, task)
        recalls = {f"recall_{c}": exact.recall(found, c) for c in self.plan.cutoffs}
        number = np.full(len(found), point.number, np.int32)
        self._add("accuracy", point=number, query=np.arange(len(found), dtype=np.int32), **recalls)
        scanned = read_bytes(index, factory, point.search, self.queries, k, exact.n)
        if scanned is not None:
            self._add("reads", point=[point.number], bytes=[scanned])

    def _ranks(self, index: Index, number: int, n: int, task: dict) -> None:
        seen, targets, vectors = (
            Histories(task["offsets"], task["items"]),
            task["targets"],
            task["vectors"],
        )
        wanted = list_lengths(seen.lengths, n)
        rank = np.empty(len(targets))
        for length in np.unique(wanted):
            users = np.flatnonzero(wanted == length)
            lengths = seen.lengths[users]
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            items = np.concatenate(
                [seen.items[seen.offsets[u] : seen.offsets[u + 1]] for u in users]
            )
            scores, found = index.search(vectors[users], int(length))
            rank[users] = target_ranks(scores, found, Histories(offsets, items), targets[users], n)
        point = np.full(len(rank), number, np.int32)
        self._add("ranks", point=point, user=task["users"], rank=rank.astype(np.float32))

    def _one_by_one(self, index: Index, point: int, number: int, sample: np.ndarray) -> None:
        self._pin(index, 1)
        self._timed(index, sample[:WARM_UP])
        self._latencies(point, number, sample, self._timed(index, sample))

    def _timed(self, index: Index, sample: np.ndarray) -> np.ndarray:
        """Nanoseconds of each query of a sample."""
        return _nanoseconds(partial(index.search, k=self.plan.k), self.queries[sample])

    def _layers(
        self, index: Index, point: int, number: int, sample: np.ndarray, start: int
    ) -> None:
        """Time each layer on queries of the sample that the one before it has not just brought into the caches."""
        for place, layer in enumerate(layers(index, self.plan.k)):
            part = np.roll(sample, -place * CHUNK)[start : start + CHUNK]
            taken = _nanoseconds(layer.search, layer.prepare(self.queries[part]))
            same = np.ones(len(part), np.int32)
            self._add(
                "layers",
                point=same * point,
                adds=[layer.adds] * len(part),
                round=same * number,
                ns=taken,
            )

    def _batches(self, index: Index, point: int, number: int) -> None:
        self._pin(index, 1)
        large = (
            [(BATCH, 1)] if number == 0 else []
        )  # one call is an average over a thousand queries already
        for size, calls in [(SMALL_BATCH, 4), *large]:
            for call in range(min(calls, -(-len(self.queries) // size))):
                part = self.queries[call * size : (call + 1) * size]
                start = time.perf_counter_ns()
                index.search(part, self.plan.k)
                taken = (time.perf_counter_ns() - start) / len(part)
                self._add(
                    "batches", point=[point], round=[number], batch=[size], threads=[1], ns=[taken]
                )

    def _alternate(self) -> None:
        """All indexes in memory; their points take turns every few queries."""
        loaded = [load_index(e.factory, self.folder / e.file) for e in self.plan.entries]
        turns = [
            (i, p.number, p.search)
            for i, e in zip(loaded, self.plan.entries, strict=True)
            for p in e.points
        ]
        if self.plan.tenth:
            vectors = np.ascontiguousarray(np.load(self.folder / "corpus.npy", mmap_mode="r")[::10])
            turns.append((build_index("Flat", vectors), -1, ""))
        for number in range(self.plan.rounds):
            sample = self.rng.permutation(len(self.queries))[: self.plan.queries]
            for start in range(0, len(sample), CHUNK):
                part = sample[start : start + CHUNK]
                for turn in self.rng.permutation(len(turns)):
                    index, point, search = turns[turn]
                    index.set(search)
                    self._pin(index, 1)
                    self._timed(index, part[:2])  # brings the index back into the caches
                    self._latencies(point, number, part, self._timed(index, part))
                    self._layers(index, point, number, sample, start)
            for _ in range(len(turns) - self.plan.tenth):
                self._progress()

    def _latencies(self, point: int, number: int, sample: np.ndarray, taken: np.ndarray) -> None:
        same = np.ones(len(sample), np.int32)
        self._add(
            "latency",
            point=same * point,
            round=same * number,
            query=sample.astype(np.int32),
            ns=taken,
        )

    def _pin(self, index: Index, threads: int) -> None:
        """Set the threads of FAISS, of its matrix products and of usearch."""
        faiss.omp_set_num_threads(threads)
        self.pools.limit(limits=threads)
        if isinstance(index, UsearchIndex):
            index.threads = threads

    def _add(self, name: str, **columns: object) -> None:
        self.rows.setdefault(name, []).append(pl.DataFrame(columns))

    def _progress(self) -> None:
        self.done += 1
        print(f"{self.done}/{self.total}", flush=True)


def _nanoseconds(search: Callable[[np.ndarray], object], queries: np.ndarray) -> np.ndarray:
    """What each query takes on its own, int32 (q,)."""
    single = [queries[i : i + 1] for i in range(len(queries))]
    taken = np.empty(len(single), np.int32)
    clock = time.perf_counter_ns
    for i, query in enumerate(single):
        start = clock()
        search(query)
        taken[i] = clock() - start
    return taken


def read_bytes(
    index: Index, factory: str, search: str, queries: np.ndarray, k: int, n: int
) -> float | None:
    """Bytes that one query reads on average where the index scans codes, whole or by lists; None for graphs.

    Codes of the lists that are visited, all centroids and matrices, and the vectors of the
    candidates that are refined.
    """
    size = code_bytes(index)
    if size is None:
        return None
    setting = parse_setting(search)
    counts = visited(index, queries, setting.get("nprobe", 1))
    scanned = n * size if counts is None else counts.mean() * size
    candidates = min(k * setting.get("k_factor_rf", 1), n)
    return float(fixed_bytes(index, factory) + scanned + candidates * refined_bytes(index))


def main(path: Path) -> None:
    """Run the plan in `path`, and write `finished.json` beside it."""
    plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    gc.disable()
    finished = Measurement(path.parent, plan).run()
    (path.parent / "finished.json").write_bytes(msgspec.json.encode(finished))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
