"""The rows of the original, the earlier benchmark, beside what this study's records say.

A comparison of the original is made here with the same two sides in one run, and is *replicated* or
*refuted* by its rule. A figure that follows from others of its document is *consistent* with them
or *inconsistent*. Where our system does another thing, *ours differs* and its figure is for scale.
A figure of one machine *cannot be compared*.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nanorecsys.study.claims import JudgedClaim, OriginalVerdict
from nanorecsys.study.protocol import ORIGINAL, Kind, OriginalRow
from nanorecsys.study.records import Record

STUDY_SIZE = (27_278, 256, 100)  # items, dimensions, neighbours
SCALE_UP_ITEMS = 3_000_000
ORIGINAL_RATE = 80  # requests/s
TORCH, ONNX = "original, PyTorch", "original, ONNX"  # the original's servers in kind
EXPORTED = "fp32, as exported"  # the encoder as PyTorch exports it
Values = tuple[float, ...]
ReadValues = Callable[[Any], Values | None]  # from a chapter's result; None if it was not measured
BY_RULE: dict[Kind, tuple[OriginalVerdict, OriginalVerdict]] = {
    "comparison": ("replicated", "refuted"),
    "document": ("consistent", "inconsistent"),
}
WITHOUT_RULE: dict[Kind, OriginalVerdict] = {
    "scale": "ours differs",
    "absolute": "cannot be compared",
}


def judge_original(records: Mapping[str, Record[Any]]) -> list[JudgedClaim]:
    """Judge every row of the original from the records of the chapters that have run."""
    return [judge_row(row, READERS[row.id], records.get(row.chapter)) for row in ORIGINAL]


def judge_row(row: OriginalRow, read: ReadValues, record: Record[Any] | None) -> JudgedClaim:
    """Judge one row from our values, of which the first decides.

    Args:
        row: Row of the original.
        read: Function from the chapter's result to our values.
        record: Record of the chapter, None if it has not run.
    """
    values = read(record.result) if record else None
    verdict: OriginalVerdict = "not run"
    if values is not None and row.rule is None:
        verdict = WITHOUT_RULE[row.kind]
    elif values and row.rule:
        kept, broken = BY_RULE[row.kind]
        verdict = kept if row.rule.keeps(values[0] / row.factor) else broken
    return JudgedClaim(
        id=f"original.{row.id}",
        chapter=row.chapter,
        statement=row.claim,
        original=row.original,
        value={"ours": values[0]} if values else {},
        shown="-" if values is None else row.shown.format(*values),
        target=row.target,
        verdict=verdict,
        agreement=row.agreement,
    )


def anchor(section: str) -> str:
    """The id of a heading in the built page.

    >>> anchor("The earlier benchmark's table on its own generator")
    'the-earlier-benchmark-s-table-on-its-own-generator'
    """
    return re.sub(r"[^a-z0-9]+", "-", section.lower()).strip("-")


def _at_study_shape(read: ReadValues) -> ReadValues:
    """A figure at the study's shape."""
    return lambda r: read(r) if r.is_study_shape else None


def _at_full_length(read: ReadValues) -> ReadValues:
    """A figure of the load test at the study's shape under loads of their full length."""
    return lambda r: read(r) if r.is_study_shape and r.is_full else None


def _highest(names: tuple[str, ...], r: Any) -> Values | None:
    """Fields of the row of the highest valid rate, if it has enough requests for all of them."""
    values = tuple(getattr(r.highest, name) for name in names) if r.highest else (None,)
    return None if None in values else values


def _in_kind(stage: str, r: Any) -> Values | None:
    """P50 and P95 of a stage of the original's optimized server in kind."""
    found = r.in_kind_stages.get(ONNX, {}).get(stage)
    return (found.p50, found.p95) if found and found.p95 is not None else None


def _throughput(r: Any) -> Values | None:
    found = [r.server(name) for name in (TORCH, ONNX)]
    before, after = (server.busy_per_s.middle if server else None for server in found)
    return (after / before, before, after) if before and after else None


def _cpu_time(r: Any) -> Values | None:
    """CPU time a request of the original's PyTorch server over that of its optimized one."""
    times = r.times_cpu(TORCH, ONNX)
    return (times.middle,) if times else None


def _exported(r: Any) -> Values | None:
    """Time of an encode in the best PyTorch over that in ONNX Runtime, in single precision."""
    if EXPORTED not in r.variants:
        return None
    before, after = (r.variants[name].served_ms.middle for name in (r.best_torch, EXPORTED))
    return (before / after,)


def _embedding_speed(r: Any) -> Values | None:
    found = [r.in_kind_stages.get(name, {}).get("embedding") for name in (TORCH, ONNX)]
    before, after = (stage.p50 if stage else None for stage in found)
    return (before / after, before, after) if before and after else None


def _transformer(r: Any) -> Values | None:
    found = [r.in_kind_stages.get(ONNX, {}).get(name) for name in ("embedding", "compute")]
    embedding, compute = (stage.p50 if stage else None for stage in found)
    return (embedding / compute,) if embedding and compute else None


def _stable_computing(r: Any) -> Values | None:
    found = [stages.get("compute") for stages in (r.stages_alone, r.stages_loaded)]
    alone, loaded = (stage.p95 if stage else None for stage in found)
    return (loaded / alone,) if alone and loaded else None


def _queueing(field: str, r: Any) -> Values | None:
    """A figure of the original's own service times in the queue at its rate."""
    rows = [o for o in r.original if o.hits_wait and o.offered_per_s == ORIGINAL_RATE]
    return (getattr(rows[0], field),) if rows else None


def _index(family: str, r: Any) -> Values | None:
    """Recall over its floor, recall, and speed relative to Flat, on the original's catalogue.

    Args:
        family: Name of the index family in the scale-up chapter.
        r: Result of that chapter.
    """
    wanted = ("independent", SCALE_UP_ITEMS)
    rows = {row.family: row for row in reversed(r.rows) if (row.generator, row.n) == wanted}
    if family not in rows or "Flat" not in rows:
        return None
    row, flat = rows[family], rows["Flat"]
    return row.recall / r.recall_floor, row.recall, flat.p50_ms.middle / row.p50_ms.middle


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
    "pq_independent": partial(_index, "IVF, PQ"),
    "sq_independent": partial(_index, "IVF, SQ8"),
    "throughput": _at_study_shape(_throughput),
    "embedding_speed": _at_study_shape(_embedding_speed),
    "efficiency": _at_study_shape(_cpu_time),
    "onnx": _at_study_shape(_exported),
    "thread_pool": _at_full_length(lambda r: (r.thread_gain,) if r.thread_gain else None),
    "transformer": _at_study_shape(_transformer),
    "stable_computing": _at_full_length(_stable_computing),
    "queueing_tail": _at_study_shape(
        lambda r: (r.bands[-1].waiting_share,) if r.highest and r.bands else None
    ),
    "saturation": partial(_queueing, "load"),
    "queueing_p99": partial(_queueing, "p99_ms"),
    "rate": _at_full_length(partial(_highest, ("offered_per_s",))),
    "latency": _at_full_length(partial(_highest, ("p50_ms", "p95_ms"))),
    "p99": _at_full_length(partial(_highest, ("p99_ms",))),
    "compute": lambda r: (),
    "embedding": _at_study_shape(partial(_in_kind, "embedding")),
    "ranking": _at_study_shape(partial(_in_kind, "ranking")),
    "retrieval": _at_study_shape(partial(_in_kind, "retrieval")),
    "computing": _at_study_shape(partial(_in_kind, "compute")),
}
