"""`python -m nanorecsys.scaleup.search_worker PLAN`: measure one index in a process that does nothing else.

All settings of the grid are searched for their recall under a few scouting queries, those that may
be the least to reach the floor under more. The least that surely reach it are timed, one query at a
time on one thread, in rounds and in another random order in each. The fastest is then timed anew,
and its recall is that under the other
queries: the best of many noisy figures flatters itself. It writes its `Measured` beside the plan,
and rows to parquet:

    accuracy  setting, query, recall       one row a query: of every setting the first, of the
    chosen one all latency   setting, round, query, ns    one query at a time, one thread; the
    rounds of the second timing are negative
"""

import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from nanorecsys.ann.exact import Exact
from nanorecsys.ann.measure_worker import read_bytes
from nanorecsys.ann.specs import BASELINE, parse_setting
from nanorecsys.scaleup.rows import Rows
from nanorecsys.serving.retrieval import FaissIndex, load_index
from nanorecsys.study.spread import Spread, spread
from nanorecsys.system.blas import faiss
from nanorecsys.system.memory import forget_peak, peak_resident_bytes

WARM_UP = 5
SCOUTS = 150  # queries under which every setting is tried
SURE = 2.0  # standard errors: of so many settings the least that just reaches the floor owes it to its queries
CONFIRM_ROUNDS = 3


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Args:
        factory: of the index, `Flat` for exact search of the first n rows of the catalogue.
        index: its file; the catalogue's for `Flat`.
        n: vectors in it.
        queries: .npy of float32 (q, d).
        truth: .npz of the exact neighbours, see `save_truth`.
        settings: of the search, in order of their cost.
        k: neighbours asked for.
        floor: of recall.
        choosing: queries, the first, under which the setting is chosen; 0 where there is nothing to
            choose.
        rounds: of what is timed.
        timed: queries in each round.
        threads: of the throughput measure.
        in_memory: read the catalogue into memory for `Flat`; otherwise it stays mapped.
        seed: of the orders.
    """

    factory: str
    index: str
    n: int
    queries: str
    truth: str
    settings: list[str]
    k: int
    floor: float
    choosing: int
    rounds: int
    timed: int
    threads: int = 2
    in_memory: bool = True
    seed: int = 0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen setting: the fastest that reaches the floor, or else the one with the highest recall.

    `recall` is under the queries that had no part in the choice, `recalls` those of all settings
    under the others. `read_bytes` are those that a scan reads for a query; None for a graph.
    `queries_per_s` is in one batch on all threads.
    """

    search: str
    recall: float
    p50_ms: Spread
    p99_ms: Spread
    queries_per_s: float
    read_bytes: float | None
    peak_bytes: int
    settings: list[str]
    recalls: list[float]


def least(settings: Sequence[str]) -> set[str]:
    """The settings that ask for no more of anything than another one does, and for less of something.

    >>> sorted(least(["nprobe=4,k_factor_rf=2", "nprobe=2,k_factor_rf=8", "nprobe=4,k_factor_rf=4"]))
    ['nprobe=2,k_factor_rf=8', 'nprobe=4,k_factor_rf=2']
    """
    values = {s: tuple(parse_setting(s).values()) for s in settings}

    def beaten(mine: tuple[int, ...]) -> bool:
        return any(
            v != mine and all(a <= b for a, b in zip(v, mine, strict=True)) for v in values.values()
        )

    return {s for s, mine in values.items() if not beaten(mine)}


def surely(recall: np.ndarray, floor: float) -> bool:
    """Whether the mean recall reaches the floor by `SURE` standard errors.

    >>> recall = np.array([0.9, 1.0] * 8)
    >>> surely(recall, 0.92), surely(recall, 0.93)
    (True, False)
    """
    return _lowest(recall, SURE) >= floor


def promising(settings: Sequence[str], recalls: Sequence[np.ndarray], floor: float) -> list[int]:
    """Settings that may reach the floor, and ask for no more than one that surely does.

    Args:
        settings: of the search.
        recalls: of each under some queries.
        floor: of the mean recall.

    >>> few = [np.full(100, recall) for recall in (0.8, 0.95, 0.99)]
    >>> promising(["nprobe=1", "nprobe=2", "nprobe=4"], few, floor=0.9)
    [1]
    """
    sure = least([s for s, recall in zip(settings, recalls, strict=True) if surely(recall, floor)])
    return [
        i
        for i, (setting, recall) in enumerate(zip(settings, recalls, strict=True))
        if _lowest(recall, -SURE) >= floor and setting in least([*sure, setting])
    ]


class FlatSearch:
    """Exact search of rows as they are, by the kernel that `IndexFlatIP` calls; without its copy of them."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def set(self, search: str) -> None:
        """Nothing to set."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `nanorecsys.ann.indexes.Index`."""
        return faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)


def save_truth(path: Path, exact: Exact, k: int) -> None:
    """Keep exact neighbours for other processes."""
    with path.open("wb") as file:
        np.savez(file, scores=exact.scores, items=exact.items, n=exact.n, hits=exact.hits[k])


def load_truth(path: Path, k: int) -> Exact:
    """What `save_truth` kept."""
    with np.load(path) as kept:
        return Exact(kept["scores"], kept["items"], int(kept["n"]), {k: kept["hits"]})


def measure(plan: Plan, folder: Path) -> Measured:
    """Measure one index; rows go to the folder."""
    queries = np.load(plan.queries)
    exact = load_truth(Path(plan.truth), plan.k)
    rng = np.random.default_rng(plan.seed)
    forget_peak()
    index = _open(plan)
    asked = queries[: plan.timed] if plan.factory == BASELINE else queries
    _pin(plan.threads)
    scouts = min(SCOUTS, plan.choosing)
    found = []
    for search in plan.settings:
        index.set(search)
        found.append(exact.recall(index.search(asked[: scouts or None], plan.k)[1], plan.k))
    candidates = promising(plan.settings, found, plan.floor)
    for i in candidates if scouts < plan.choosing else ():
        index.set(plan.settings[i])
        found[i] = exact.recall(index.search(asked[: plan.choosing], plan.k)[1], plan.k)
    recalls = [float(recall.mean()) for recall in found]
    reaching = [i for i in candidates if surely(found[i], plan.floor)]
    best = max(range(len(recalls)), key=lambda i: (recalls[i], -i))
    timed = least([plan.settings[i] for i in reaching])
    timed = [i for i in reaching if plan.settings[i] in timed] or [best]
    times = []
    for number in range(plan.rounds if len(timed) > 1 else 0):
        sample = rng.permutation(len(queries))[: plan.timed]
        times += [
            _timed(index, plan, i, number, queries[sample], sample) for i in rng.permutation(timed)
        ]
    chosen = timed[0]
    if times:
        middle = pl.concat(times).group_by("setting", "round").agg(pl.col("ns").median())
        chosen = min(
            middle.group_by("setting").agg(pl.col("ns").median()).rows(), key=lambda row: row[1]
        )[0]
    again = []
    for number in range(CONFIRM_ROUNDS):
        sample = rng.permutation(len(queries))[: plan.timed]
        again.append(_timed(index, plan, chosen, -1 - number, queries[sample], sample))
    pl.concat(times + again).write_parquet(folder / "latency.parquet")
    p50, p99 = (_spread(again, q) for q in (0.5, 0.99))
    _pin(plan.threads)
    begin = time.perf_counter_ns()
    items = index.search(asked, plan.k)[1]
    rate = len(asked) * 1e9 / (time.perf_counter_ns() - begin)
    found[chosen] = exact.recall(items, plan.k)
    pl.concat(
        pl.DataFrame(
            {
                "setting": np.full(len(r), i, np.int32),
                "query": np.arange(len(r), dtype=np.int32),
                "recall": r,
            }
        )
        for i, r in enumerate(found)
    ).write_parquet(folder / "accuracy.parquet")
    search = plan.settings[chosen]
    read = float(plan.n * 4 * queries.shape[1])
    if isinstance(index, FaissIndex):
        read = read_bytes(index, plan.factory, _own(search), queries, plan.k, plan.n)
        read = None if read is None else read - spared_bytes(index)
    return Measured(
        search=search,
        recall=float(found[chosen][plan.choosing :].mean()),
        p50_ms=p50,
        p99_ms=p99,
        queries_per_s=rate,
        read_bytes=read,
        peak_bytes=peak_resident_bytes(),
        settings=plan.settings,
        recalls=recalls,
    )


def _lowest(recall: np.ndarray, errors: float) -> float:
    """The mean less so many standard errors."""
    return float(recall.mean() - errors * recall.std() / np.sqrt(len(recall)))


def _open(plan: Plan) -> FlatSearch | FaissIndex:
    if plan.factory != BASELINE:
        return load_index(plan.factory, Path(plan.index))
    if plan.in_memory:
        return FlatSearch(Rows(Path(plan.index)).read(0, plan.n))
    return FlatSearch(np.load(plan.index, mmap_mode="r")[: plan.n])


def _timed(
    index: FlatSearch | FaissIndex,
    plan: Plan,
    setting: int,
    number: int,
    queries: np.ndarray,
    sample: np.ndarray,
) -> pl.DataFrame:
    index.set(plan.settings[setting])
    with threadpool_limits(1):
        _pin(1)
        single = [queries[i : i + 1] for i in range(len(queries))]
        for query in single[:WARM_UP]:
            index.search(query, plan.k)
        taken = np.empty(len(single), np.int64)
        clock, search = time.perf_counter_ns, index.search
        for i, query in enumerate(single):
            start = clock()
            search(query, plan.k)
            taken[i] = clock() - start
    frame = pl.DataFrame({"query": sample.astype(np.int32), "ns": taken})
    return frame.with_columns(
        setting=pl.lit(int(setting), pl.Int32), round=pl.lit(number, pl.Int32)
    )


def _spread(rounds: list[pl.DataFrame], quantile: float) -> Spread:
    return spread(np.array([frame["ns"].quantile(quantile, "linear") / 1e6 for frame in rounds]))


def _own(search: str) -> str:
    """A setting without that of the coarse graph, which reads no codes."""
    return ",".join(part for part in search.split(",") if not part.startswith("quantizer"))


def spared_bytes(index: FaissIndex) -> float:
    """Bytes of centroids that are not read where their codes are."""
    lists = faiss.try_extract_index_ivf(index.index)
    coarse = faiss.downcast_index(lists.quantizer) if lists is not None else None
    if not isinstance(coarse, faiss.IndexRefine):
        return 0.0
    codes = faiss.downcast_index(coarse.base_index).sa_code_size()
    compared = min(coarse.ntotal, coarse.k_factor * lists.nprobe)
    return 4 * coarse.d * (coarse.ntotal - compared) - coarse.ntotal * codes


def _pin(threads: int) -> None:
    faiss.omp_set_num_threads(threads)


def main(path: Path) -> None:
    """Run the plan in `path`, and write `measured.json` beside it."""
    plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    gc.disable()
    found = measure(plan, path.parent)
    (path.parent / "measured.json").write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
