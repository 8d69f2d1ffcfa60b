"""The bench of chapters 04 and 05: build an index and search it, each task in a child process.

A child process does nothing else, so its peak memory is that of the task, and torch is not loaded
beside FAISS. A child that crashes becomes a named error, and the caller goes on. An index that is
built is not built again.
"""

import gc
import hashlib
import multiprocessing
import os
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from nanorecsys.ann.errors import AnnError, CrashError, Failure
from nanorecsys.ann.exact import Exact, Queries, exact_neighbours
from nanorecsys.ann.indexes import build_index
from nanorecsys.ann.specs import BASELINE, Specification, fitted, search_settings
from nanorecsys.serving.errors import LibraryError, SpecificationError
from nanorecsys.serving.retrieval import Index, library, load_index, load_library
from nanorecsys.study.provenance import THREAD_VARIABLES
from nanorecsys.system.blas import faiss
from nanorecsys.system.environment import environment
from nanorecsys.system.files import atomic_path, write_atomically
from nanorecsys.system.memory import forget_peak, peak_resident_bytes, resident_bytes
from nanorecsys.system.processes import watch_parent

LARGE_BATCH, SMALL_BATCH = 1000, 32
SMALL_BATCHES = 4  # calls per round
WARM_UP = 20  # queries before each timed series
TURN = 25  # queries per turn where settings take turns
CHILD_VARIABLES = {
    # Waiting threads sleep: spinning ones slow k-means tenfold where another process has work.
    "OMP_WAIT_POLICY": "PASSIVE",
    # FAISS's memory is in large pages, as numpy's arrays are: lists and codes lie all over it, and
    # each small page would cost a look-up.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
T = TypeVar("T")


def in_child(work: Callable[..., T], *arguments: Any, threads: int) -> T:
    """Call a function in a new process and return its result.

    Args:
        work: Function of a module that does not import torch.
        arguments: Arguments of the function.
        threads: Size of the thread pools of OpenMP and BLAS.

    Raises:
        CrashError: The process died before it returned.
        Exception: The function raised it.
    """
    variables = dict.fromkeys(THREAD_VARIABLES, str(threads)) | CHILD_VARIABLES
    context = multiprocessing.get_context("spawn")
    with environment(variables), ProcessPoolExecutor(1, context, start_worker) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise CrashError(
                f"{work.__name__} died in its process",
                "Most often memory ran out: use fewer vectors.",
            ) from error


def start_worker() -> None:
    """Make a worker end with its parent, and drop what libraries write to its standard error."""
    watch_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def fingerprint(*inputs: Any) -> str:
    """Hash the inputs of a build for its file's name, so that only the same index is reused."""
    return hashlib.sha256(pickle.dumps(inputs)).hexdigest()[:12]


def call_once(path: Path, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Return the result that is kept in a file, or call the function and keep its result there."""
    if not path.exists():
        write_atomically(path, pickle.dumps(work(*arguments, **options)))
    return pickle.loads(path.read_bytes())


@contextmanager
def recorded(failures: list[Failure], factory: str, catalogue: str = "") -> Iterator[None]:
    """Record an index that fails, so that the caller goes on with the next one.

    Args:
        failures: List to append to.
        factory: Specification of the index.
        catalogue: What follows its name in the record.

    Raises:
        AnnError: The index is Flat, with which every index is compared.
    """
    try:
        yield
    except (SpecificationError, LibraryError, CrashError, RuntimeError, ValueError) as error:
        message = str(error).partition("\n")[0]
        if isinstance(error, LibraryError):
            message = f"{message}: {error.remedy}"
        failures.append(Failure(factory + catalogue, type(error).__name__, message))
        if factory == BASELINE:
            raise AnnError(
                f"the baseline {BASELINE} was not measured{catalogue}: {message}",
                "Correct the vectors or use fewer; every index is compared with it.",
            ) from error


@dataclass(frozen=True)
class BuildCosts:
    """Time and memory of a build. `base_bytes` were resident before it, with its input loaded."""

    build_s: float
    save_s: float
    index_bytes: int
    base_bytes: int
    peak_bytes: int


def build(path: Path, make: Callable[..., Index], *arguments: Any, threads: int) -> BuildCosts:
    """Build an index in a child process and save it, unless `path` is there already.

    Args:
        path: File of the index. The costs are kept beside it.
        make: Function that returns the index.
        arguments: Arguments of `make`.
        threads: Threads of the build.
    """
    task = (_build, path, threads, make, arguments)
    return call_once(path.with_suffix(".costs"), in_child, *task, threads=threads)


def _build(
    path: Path, threads: int, make: Callable[..., Index], arguments: Sequence[Any]
) -> BuildCosts:
    faiss.omp_set_num_threads(threads)
    base = resident_bytes()
    forget_peak()
    start = time.perf_counter()
    index = make(*arguments)
    built = time.perf_counter()
    peak = peak_resident_bytes()
    with atomic_path(path) as part:
        index.save(part)
    return BuildCosts(
        build_s=built - start,
        save_s=time.perf_counter() - built,
        index_bytes=path.stat().st_size,
        base_bytes=base,
        peak_bytes=peak,
    )


class Searcher:
    """An index and the queries to search it with, in a process that does nothing else."""

    def __init__(self, index: Index, queries: np.ndarray, k: int) -> None:
        self.index, self.queries, self.k = index, queries, k
        self._pools = ThreadpoolController()

    def use_threads(self, threads: int) -> None:
        """Set the threads of FAISS and of its matrix products."""
        faiss.omp_set_num_threads(threads)
        self._pools.limit(limits=threads)

    def round(self, number: int, sample: np.ndarray, warm_up: int = WARM_UP) -> pd.DataFrame:
        """Time single queries on one thread. The frame has the columns round, query and ns."""
        self.use_threads(1)
        timed = [self.queries[i : i + 1] for i in (*sample[:warm_up], *sample)]
        taken = np.empty(len(timed), np.int64)
        clock, search, k = time.perf_counter_ns, self.index.search, self.k
        for i, query in enumerate(timed):
            start = clock()
            search(query, k)
            taken[i] = clock() - start
        query, ns = sample.astype(np.int32), taken[-len(sample) :]
        return pd.DataFrame({"round": number, "query": query, "ns": ns})

    def batches(self, size: int, threads: int, calls: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
        """Time searches of batches of queries.

        Args:
            size: Queries per batch.
            threads: Threads of a search.
            calls: Number of batches; 0 for all queries.

        Returns:
            Columns batch, threads and ns (a query), one row per batch; and the items that were
            found, int (queries, k).
        """
        self.use_threads(threads)
        starts = range(0, len(self.queries), size)
        taken, found = [], []
        for start in starts[: calls or None]:
            part = self.queries[start : start + size]
            begin = time.perf_counter_ns()
            found.append(self.index.search(part, self.k)[1])
            taken.append((time.perf_counter_ns() - begin) / len(part))
        frame = pd.DataFrame({"batch": size, "threads": threads, "ns": taken})
        return frame, np.concatenate(found)


def percentiles(latency: pd.DataFrame, by: str = "point") -> pd.DataFrame:
    """Compute the P50 in ms of each round, and its median and range over the rounds.

    Args:
        latency: Columns round, ns and `by`.
        by: Column to group by, the index of the result.

    Returns:
        Columns p50_ms, p50_ms_low and p50_ms_high.
    """
    rounds = (latency.groupby([by, "round"])["ns"].median() / 1e6).groupby(by)
    return rounds.agg(p50_ms="median", p50_ms_low="min", p50_ms_high="max")


@dataclass(frozen=True)
class BenchSettings:
    """How much the bench measures.

    Args:
        k: Neighbours per query.
        points: Search settings per specification, at most.
        rounds: Rounds of everything that is timed.
        queries: Queries per setting and round, one at a time.
        threads: Threads of builds and of large batches.
        seed: Random seed of orders and samples.
    """

    k: int = 100
    points: int = 8
    rounds: int = 3
    queries: int = 300
    threads: int = 2
    seed: int = 0


@dataclass(eq=False)
class Measurements:
    """What the bench measured of a table of indexes.

    Args:
        points: One row per index and search setting: point, factory, family, search, and of the
            index file, build_s, save_s, load_ms, bytes_a_vector, peak_rss_mib and rss_mib.
        rows: Raw rows by name, each with the column point: accuracy (query, recall_k),
            latency (round, query, ns), batches (batch, threads, ns).
        failures: Indexes that could not be built or searched.
    """

    points: pd.DataFrame
    rows: dict[str, pd.DataFrame]
    failures: list[Failure]


def measure_table(
    folder: Path,
    specs: Sequence[Specification],
    vectors: np.ndarray,
    queries: np.ndarray,
    exact: Exact,
    settings: BenchSettings,
    users: np.ndarray | None = None,
) -> Measurements:
    """Build every specification and search it, each in child processes.

    One that fails is recorded by its error's name.

    Args:
        folder: Folder of the index files. Those of a killed run with the same vectors are used.
        specs: Specifications, Flat first.
        vectors: float32 (n, d), unit norm.
        queries: float32 (q, d), one per user.
        exact: Their exact neighbours.
        settings: How much to measure.
        users: Other users' vectors that projections are fitted on.

    Raises:
        AnnError: Flat, the baseline, failed.
    """
    n, inputs = len(vectors), fingerprint(vectors, users)
    failures: list[Failure] = []
    rows: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    for spec in tqdm(specs, "indexes"):
        path = folder / f"{spec.factory}-{inputs}.index"
        with recorded(failures, spec.factory):
            given = (spec.factory, vectors, users)
            costs = build(path, build_index, *given, threads=settings.threads)
            points = pd.DataFrame({"search": search_settings(spec.factory, settings.points, n)})
            points.index += sum(map(len, rows["points"]))
            points = points.rename_axis("point").reset_index().astype({"point": np.int32})
            points = points.assign(
                factory=spec.factory,
                family=spec.family,
                file=path.name,
                build_s=costs.build_s,
                save_s=costs.save_s,
                bytes_a_vector=costs.index_bytes / n,
                peak_rss_mib=max(costs.peak_bytes - costs.base_bytes, 0) / 2**20,
            )
            task = (path, points, queries, exact, settings)
            for name, frame in in_child(_measure, *task, threads=settings.threads).items():
                rows[name].append(frame)
    found = {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}
    return Measurements(found.pop("points"), found, failures)


def _measure(
    path: Path, points: pd.DataFrame, queries: np.ndarray, exact: Exact, settings: BenchSettings
) -> dict[str, pd.DataFrame]:
    """Measure the points of an index; settings take turns, in another random order each round."""
    gc.disable()
    load_library(library(points["factory"].iloc[0]))
    before, start = resident_bytes(), time.perf_counter()
    index = load_index(path)
    load_ms, rss_mib = 1e3 * (time.perf_counter() - start), (resident_bytes() - before) / 2**20
    searcher, rng = Searcher(index, queries, settings.k), np.random.default_rng(settings.seed)
    rows: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    settled = list(zip(points["point"], points["search"], strict=True))
    for point, search in settled:
        index.set(search)
        searcher.batches(WARM_UP, settings.threads, calls=1)
        batches, items = searcher.batches(LARGE_BATCH, settings.threads)
        query = np.arange(len(items), dtype=np.int32)
        accuracy = pd.DataFrame({"query": query, "recall_k": exact.recall(items)})
        single = searcher.batches(LARGE_BATCH, 1, calls=1)[0]
        rows["accuracy"].append(accuracy.assign(point=point))
        rows["batches"] += [batches.assign(point=point), single.assign(point=point)]
    for number in range(settings.rounds):
        sample = rng.permutation(len(queries))[: settings.queries]
        for turn in rng.permutation(len(settled)):
            point, search = settled[turn]
            index.set(search)
            small = searcher.batches(SMALL_BATCH, 1, SMALL_BATCHES)[0]
            rows["batches"].append(small.assign(point=point))
            rows["latency"].append(searcher.round(number, sample).assign(point=point))
    found = {name: pd.concat(frames, ignore_index=True) for name, frames in rows.items()}
    return found | {"points": points.assign(load_ms=load_ms, rss_mib=rss_mib)}


def time_in_turns(
    folder: Path,
    points: pd.DataFrame,
    queries: np.ndarray,
    settings: BenchSettings,
    rounds: int,
    timed: int,
) -> pd.DataFrame:
    """Time a few points again, in a process that does nothing else.

    They take turns every few queries, so that drift favours none.

    Args:
        folder: Folder of `measure_table`.
        points: Some rows of `Measurements.points`.
        queries: float32 (q, d).
        settings: How much to measure.
        rounds: Number of rounds.
        timed: Searches of each point per round. Beyond one for each query they are repeats, which
            show the machine's noise and no other users.

    Returns:
        Columns point, round, query and ns.
    """
    gc.disable()
    rng = np.random.default_rng(settings.seed + 1)
    files = points.drop_duplicates("file")
    loaded = {
        row.file: Searcher(load_index(folder / row.file), queries, settings.k)
        for row in files.itertuples()
    }
    turns = [(row.point, row.search, loaded[row.file]) for row in points.itertuples()]
    found = []
    for number in range(rounds):
        sample = np.resize(rng.permutation(len(queries)), timed)  # each once before any again
        for start in range(0, len(sample), TURN):
            for turn in rng.permutation(len(turns)):
                point, search, searcher = turns[turn]
                searcher.index.set(search)
                part = sample[start : start + TURN]
                # The warm-up brings the index back into the caches.
                found.append(searcher.round(number, part, warm_up=2).assign(point=point))
    return pd.concat(found, ignore_index=True)


def measure_served(
    factory: str,
    search: str,
    vectors: np.ndarray,
    queries: Queries,
    k: int,
    users: np.ndarray | None = None,
) -> pd.DataFrame:
    """Build an index of a catalogue as the serving bundle does, and search it for every user.

    Args:
        factory: Specification of the index.
        search: Search setting.
        vectors: float32 (n, d), the catalogue's item vectors.
        queries: One query per user.
        k: Neighbours per query, fewer in a catalogue that has not so many.
        users: Other users' vectors that projections are fitted on.

    Returns:
        One row per user: user, recall of the k exact neighbours, and the ranks of the held-out item
        in the index's answer and in the exact one, see `Queries.ranks`.
    """
    n = len(vectors)
    k, (factory, search) = min(k, n), fitted(factory, search, n)
    index, flat = build_index(factory, vectors, users), build_index(BASELINE, vectors)
    index.set(search)
    exact = exact_neighbours(vectors, queries.vectors, k)
    recall = exact.recall(index.search(queries.vectors, k)[1])
    return pd.DataFrame(
        {
            "user": queries.users,
            "recall": recall,
            "rank": queries.ranks(index.search, n),
            "exact_rank": queries.ranks(flat.search, n),
        }
    )
