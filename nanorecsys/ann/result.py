"""The result record of chapter 04. Latencies are of single queries on one thread."""

from typing import TypeVar

import msgspec
import pandas as pd

from nanorecsys.ann.errors import Failure
from nanorecsys.ann.limits import Limits
from nanorecsys.evaluation import Change
from nanorecsys.study.spread import Interval, Spread

T = TypeVar("T", bound=msgspec.Struct)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """An index with a search setting of its library.

    Recalls are against exact search, ties counted. `sure` is the lower end of the 95 % interval of
    recall_k over the users who choose the settings, `recall_k` is of the other users.
    """

    factory: str
    family: str
    search: str
    sure: float
    recall_k: Interval
    p50_ms: Spread
    bytes_a_vector: float
    build_s: float


class OperatingPoint(Point, frozen=True, kw_only=True):
    """A point of the whole table.

    Times in batches are per query on one thread; `queries_per_s` uses all threads. `peak_rss_mib`
    is the build's resident memory above that with the vectors loaded, `rss_mib` what loading the
    index adds.
    """

    batch_32_ms: float
    large_batch_ms: float
    queries_per_s: float
    save_s: float
    load_ms: float
    peak_rss_mib: float
    rss_mib: float


class Finalist(Point, frozen=True, kw_only=True):
    """A point that was timed again in turns with Flat.

    `times_flat` is Flat's P50 over its own within a round, `saved_ms` the difference. `p99_ms` is
    over all rounds, None where too few queries were timed.
    """

    p99_ms: float | None
    times_flat: Spread
    saved_ms: float


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The recommended index built on a catalogue of real items, with its users' queries.

    `recall` is of k neighbours, with its interval over users; `ndcg` is the change of NDCG@10 from
    exact search, paired by user.
    """

    items: int
    users: int
    recall: Interval
    ndcg: Change


class AnnResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 04 found.

    `choosing` users choose the settings, and recall is reported of `reporting` others. `best` has
    one point per specification: the fastest that surely reaches the floor of recall, else the one
    with the highest recall. `fastest` is that of the finalists which keep it, `fastest_999` that
    which keeps 0.999, `recommended` the one for the serving bundle, and `second_choice` the one
    for a host without its library. `served` is by data set.
    """

    dataset: str
    n_items: int
    d: int
    real: int
    generator: str
    k: int
    choosing: int
    reporting: int
    recall_floor: float
    memory_bound: float
    points: int
    best: list[OperatingPoint]
    failures: list[Failure]
    limits: Limits
    finalists: list[Finalist]
    fastest: Finalist
    fastest_999: Finalist
    recommended: Finalist
    second_choice: Finalist
    served: dict[str, Served]
    seconds: float


def to_records(frame: pd.DataFrame, kind: type[T]) -> list[T]:
    """Convert rows to structs; x, x_low and x_high become a field x of type `Spread` or `Interval`.

    >>> frame = pd.DataFrame({"factory": ["Flat"], "error": ["E"], "message": ["m"], "more": [1]})
    >>> to_records(frame, Failure)
    [Failure(factory='Flat', error='E', message='m')]
    """
    found = []
    for row in frame.astype(object).where(frame.notna(), None).to_dict("records"):
        for field in msgspec.structs.fields(kind):
            if field.type in (Spread, Interval):
                figures = [row[f"{field.name}{end}"] for end in ("", "_low", "_high")]
                names = field.type.__struct_fields__
                row[field.name] = dict(zip(names, figures, strict=True))
        found.append(msgspec.convert(row, kind))
    return found
