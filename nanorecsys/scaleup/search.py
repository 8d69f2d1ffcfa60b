"""Search an index of a large catalogue at the fastest setting that reaches a floor of recall.

All settings of a grid are searched under the first users. The cheapest that surely reach the floor
are timed, one query at a time on one thread, in another random order in each round. The fastest is
then timed again, and its recall is measured under the other users, because the best of many noisy
figures is too good.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nanorecsys.ann.bench import Searcher, percentiles
from nanorecsys.ann.exact import Exact
from nanorecsys.ann.indexes import read_bytes
from nanorecsys.ann.specs import parse_setting
from nanorecsys.evaluation import mean_interval
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.serving.retrieval import Index
from nanorecsys.system.blas import faiss
from nanorecsys.system.memory import forget_peak, peak_resident_bytes

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


class FlatSearch:
    """Exact search of vectors in place, by the kernel of `IndexFlatIP` without its copy."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self.index: Any = None

    def set(self, search: str) -> None:
        """Ignore the setting: there is none."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `nanorecsys.serving.retrieval.Index`."""
        return faiss.knn(queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT)

    def save(self, path: Path) -> None:
        """Do nothing: the catalogue is a file already."""


def open_flat(rows: CatalogueFile, in_memory: bool) -> FlatSearch:
    """Open exact search of a catalogue, read into memory or mapped."""
    if in_memory:
        return FlatSearch(rows.read(0, rows.n))
    return FlatSearch(np.load(rows.path, mmap_mode="r")[: rows.n])


def cheapest(settings: Sequence[str]) -> list[str]:
    """Keep the settings that no other one undercuts in all its values.

    >>> settings = [f"nprobe={n},k_factor_rf={f}" for n, f in ((4, 2), (2, 8), (4, 4))]
    >>> cheapest(settings)
    ['nprobe=4,k_factor_rf=2', 'nprobe=2,k_factor_rf=8']
    """
    if not settings:
        return []
    values = np.array([list(parse_setting(setting).values()) for setting in settings])
    as_low: Any = (values[None] <= values[:, None]).all(axis=2)
    lower: Any = (values[None] < values[:, None]).any(axis=2)
    undercut = (as_low & lower).any(axis=1)
    return [setting for setting, other in zip(settings, undercut, strict=True) if not other]


def surely(recall: np.ndarray, floor: float) -> bool:
    """Say whether the mean recall passes the floor by `SURE` standard errors.

    >>> recall = np.array([0.9, 1.0] * 32)
    >>> surely(recall, 0.92), surely(recall, 0.93)
    (True, False)
    """
    return bool(recall.mean() - SURE * recall.std() / np.sqrt(len(recall)) >= floor)


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
        settings: Settings to try, in the order of their cost.
        queries: float32 (q, d), one per user.
        exact: Their exact neighbours.
        options: How to choose and time.

    Returns:
        The chosen setting: search, recall with its interval over users, P50 as
        `ann.bench.percentiles` has it, queries_per_s, read_bytes (None for a graph) and peak_bytes.
        And raw rows: accuracy (search, query, recall) and latency (search, round, query, ns;
        negative rounds are the second measurement).
    """
    gc.disable()
    rng = np.random.default_rng(options.seed)
    forget_peak()
    searcher = Searcher(load(*arguments), queries, options.k)

    def timed_round(search: str, number: int, sample: np.ndarray) -> pd.DataFrame:
        searcher.index.set(search)
        return searcher.round(number, sample, WARM_UP).assign(search=search)

    def sample_of_queries() -> np.ndarray:
        return rng.permutation(len(queries))[: options.timed]

    recalls = {}
    for search in settings:
        searcher.index.set(search)
        _, items = searcher.batches(options.choosing, options.threads, calls=1)
        recalls[search] = exact.recall(items)
    timed = cheapest([s for s, recall in recalls.items() if surely(recall, options.floor)])
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
    rate, items = searcher.batches(len(queries), options.threads)
    recalls[chosen] = exact.recall(items)
    accuracy = [
        pd.DataFrame({"search": search, "query": np.arange(len(own)), "recall": own})
        for search, own in recalls.items()
    ]
    unused = recalls[chosen][options.choosing :]
    recall = mean_interval(unused if len(unused) else recalls[chosen])
    row = {
        "search": chosen,
        "recall": recall.estimate,
        "recall_low": recall.low,
        "recall_high": recall.high,
        **percentiles(pd.concat(confirming), "search").loc[chosen].to_dict(),
        "queries_per_s": 1e9 / rate["ns"].mean(),
        "read_bytes": read_bytes(searcher.index, queries, options.k),
        "peak_bytes": peak_resident_bytes(),
    }
    rows = {"accuracy": pd.concat(accuracy), "latency": pd.concat(rounds + confirming)}
    return row, rows
