"""The original's figures and claims, each judged from this study's records. "The original" is the earlier benchmark.

A row sets a figure of the original beside ours on equal hardware. Ours over the original's decides,
by one rule: at least as good holds, within a factor of two of it holds with a limit, anything else
does not hold. Where the original gave no figure, or where "about the same" is what was claimed, the
row has a target of its own; a row that is also a claim of a chapter takes that claim's value and
verdict.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nanorecsys.study.claims import JudgedClaim, Target, Verdict
from nanorecsys.study.records import Record
from nanorecsys.study.summary import VERDICTS
from nanorecsys.study.tables import Table, link, table

AT_LEAST = Target(">=", 1.0, limit=0.5)
AT_MOST = Target("<=", 1.0, limit=2.0)
ANN, SCALEUP, LOADTEST = "04_ann", "05_scaleup", "06_loadtest"
Values = tuple[float, ...]
Read = Callable[[Record[Any]], Values | None]


@dataclass(frozen=True, kw_only=True)
class SeedRow:
    """One figure or claim of the original.

    Args:
        claim: in short.
        original: its value as the original gives it.
        chapter: whose record and page show ours.
        section: the heading there, without its number.
        show: format of ours, from `values`.
        figures: the original's numbers that the first of ours are divided by; none where it gave
            none.
        target: what the worst of these ratios has to reach, or the first value itself where there
            are no figures.
        claim_id: the claim of a chapter that this is, whose value comes first and whose verdict
            counts.
        values: ours, None where this run did not measure them at the size that the row speaks of.
    """

    claim: str
    original: str
    chapter: str
    section: str
    show: str
    figures: Values = ()
    target: Target = AT_LEAST
    claim_id: str | None = None
    values: Read = lambda record: ()


@dataclass(frozen=True, kw_only=True)
class SeedJudged:
    """A row with what this run says: `ours` is None where the verdict is `not_run`."""

    row: SeedRow
    ours: str | None
    ratios: Values
    verdict: Verdict


def judge_seed(
    records: Mapping[str, Record[Any]],
    claims: Iterable[JudgedClaim],
    rows: Iterable[SeedRow] | None = None,
) -> list[SeedJudged]:
    """Judge every row.

    Args:
        records: of the chapters that have run, by name.
        claims: all judged claims of the run.
        rows: the rows, `SEED` unless given.

    Raises:
        KeyError: a row names a claim that no chapter has.
    """
    by_id = {claim.id: claim for claim in claims}
    return [
        _judge(row, records.get(row.chapter), by_id) for row in (SEED if rows is None else rows)
    ]


def _judge(
    row: SeedRow, record: Record[Any] | None, claims: Mapping[str, JudgedClaim]
) -> SeedJudged:
    claim = claims[row.claim_id] if row.claim_id else None
    values = row.values(record) if record else None
    if claim and values is not None:
        values = None if claim.value is None else (claim.value, *values)
    if values is None:
        return SeedJudged(row=row, ours=None, ratios=(), verdict="not_run")
    ratios = tuple(value / figure for value, figure in zip(values, row.figures, strict=False))
    worst = max if row.target.operator == "<=" else min
    verdict = claim.verdict if claim else row.target.judge(worst(ratios or values[:1]))
    return SeedJudged(row=row, ours=row.show.format(*values), ratios=ratios, verdict=verdict)


def anchor(section: str) -> str:
    """The id that a heading gets in the built page.

    >>> anchor("The earlier benchmark's table on its own generator")
    'the-earlier-benchmark-s-table-on-its-own-generator'
    """
    return re.sub(r"[^a-z0-9]+", "-", section.lower()).strip("-")


def address(chapter: str, section: str, folder: str = "") -> str:
    """Where a section is, seen from a page that has the chapters' pages in `folder`.

    >>> address("06_loadtest", "The ladder", "results/")
    'results/06_loadtest.html#the-ladder'
    """
    return f"{folder}{chapter}.html#{anchor(section)}"


def seed_table(judged: Iterable[SeedJudged], run: Iterable[str], folder: str = "") -> Table:
    """The rows for a page, each claim a link to the section that shows it.

    Args:
        judged: see `judge_seed`.
        run: names of the chapters that have a page.
        folder: see `address`.
    """
    run = set(run)
    return table(
        ("the original says", "original", "ours, equal hardware", "ours / original", "verdict"),
        (
            (
                link(j.row.claim, address(j.row.chapter, j.row.section, folder))
                if j.row.chapter in run
                else j.row.claim,
                j.row.original,
                j.ours,
                " / ".join(f"{ratio:.2g}" for ratio in j.ratios) or None,
                VERDICTS[j.verdict],
            )
            for j in judged
        ),
        align="w",
        stacked=True,
    )


def headlines(
    records: Mapping[str, Record[Any]], judged: Iterable[SeedJudged], folder: str = ""
) -> Table:
    """At most five figures for the landing page, the original's beside each; those that this run has."""
    rows = []
    if LOADTEST in records:
        r = records[LOADTEST].result
        if r.highest:
            rows.append(
                (
                    f"Highest rate with P99 below {r.p99_bound_ms:g} ms, {r.cold_share:.0%} cold",
                    address(LOADTEST, "Scenarios on the final server", folder),
                    f"{r.highest.offered_per_s:,.0f} requests/s, P99 {r.highest.p99_ms:.0f} ms",
                    "~80 requests/s, P99 ~580 ms",
                )
            )
        before, after = r.baseline_stages["embedding"].p50, r.stages_alone["embedding"].p50
        rows += [
            (
                "Encoding a user, PyTorch and then the final server, median",
                address(LOADTEST, "The tail, taken apart", folder),
                f"{before:.1f} to {after:.1f} ms ({before / after:.1f}x)",
                "75 to 36 ms (2x)",
            ),
        ]
        if r.busy:
            rows.append(
                (
                    "CPU time of a request, PyTorch with the same cache over the final server, both kept busy",
                    address(LOADTEST, "The baseline and the final server", folder),
                    f"{r.busy.times.middle:.1f}x",
                    "~25x, counted in cores",
                )
            )
    if SCALEUP in records:
        r = records[SCALEUP].result
        rows.append(
            (
                f"Search among {r.n_items:,} items at recall@{r.k} {r.best.recall:.3f}, one thread",
                address(SCALEUP, "Building and searching", folder),
                f"{r.best.p50_ms.middle:.2f} ms, {r.speedup:,.0f}x exact search",
                "drawn, no figure",
            )
        )
    verdicts = [j.verdict for j in judged if j.verdict != "not_run"]
    if verdicts:
        limited = (
            f", {verdicts.count('limited')} more with a limit" if "limited" in verdicts else ""
        )
        rows.append(
            (
                "Claims of the original that hold, of those that were run",
                f"{'' if folder else '../'}claims.html",
                f"{verdicts.count('holds')} of {len(verdicts)}{limited}",
                "all",
            )
        )
    return table(
        ("figure", "here", "the original"),
        ((link(label, to), *values) for label, to, *values in rows),
    )


def _full(read: Read) -> Read:
    """A figure of the load test at the study's shape with loads of their full length alone."""
    return lambda record: (
        read(record) if record.result.is_study_shape and record.result.is_full else None
    )


def _highest(*names: str) -> Read:
    """Fields of the highest rate's row; where no rate was valid, none."""
    return _full(
        lambda c: tuple(getattr(c.result.highest, n) for n in names) if c.result.highest else None
    )


def _busy(*names: str) -> Read:
    """Medians of the comparison of both servers kept busy; where it was not made, none."""
    return _full(
        lambda c: tuple(getattr(c.result.busy, n).middle for n in names) if c.result.busy else None
    )


def _loaded(stage: str) -> Read:
    """P50 and P95 of a stage at the highest rate, where the cold requests go through it."""
    return _full(lambda c: (s.p50, s.p95) if (s := c.result.stages_loaded.get(stage)) else None)


def _rate(record: Record[Any]) -> float:
    return record.result.highest.offered_per_s if record.result.highest else 0.0


def _grown(record: Record[Any]) -> Values | None:
    alone, loaded = (
        s.get("compute") for s in (record.result.stages_alone, record.result.stages_loaded)
    )
    return (loaded.p95 / alone.p95,) if alone and loaded else None


def _rung(field: str, *pairs: tuple[str, str]) -> Read:
    """A field of the ladder's rungs, each pair's first over its second, multiplied."""

    def read(record: Record[Any]) -> Values | None:
        found = {rung.name: getattr(rung, field) for rung in record.result.ladder}
        product = 1.0
        for above, below in pairs:
            if not found.get(above) or not found.get(below):
                return None
            product *= found[above] / found[below]
        return (product,)

    return _full(read)


def _simulated(field: str) -> Read:
    """Of the original's own service times at its rate, hits waiting behind what is computed."""
    return lambda c: next(
        ((getattr(o, field),) for o in c.result.original if o.hits_wait and o.offered_per_s == 80),
        None,
    )


def _index(family: str, generator: str | None = None) -> Read:
    """Recall over its floor, recall, and speed over Flat's of an index family at three million items.

    Args:
        family: as the scale-up chapter calls it.
        generator: of the catalogue, the recommended one unless given.
    """

    def read(record: Record[Any]) -> Values | None:
        r = record.result
        wanted = generator or r.recommended_generator
        rows = {
            row.family: row
            for row in reversed(r.rows)
            if (row.generator, row.n) == (wanted, 3_000_000)
        }
        if family not in rows or "Flat" not in rows:
            return None
        row = rows[family]
        return (
            row.recall / r.recall_floor,
            row.recall,
            rows["Flat"].p50_ms.middle / row.p50_ms.middle,
        )

    return read


def _independent(record: Record[Any]) -> Values | None:
    r = record.result
    return next(
        ((j.worst / r.bound, j.worst) for j in r.judged if j.generator == "independent"), None
    )


def _indexes() -> Iterable[SeedRow]:
    for name, family in (("IVF-PQ", "IVF, PQ"), ("IVF-SQ", "IVF, SQ8")):
        for where, generator, section in (
            (
                "its own catalogue",
                "independent",
                "The earlier benchmark's table on its own generator",
            ),
            ("a catalogue that tells more", None, "Building and searching"),
        ):
            yield SeedRow(
                claim=f"{name} stands in for FlatIP at 3 million items: on {where}",
                original="drawn, no figure",
                chapter=SCALEUP,
                section=section,
                values=_index(family, generator),
                target=Target(">=", 1.0, limit=0.9),
                show="recall@10 {1:.2f} at {2:.0f}x the speed",
            )


SEED: tuple[SeedRow, ...] = (
    SeedRow(
        claim="Flat is the default to take at 27 thousand items: an index saves less than a millisecond",
        original="< 1 ms",
        figures=(1.0,),
        chapter=ANN,
        section="The choice",
        claim_id="ann.flat_default",
        show="{0:.2f} ms saved",
    ),
    SeedRow(
        claim="A catalogue that keeps each dimension's mean and variance is searched like a real one",
        original="realistic",
        chapter=SCALEUP,
        section="The held-out test",
        values=_independent,
        target=AT_MOST,
        show="recall off by {1:.2f}, {0:.1f} times the bound",
    ),
    SeedRow(
        claim="FlatIP is the baseline with recall 1.0",
        original="1.0",
        figures=(1.0,),
        chapter=SCALEUP,
        section="Building and searching",
        claim_id="scaleup.exact",
        show="{0:.3g}",
    ),
    *_indexes(),
    SeedRow(
        claim="Less compute: 16 cores for PyTorch, 2 for the optimized server",
        original="8x",
        figures=(8.0,),
        chapter=LOADTEST,
        section="The baseline and the final server",
        values=_busy("times"),
        show="{0:.1f}x less CPU time a request",
    ),
    SeedRow(
        claim="More requests a second than PyTorch",
        original="24 to ~80/s (3.3x)",
        figures=(3.3,),
        chapter=LOADTEST,
        section="The baseline and the final server",
        claim_id="loadtest.original_throughput",
        values=_busy("baseline_per_s", "optimized_per_s"),
        show="{1:,.0f} to {2:,.0f}/s ({0:.1f}x)",
    ),
    SeedRow(
        claim="The optimized server's rate on two cores",
        original="~80/s",
        figures=(80.0,),
        chapter=LOADTEST,
        section="Scenarios on the final server",
        values=_full(lambda c: (_rate(c),)),
        show="{0:,.0f}/s",
    ),
    SeedRow(
        claim="Encoding a user is faster than in PyTorch",
        original="75 to 36 ms (2x)",
        figures=(2.0,),
        chapter=LOADTEST,
        section="The tail, taken apart",
        claim_id="loadtest.original_embedding",
        values=lambda c: (
            c.result.baseline_stages["embedding"].p50,
            c.result.stages_alone["embedding"].p50,
        ),
        show="{1:.1f} to {2:.1f} ms ({0:.1f}x)",
    ),
    SeedRow(
        claim="A core carries many times the requests",
        original="~1.5 to ~40/s (~25x)",
        figures=(25.0,),
        chapter=LOADTEST,
        section="The baseline and the final server",
        claim_id="loadtest.original_efficiency",
        show="{0:.1f}x, by CPU time",
    ),
    SeedRow(
        claim="What a core of the optimized server carries",
        original="~40/s",
        figures=(40.0,),
        chapter=LOADTEST,
        section="Scenarios on the final server",
        values=_full(lambda c: (_rate(c) / c.provenance.machine.cores,)),
        show="{0:,.0f}/s",
    ),
    SeedRow(
        claim="Going from PyTorch to ONNX Runtime is one cause of it",
        original="no figure",
        chapter=LOADTEST,
        section="The ladder",
        values=_rung("cpu_ms", ("torch", "ONNX")),
        target=Target(">=", 1.1, limit=1.0),
        show="{0:.2f}x less CPU time a request",
    ),
    SeedRow(
        claim="Moving the computing into a pool of threads is another",
        original="no figure",
        chapter=LOADTEST,
        section="The ladder",
        values=_rung("highest_per_s", ("pool", "chosen tower"), ("second thread", "index")),
        target=Target(">=", 1.1, limit=1.0),
        show="{0:.2f}x the rate, both threads together",
    ),
    SeedRow(
        claim="The whole request, median and P95",
        original="51 / 200 ms",
        figures=(51.0, 200.0),
        chapter=LOADTEST,
        section="Scenarios on the final server",
        values=_highest("p50_ms", "p95_ms"),
        target=AT_MOST,
        show="{0:.1f} / {1:.0f} ms",
    ),
    *(
        SeedRow(
            claim=f"{name}, median and P95",
            original=f"{middle} / {high} ms",
            figures=(float(middle), float(high)),
            chapter=LOADTEST,
            section="The tail, taken apart",
            values=_loaded(stage),
            target=AT_MOST,
            show="{0:.1f} / {1:.1f} ms",
        )
        for name, stage, middle, high in (
            ("Encoding the user, cold requests alone", "embedding", 36, 69),
            ("Ranking", "ranking", 2, 5),
            ("Retrieval", "retrieval", 2, 5),
            ("All computing of a cold request", "compute", 41, 76),
        )
    ),
    SeedRow(
        claim="The median stays below 60 ms on two cores",
        original="< 60 ms",
        figures=(60.0,),
        chapter=LOADTEST,
        section="Scenarios on the final server",
        values=_highest("p50_ms"),
        target=AT_MOST,
        show="{0:.1f} ms",
    ),
    SeedRow(
        claim="The transformer is the heavy part of the computing",
        original="36 of 41 ms",
        chapter=LOADTEST,
        section="The tail, taken apart",
        values=_full(
            lambda c: (
                c.result.stages_alone["embedding"].p50 / c.result.stages_alone["compute"].p50,
            )
        ),
        target=Target(">=", 0.5),
        show="{0:.0%} of it",
    ),
    SeedRow(
        claim="P99 of the whole request at the highest rate",
        original="~580 ms",
        figures=(580.0,),
        chapter=LOADTEST,
        section="Scenarios on the final server",
        values=_highest("p99_ms"),
        target=AT_MOST,
        show="{0:.0f} ms",
    ),
    SeedRow(
        claim="Under load the computing of a request takes no longer",
        original="stable",
        chapter=LOADTEST,
        section="The tail, taken apart",
        values=_full(_grown),
        target=Target("<=", 1.25, limit=2.0),
        show="P95 {0:.1f}x that of a request alone",
    ),
    SeedRow(
        claim="The tail is queueing",
        original="all of the difference",
        chapter=LOADTEST,
        section="The tail, taken apart",
        claim_id="loadtest.original_tail",
        show="{0:.0%} of the slowest percent's time",
    ),
    SeedRow(
        claim="~80 requests/s saturate its workers",
        original="saturated",
        chapter=LOADTEST,
        section="What queueing alone predicts",
        values=_simulated("load"),
        target=Target(">=", 0.9, limit=0.7),
        show="{0:.0%} busy, by its own service times",
    ),
    SeedRow(
        claim="Queueing explains its P99",
        original="~580 ms",
        figures=(580.0,),
        chapter=LOADTEST,
        section="What queueing alone predicts",
        values=_simulated("p99_ms"),
        show="{0:.0f} ms, simulated from its own service times",
    ),
)
