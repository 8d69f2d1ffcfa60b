"""The result record of chapter 04. Latencies are of single queries on one thread."""

from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd

from nanorecsys.ann.errors import Failure
from nanorecsys.ann.limits import Limits
from nanorecsys.evaluation import Interval
from nanorecsys.study.spread import Spread

T = TypeVar("T")


class OperatingPoint(msgspec.Struct, frozen=True, kw_only=True):
    """An index with a search setting.

    `recall_10` and `recall_k` are against exact search, ties counted. `worst_decile` is the mean
    recall_k of the tenth of the users with the lowest. `read_mib` is what a query reads and
    `floor_ms` the least time that takes; both are None for a graph. Times in batches are per query
    on one thread; `queries_per_s` uses all threads. `peak_rss_mib` is the build's resident memory
    above that with the vectors loaded.
    """

    factory: str
    family: str
    search: str
    recall_10: float
    recall_k: float
    worst_decile: float
    p50_ms: Spread
    p99_ms: Spread
    batch_32_ms: float
    batch_1000_ms: float
    queries_per_s: float
    hitrate: float
    ndcg: float
    build_s: float
    save_s: float
    load_ms: float
    bytes_a_vector: float
    peak_rss_mib: float
    read_mib: float | None
    floor_ms: float | None
    on_front: bool


class Finalist(msgspec.Struct, frozen=True, kw_only=True):
    """A point that was timed again in turns with Flat; `times_flat` is Flat's P50 over its own."""

    factory: str
    family: str
    search: str
    recall_k: float
    bytes_a_vector: float
    p50_ms: Spread
    p99_ms: Spread
    times_flat: float


class Recommended(msgspec.Struct, frozen=True, kw_only=True):
    """The index that the serving bundle takes. `search` is a string of `faiss.ParameterSpace`."""

    factory: str
    family: str
    search: str
    recall_10: float
    recall_k: float
    worst_decile: float
    p50_ms: Spread
    p99_ms: Spread
    times_flat: float
    saved_ms: float
    bytes_a_vector: float
    build_s: float
    hitrate_change: Interval
    ndcg_change: Interval


class AnnResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 04 found.

    `best` has one point per specification: the fastest that reaches the floor of recall, else the
    one with the highest recall. `fastest` has the recall that is reached as key. `tenth_p50_ms` is
    Flat's P50 on a tenth of the vectors.
    """

    dataset: str
    n_items: int
    d: int
    real: int
    generator: str
    k: int
    queries: int
    users: int
    recall_floor: float
    memory_bound: float
    points: int
    best: list[OperatingPoint]
    failures: list[Failure]
    limits: Limits
    tenth_p50_ms: float | None
    finalists: list[Finalist]
    fastest: dict[str, Finalist]
    recommended: Recommended
    seconds: float


def to_records(frame: pd.DataFrame, kind: type[T]) -> list[T]:
    """Convert rows to structs; p50_ms, p50_ms_low and p50_ms_high become one `Spread`.

    >>> frame = pd.DataFrame({"factory": ["Flat"], "error": ["E"], "message": ["m"], "more": [1]})
    >>> to_records(frame, Failure)
    [Failure(factory='Flat', error='E', message='m')]
    """
    found = []
    for values in frame.to_dict("records"):
        row = {str(name): _plain(value) for name, value in values.items()}
        for name in ("p50_ms", "p99_ms"):
            if name in row:
                row[name] = {
                    "middle": row[name],
                    "low": row[f"{name}_low"],
                    "high": row[f"{name}_high"],
                }
        found.append(msgspec.convert(row, kind))
    return found


def _plain(value: Any) -> Any:
    """Convert a cell to what JSON has: NaN becomes None, a NumPy scalar one of Python."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or value != value else value
