"""Search an index of a large catalogue at the fastest setting that reaches a floor of recall.

Under the first users, each number of re-ranked candidates gets as few lists as surely reach the
floor, so that indexes and sizes are compared at nearly equal recall. These settings are timed, one
query at a time on one thread, in another random order in each round. The fastest is timed again,
and its recall is measured under the other users, because the best of many noisy figures is too
good.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import Searcher, percentiles
from nanorecsys.ann.exact import Exact
from nanorecsys.evaluation import mean_interval
from nanorecsys.scaleup.catalogue import BLOCK, CatalogueFile
from nanorecsys.serving.retrieval import FaissIndex, Index, parse_setting
from nanorecsys.system.blas import faiss
from nanorecsys.system.memory import resident_bytes

WARM_UP = 5
# Standard errors by which a setting has to pass the floor: two are the interval of as many other
# users, and two more allow for the difference between the two groups.
SURE = 4.0
CONFIRM_ROUNDS = 3


@dataclass(frozen=True)
class SearchOptions:
    """How a setting is chosen and timed.

    Args:
        k: Neighbours per query.
        floor: Floor of the mean recall.
        choosing: Number of first queries under which the setting is chosen.
        rounds: Rounds in which candidates are timed.
        timed: Queries per round.
        threads: Threads of large batches.
        seed: Random seed of orders and samples.
    """

    k: int = 10
    floor: float = 0.95
    choosing: int = 200
    rounds: int = 2
    timed: int = 100
    threads: int = 2
    seed: int = 0


def open_flat(rows: CatalogueFile) -> FaissIndex:
    """Open exact search of a catalogue."""
    index: Any = faiss.IndexFlatIP(rows.d)
    for block in rows.blocks(BLOCK):
        index.add(rows.read(*block))
    return FaissIndex(index)


def surely(recall: np.ndarray, floor: float) -> bool:
    """Say whether the mean recall passes the floor by `SURE` standard errors.

    >>> recall = np.array([0.9, 1.0] * 32)
    >>> surely(recall, 0.92), surely(recall, 0.93)
    (True, False)
    """
    return bool(recall.mean() - SURE * recall.std() / np.sqrt(len(recall)) >= floor)


def fewest(setting: str, passes: Callable[[str], bool]) -> str:
    """Lower the first value of a setting that passes as far as it still does, by bisection.

    >>> fewest("nprobe=48,k_factor_rf=8", lambda s: parse_setting(s)["nprobe"] >= 37)
    'nprobe=37,k_factor_rf=8'
    """
    if not setting:
        return setting
    name, high = next(iter(parse_setting(setting).items()))
    low, best, widest = 0, setting, f"{name}={high}"
    while high - low > 1:
        middle = (low + high) // 2
        tried = setting.replace(widest, f"{name}={middle}", 1)
        if passes(tried):
            high, best = middle, tried
        else:
            low = middle
    return best


def search_at_floor(
    load: Callable[..., Index],
    arguments: Sequence[Any],
    settings: Sequence[str],
    queries: np.ndarray,
    exact: Exact,
    options: SearchOptions,
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Choose a setting and measure it, in a process that does nothing else.

    Args:
        load: Function that returns the index.
        arguments: Arguments of `load`.
        settings: Settings that search most lists, and others to measure the recall of.
        queries: float32 (q, d), one per user.
        exact: Their exact neighbours.
        options: How to choose and time.

    Returns:
        The chosen setting: search, recall with its interval over users, P50 as
        `ann.bench.percentiles` has it, and served_gib. And raw rows: accuracy (search, query,
        recall) and latency (search, round, query, ns; negative rounds are the second measurement).
    """
    gc.disable()
    rng = np.random.default_rng(options.seed)
    searcher = Searcher(load(*arguments), queries, options.k)

    def timed_round(search: str, number: int, sample: np.ndarray) -> pd.DataFrame:
        searcher.index.set(search)
        return searcher.round(number, sample, WARM_UP).assign(search=search)

    def sample_of_queries() -> np.ndarray:
        return rng.permutation(len(queries))[: options.timed]

    recalls = {}

    def passes(search: str) -> bool:
        if search not in recalls:
            searcher.index.set(search)
            _, items = searcher.batches(options.choosing, options.threads, calls=1)
            recalls[search] = exact.recall(items)
        return surely(recalls[search], options.floor)

    passing = [search for search in settings if passes(search)]
    timed = sorted({fewest(search, passes) for search in passing})
    timed = timed or [max(settings, key=lambda search: recalls[search].mean())]
    rounds: list[pd.DataFrame] = []
    chosen = timed[0]
    if len(timed) > 1:
        for number in range(options.rounds):
            sample = sample_of_queries()
            rounds += [timed_round(timed[i], number, sample) for i in rng.permutation(len(timed))]
        chosen = percentiles(pd.concat(rounds), "search")["p50_ms"].idxmin()
    confirming = [timed_round(chosen, -1 - i, sample_of_queries()) for i in range(CONFIRM_ROUNDS)]
    searcher.index.set(chosen)
    _, items = searcher.batches(len(queries), options.threads)
    recalls[chosen] = exact.recall(items)
    accuracy = [
        pd.DataFrame({"search": search, "query": np.arange(len(own)), "recall": own})
        for search, own in recalls.items()
    ]
    unused = recalls[chosen][options.choosing :]
    recall = mean_interval(unused if len(unused) else recalls[chosen])
    row = {
        "search": chosen,
        **recall.columns("recall"),
        **percentiles(pd.concat(confirming), "search").loc[chosen].to_dict(),
        "served_gib": resident_bytes() / 2**30,
    }
    rows = {"accuracy": pd.concat(accuracy), "latency": pd.concat(rounds + confirming)}
    return row, rows
