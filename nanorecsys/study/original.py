"""The original's figures and claims (original.yaml), each judged from this study's records.

"The original" is the earlier benchmark. A row sets one of its figures beside ours on equal
hardware. The worst ratio of ours to the original's decides by default: at least as good holds,
within a factor of two holds with a limit, anything else does not hold. If the original gave no
figure, the row's own target applies to our first value.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from nanorecsys.study.claims import JudgedClaim, Target
from nanorecsys.study.records import Record

TABLE = Path(__file__).with_name("original.yaml")
STUDY_SIZE = (27_278, 256, 100)  # items, dimensions, neighbours
SCALE_UP_ITEMS = 3_000_000
ORIGINAL_RATE = 80  # requests/s
Values = tuple[float, ...]
ReadValues = Callable[[Any], Values | None]  # from a chapter's result; None if it was not measured


class OriginalRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure or claim of the original; original.yaml says what the fields mean."""

    id: str
    claim: str
    original: str
    figures: tuple[float, ...] = ()
    chapter: str = "06_loadtest"
    section: str
    shown: str
    target: Target = Target(">=", 1.0, limit=0.5)
    per_core: bool = False

    @property
    def address(self) -> str:
        """The section's address in the book, relative to the chapters' pages."""
        return f"{self.chapter}.html#{anchor(self.section)}"


ORIGINAL = msgspec.yaml.decode(TABLE.read_bytes(), type=tuple[OriginalRow, ...])


def judge_original(records: Mapping[str, Record[Any]]) -> list[JudgedClaim]:
    """Judge every row of the original from the records of the chapters that have run."""
    return [judge_row(row, READERS[row.id], records.get(row.chapter)) for row in ORIGINAL]


def judge_row(row: OriginalRow, read: ReadValues, record: Record[Any] | None) -> JudgedClaim:
    """Judge one row from our values.

    Args:
        row: Row of the original.
        read: Function from the chapter's result to our values.
        record: Record of the chapter, None if it has not run.
    """
    values = read(record.result) if record else None
    if record and values and row.per_core:
        values = tuple(value / record.provenance.machine.cores for value in values)
    ratios = [ours / figure for ours, figure in zip(values or (), row.figures, strict=False)]
    worst = max if row.target.operator == "<=" else min
    return JudgedClaim(
        id=f"original.{row.id}",
        chapter=row.chapter,
        statement=row.claim,
        original=row.original,
        value=values[0] if values else None,
        shown=row.shown.format(*values) if values else "-",
        over_original=ratios,
        unit="",
        target=f"{row.target} of the original's" if row.figures else str(row.target),
        verdict=row.target.judge(worst(ratios or values[:1]) if values else None),
    )


def anchor(section: str) -> str:
    """The id of a heading in the built page.

    >>> anchor("The earlier benchmark's table on its own generator")
    'the-earlier-benchmark-s-table-on-its-own-generator'
    """
    return re.sub(r"[^a-z0-9]+", "-", section.lower()).strip("-")


def _at_study_shape(read: ReadValues) -> ReadValues:
    """A figure of the load test at the study's shape."""
    return lambda r: read(r) if r.is_study_shape else None


def _at_full_length(read: ReadValues) -> ReadValues:
    """A figure of the load test at the study's shape under loads of their full length."""
    return lambda r: read(r) if r.is_study_shape and r.is_full else None


def _highest(*names: str) -> ReadValues:
    """Fields of the row of the highest valid rate."""
    return _at_full_length(lambda r: r.highest and tuple(getattr(r.highest, n) for n in names))


def _loaded(stage: str) -> ReadValues:
    """P50 and P95 of a stage at the highest rate."""
    return _at_full_length(lambda r: (s.p50, s.p95) if (s := r.stages_loaded.get(stage)) else None)


def _rate(r: Any) -> Values:
    return (r.highest.offered_per_s if r.highest else 0.0,)


def _throughput(r: Any) -> Values | None:
    if not r.busy or not r.busy.baseline_per_s:
        return None
    baseline, optimized = r.busy.baseline_per_s.middle, r.busy.optimized_per_s.middle
    return optimized / baseline, baseline, optimized


def _embedding_speed(r: Any) -> Values:
    before, after = r.baseline_stages["embedding"].p50, r.stages_alone["embedding"].p50
    return before / after, before, after


def _stable_computing(r: Any) -> Values | None:
    alone, loaded = r.stages_alone.get("compute"), r.stages_loaded.get("compute")
    return (loaded.p95 / alone.p95,) if alone and loaded else None


def _rungs(field: str, *pairs: tuple[str, str]) -> ReadValues:
    """Product over pairs of rungs of the ladder: a field of the first over that of the second."""

    def read(r: Any) -> Values | None:
        found = {rung.name: getattr(rung, field) for rung in r.ladder}
        product = 1.0
        for above, below in pairs:
            if not found.get(above) or not found.get(below):
                return None
            product *= found[above] / found[below]
        return (product,)

    return _at_full_length(read)


def _queueing(field: str) -> ReadValues:
    """A figure of the original's own service times in the queue at its rate."""

    def read(r: Any) -> Values | None:
        rows = [o for o in r.original if o.hits_wait and o.offered_per_s == ORIGINAL_RATE]
        return (getattr(rows[0], field),) if rows else None

    return read


def _index(family: str, generator: str | None = None) -> ReadValues:
    """Recall over its floor, recall, and speed relative to Flat at three million items.

    Args:
        family: Name of the index family in the scale-up chapter.
        generator: Generator of the catalogue; the recommended one by default.
    """

    def read(r: Any) -> Values | None:
        wanted = (generator or r.recommended_generator, SCALE_UP_ITEMS)
        rows = {row.family: row for row in reversed(r.rows) if (row.generator, row.n) == wanted}
        if family not in rows or "Flat" not in rows:
            return None
        row, flat = rows[family], rows["Flat"]
        return row.recall / r.recall_floor, row.recall, flat.p50_ms.middle / row.p50_ms.middle

    return read


def _generator(r: Any) -> Values | None:
    judged = {j.generator: j.worst for j in r.judged}
    worst = judged.get("independent")
    return None if worst is None else (worst / r.bound, worst)


def _flat_default(r: Any) -> Values | None:
    at_study_size = (r.n_items, r.d, r.k) == STUDY_SIZE
    return (r.recommended.saved_ms,) if at_study_size else None


READERS: dict[str, ReadValues] = {
    "flat_default": _flat_default,
    "generator": _generator,
    "exact": lambda r: (r.flat.recall,),
    "pq_independent": _index("IVF, PQ", "independent"),
    "pq": _index("IVF, PQ"),
    "sq_independent": _index("IVF, SQ8", "independent"),
    "sq": _index("IVF, SQ8"),
    "compute": _at_full_length(lambda r: (r.busy.times.middle,) if r.busy else None),
    "throughput": _at_study_shape(_throughput),
    "rate": _at_full_length(_rate),
    "embedding_speed": _at_study_shape(_embedding_speed),
    "efficiency": _at_study_shape(lambda r: (r.busy.times.middle,) if r.busy else None),
    "rate_per_core": _at_full_length(_rate),
    "onnx": _rungs("cpu_ms", ("torch", "ONNX")),
    "thread_pool": _rungs("highest_per_s", ("pool", "chosen tower"), ("second thread", "index")),
    "latency": _highest("p50_ms", "p95_ms"),
    "embedding": _loaded("embedding"),
    "ranking": _loaded("ranking"),
    "retrieval": _loaded("retrieval"),
    "computing": _loaded("compute"),
    "median": _highest("p50_ms"),
    "transformer": _at_full_length(
        lambda r: (r.stages_alone["embedding"].p50 / r.stages_alone["compute"].p50,)
    ),
    "p99": _highest("p99_ms"),
    "stable_computing": _at_full_length(_stable_computing),
    "queueing_tail": _at_study_shape(
        lambda r: (r.bands[-1].waiting_share,) if r.highest and r.bands else None
    ),
    "saturation": _queueing("load"),
    "queueing_p99": _queueing("p99_ms"),
}
