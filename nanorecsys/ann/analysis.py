"""From raw rows to the chapter's findings: points, the front, the choice by rule, and sentences."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import polars as pl

from nanorecsys.ann.corpus import Corpus, Queries
from nanorecsys.ann.limits import Limits
from nanorecsys.ann.result import (
    AnnResult,
    Build,
    Confirmed,
    Difference,
    Operating,
    Recommended,
    Spread,
)
from nanorecsys.ann.specs import BASELINE, FAMILIES, parse_setting
from nanorecsys.ann.sweep import Built, Measured
from nanorecsys.evaluation import Evaluation, Task, difference, value
from nanorecsys.study.spread import spread

RECALLS = ("0.99", "0.999")  # that the fastest point is looked for at
SERVED = frozenset(
    {"nprobe", "k_factor_rf", "efSearch"}
)  # settings that ParameterSpace can make in another process
FINALISTS = 3
WIDTH = ("refinement", "further lists")  # layers whose time depends on how widely is searched
LONG_MS = 5.0  # a search that takes as long as encoding a short history
RULE = (
    "the lowest P99 among the FAISS indexes whose settings ParameterSpace knows, with a recall of at least the floor, "
    "and no more bytes a vector than the bound"
)


def builds(built: Mapping[str, Built], loads: pl.DataFrame, n: int) -> list[Build]:
    """What building took, one row an index; the time to load is the median over rounds."""
    load_ns = dict(loads.group_by("factory").agg(pl.col("ns").median()).rows())
    return [
        Build(
            factory=factory,
            family=b.spec.family,
            build_s=b.build_s,
            save_s=b.save_s,
            load_ms=load_ns[factory] / 1e6,
            bytes_a_vector=b.index_bytes / n,
            peak_rss_mib=b.peak_bytes / 2**20,
        )
        for factory, b in built.items()
    ]


def operating_points(
    measured: Measured,
    built: Mapping[str, Built],
    queries: Queries,
    task: Task,
    corpus: Corpus,
    k: int,
) -> list[Operating]:
    """Every point that could be measured, in the order of the plan.

    Args:
        measured: of the whole table.
        built: the indexes.
        queries: whose recall it is.
        task: whose held-out items were ranked.
        corpus: what was searched.
        k: neighbours that were asked for.
    """
    n = len(corpus.vectors)
    accuracy = _accuracy(measured.rows["accuracy"], queries, k)
    times = latencies(measured.rows["latency"])
    batches = {
        (point, batch, threads): ns
        for point, batch, threads, ns in measured.rows["batches"]
        .group_by("point", "batch", "threads")
        .agg(pl.col("ns").median())
        .rows()
    }
    threads = measured.rows["batches"]["threads"].max()
    reads = dict(measured.rows["reads"].rows()) if "reads" in measured.rows else {}
    found = []
    for point, factory, family, search in measured.points.rows():
        ranked = evaluation(measured.rows["ranks"], point, task, n)
        size = built[factory].index_bytes
        read = reads.get(point)
        found.append(
            Operating(
                factory=factory,
                family=family,
                search=search,
                **accuracy[point],
                **times[point],
                batch_32_ms=batches[point, 32, 1] / 1e6,
                batch_1000_ms=batches[point, 1000, 1] / 1e6,
                queries_per_s=1e9 / batches[point, 1000, threads],
                hitrate=value(ranked, "hitrate@10"),
                ndcg=value(ranked, "ndcg@10"),
                bytes_a_vector=size / n,
                read_mib=None if read is None else read / 2**20,
                # at the rate of a set of that size: as if what is read by one query were in the
                # cache for the next
                floor_ms=None if read is None else measured.limits.read_ms(read, read),
                on_front=False,
            )
        )
    front = pareto([p.recall_k for p in found], [p.p50_ms.middle for p in found])
    return [msgspec.structs.replace(p, on_front=on) for p, on in zip(found, front, strict=True)]


def latencies(rows: pl.DataFrame) -> dict[int, dict[str, Spread]]:
    """P50 and P99 of each point: the percentile of each round, then the median and the range over rounds."""
    rounds = rows.group_by("point", "round").agg(
        p50=pl.col("ns").quantile(0.5, "linear") / 1e6,
        p99=pl.col("ns").quantile(0.99, "linear") / 1e6,
    )
    found: dict[int, dict[str, Spread]] = {}
    for (point,), group in rounds.group_by("point"):
        found[point] = {f"{name}_ms": spread(group[name].to_numpy()) for name in ("p50", "p99")}
    return found


def pareto(recall: Sequence[float], latency: Sequence[float]) -> list[bool]:
    """Which points no other beats: at least as high a recall in at most the time, and better in one of the two.

    >>> pareto([0.9, 0.99, 0.8, 0.99], [1.0, 2.0, 1.5, 2.5])
    [True, True, False, False]
    """
    on_front = [False] * len(recall)
    best = -np.inf
    for i in sorted(range(len(recall)), key=lambda i: (latency[i], -recall[i])):
        if recall[i] > best:
            on_front[i], best = True, recall[i]
    return on_front


def best_of_each(points: Sequence[Operating], floor: float) -> list[Operating]:
    """One point a specification: the fastest that reaches the floor of recall, else the one with the highest recall."""
    by_factory: dict[str, list[Operating]] = {}
    for point in points:
        by_factory.setdefault(point.factory, []).append(point)
    found = []
    for own in by_factory.values():
        reaching = [p for p in own if p.recall_k >= floor]
        found.append(
            min(reaching, key=lambda p: p.p50_ms.middle)
            if reaching
            else max(own, key=lambda p: p.recall_k)
        )
    return found


def eligible(point: Operating | Confirmed, floor: float, bound_bytes: float) -> bool:
    """Whether the rule (`RULE`) lets a point be recommended."""
    return (
        point.recall_k >= floor
        and point.bytes_a_vector <= bound_bytes
        and not point.factory.startswith("usearch:")
        and set(parse_setting(point.search)) <= SERVED
    )


def finalists(points: Sequence[Operating], floor: float, bound_bytes: float) -> list[Operating]:
    """The points that are worth a second measurement: Flat, those that the rule may choose, the fastest at `RECALLS`.

    The lowest of many noisy figures flatters itself, so what is reported is measured anew.
    """
    chosen = [p for p in points if p.factory == BASELINE][:1]
    allowed = [p for p in points if eligible(p, floor, bound_bytes)]
    chosen += sorted(allowed, key=lambda p: p.p99_ms.middle)[:FINALISTS]
    for recall in RECALLS:
        reaching = [p for p in points if p.recall_k >= float(recall)]
        chosen += sorted(reaching, key=lambda p: p.p50_ms.middle)[:2]
    return list(dict.fromkeys(chosen))


def confirmed_points(measured: Measured, chosen: Sequence[Operating]) -> list[Confirmed]:
    """The second measurement of the finalists, Flat first."""
    times = latencies(measured.rows["latency"])
    by_name = {(p.factory, p.search): p for p in chosen}
    flat = next(p for p, factory, *_ in measured.points.rows() if factory == BASELINE)
    found = []
    for point, factory, family, search in measured.points.rows():
        first = by_name[factory, search]
        found.append(
            Confirmed(
                factory=factory,
                family=family,
                search=search,
                recall_k=first.recall_k,
                bytes_a_vector=first.bytes_a_vector,
                **times[point],
                times_flat=times[flat]["p50_ms"].middle / times[point]["p50_ms"].middle,
                parts_ms=parts(measured.rows["layers"], point) if "layers" in measured.rows else {},
            )
        )
    return found


def parts(layers: pl.DataFrame, point: int) -> dict[str, float]:
    """Milliseconds that each layer of a point's search adds to the one within it, the outermost first.

    Args:
        layers: rows of `measure_worker`, those of a point from the whole search inwards.
        point: its number.
    """
    of_point = layers.filter(pl.col("point") == point).group_by("adds", maintain_order=True)
    medians = of_point.agg(pl.col("ns").median() / 1e6).rows()
    within = [*(ms for _, ms in medians[1:]), 0.0]
    return {adds: ms - inner for (adds, ms), inner in zip(medians, within, strict=False)}


def recommend(confirmed: Sequence[Confirmed], floor: float, bound_bytes: float) -> Confirmed:
    """The point that the rule (`RULE`) chooses; Flat where it lets none pass."""
    allowed = [p for p in confirmed if eligible(p, floor, bound_bytes)]
    baseline = [p for p in confirmed if p.factory == BASELINE]
    return min(allowed or baseline, key=lambda p: p.p99_ms.middle)


def fastest(confirmed: Sequence[Confirmed]) -> dict[str, Confirmed]:
    """The lowest P50 at each of `RECALLS`; Flat is exact, so there is always one."""
    return {
        recall: min(
            (p for p in confirmed if p.recall_k >= float(recall)), key=lambda p: p.p50_ms.middle
        )
        for recall in RECALLS
    }


def recommendation(
    choice: Confirmed,
    flat: Confirmed,
    point: Operating,
    build: Build,
    ranked: Evaluation,
    baseline: Evaluation,
) -> Recommended:
    """The record of the chosen index.

    Args:
        choice: its second measurement.
        flat: Flat's, in the same run.
        point: its first.
        build: what building took.
        ranked: the held-out items by it.
        baseline: the same by Flat.
    """
    changes = {}
    for metric in ("hitrate", "ndcg"):
        found = difference(ranked, baseline, f"{metric}@10")
        changes[f"{metric}_change"] = Difference(
            estimate=found.estimate, low=found.low, high=found.high
        )
    return Recommended(
        factory=choice.factory,
        family=choice.family,
        search=choice.search,
        recall_10=point.recall_10,
        recall_k=point.recall_k,
        worst_decile=point.worst_decile,
        p50_ms=choice.p50_ms,
        p99_ms=choice.p99_ms,
        times_flat=choice.times_flat,
        saved_ms=flat.p50_ms.middle - choice.p50_ms.middle,
        bytes_a_vector=choice.bytes_a_vector,
        build_s=build.build_s,
        **changes,
    )


def evaluation(ranks: pl.DataFrame, point: int, task: Task, n: int) -> Evaluation:
    """The held-out items' ranks by one point, as the study's metrics take them; no lists are kept."""
    own = ranks.filter(pl.col("point") == point).sort("user")
    users = own["user"].to_numpy()
    return Evaluation(
        users=users,
        target_row=np.arange(len(users)),
        target_item=task.targets.items[task.targets.offsets[users]],
        rank=own["rank"].to_numpy().astype(np.float64),
        top=np.empty((len(users), 0), np.int32),
        item_counts=np.zeros(n, np.int64),
    )


def recall_by_prefix(accuracy: pl.DataFrame, point: int, users: int, k: int) -> tuple[float, float]:
    """Mean recall_k of the queries after whole histories, and of those after shorter ones (the same where none is)."""
    recall = accuracy.filter(pl.col("point") == point).sort("query")[f"recall_{k}"].to_numpy()
    whole, earlier = recall[-users:], recall[:-users]
    return float(whole.mean()), float(earlier.mean() if len(earlier) else whole.mean())


def missing_families(found: Sequence[Operating]) -> list[str]:
    """Families of the table that no measured point belongs to."""
    ran = {p.family for p in found}
    return [f for f in FAMILIES if f not in ran]


def _accuracy(rows: pl.DataFrame, queries: Queries, k: int) -> dict[int, dict[str, float]]:
    first, whole = f"recall_{min(10, k)}", f"recall_{k}"
    by_user = rows.with_columns(user=pl.Series(queries.user)[rows["query"].to_numpy()])
    means = by_user.group_by("point", "user").agg(pl.col(whole).mean().alias("own"))
    worst = max(1, -(-len(queries.users) // 10))
    deciles = dict(means.group_by("point").agg(pl.col("own").bottom_k(worst).mean()).rows())
    overall = rows.group_by("point").agg(
        pl.col(first).mean().alias("first"), pl.col(whole).mean().alias("whole")
    )
    return {
        point: {"recall_10": ten, "recall_k": hundred, "worst_decile": deciles[point]}
        for point, ten, hundred in overall.rows()
    }


def gemm_floor_ms(limits: Limits, n: int, d: int) -> float:
    """Milliseconds a query that exact search computes on one thread, at the rate of a large matrix product."""
    return 2 * n * d / limits.gemm_gflops["1"] / 1e6


def energy_sentence(curves: Mapping[str, np.ndarray], kept: Sequence[int]) -> str:
    """How much of the squared length the kept directions hold, of each set of vectors.

    Args:
        curves: cumulative shares by direction, see `nanorecsys.ann.corpus.energy`.
        kept: directions that indexes keep; a sixteenth and a half of all where there are none.
    """
    shares = next(iter(curves.values()))
    counts = sorted(set(kept)) or [max(1, len(shares) // 16), max(1, len(shares) // 2)]
    counts = list(dict.fromkeys((counts[0], counts[-1])))
    parts = (
        f"{' and '.join(f'{own[c - 1]:.0%}' for c in counts)} of the length squared of {name}"
        for name, own in curves.items()
    )
    return f"The first {' and '.join(map(str, counts))} of {len(shares)} directions hold {'; '.join(parts)}."


def story(found: AnnResult) -> dict[str, str]:
    """The sentences of the page whose wording depends on how the numbers came out."""
    r = found.recommended
    setting = f" with {r.search}" if r.search else ""
    if r.factory == BASELINE:
        first = (
            f"At {found.n_items:,} vectors none of the indexes that the rule allows is faster at P99 than Flat: "
            f"{_ms(r.p50_ms.middle)} at P50 and {_ms(r.p99_ms.middle)} at P99"
        )
    else:
        first = (
            f"At {found.n_items:,} vectors {r.factory}{setting} finds {r.recall_k:.2%} of the exact {found.k} "
            f"neighbours in {_ms(r.p50_ms.middle)} at P50 and {_ms(r.p99_ms.middle)} at P99, "
            f"{r.times_flat:.1f} times as fast as Flat ({_ms(found.flat_p50_ms.middle)})"
        )
    return {
        "answer": f"{first}; one query at a time, one thread. {_end_task(found)} {_flat(found)}",
        "speed_sentence": _speed(found),
        "parts_sentence": _parts(found),
        "end_task_sentence": _end_task(found),
        "flat_sentence": _flat(found),
        "size_sentence": _sizes(found),
        "floor_sentence": _floor(found),
        "second_opinion_sentence": _second_opinion(found),
        "projection_sentence": _projection(found),
        "failure_sentence": _failures(found),
    }


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value >= 0.995 else f"{value:.3f} ms"


def _end_task(found: AnnResult) -> str:
    r = found.recommended
    ndcg, hitrate = r.ndcg_change, r.hitrate_change
    figures = (
        f"NDCG@10 changes by {ndcg.estimate:+.4f} ({ndcg.low:+.4f} to {ndcg.high:+.4f}), HitRate@10 by "
        f"{hitrate.estimate:+.4f} ({hitrate.low:+.4f} to {hitrate.high:+.4f})"
    )
    if r.factory == BASELINE:
        return "Flat is exact, so the end task is as it was."
    if outside_zero(ndcg) == 0 == outside_zero(hitrate):
        return f"On held-out items the approximation does not show: {figures}."
    if ndcg.high < 0 or hitrate.high < 0:
        return f"On held-out items the approximation costs something: {figures}."
    return f"On held-out items it is even ahead of exact search, which is luck with what it misses: {figures}."


def outside_zero(change: Difference) -> float:
    """How far zero lies outside an interval, 0 if it lies inside."""
    return max(change.low, -change.high, 0.0)


def _flat(found: AnnResult) -> str:
    saved = found.recommended.saved_ms
    if found.recommended.factory == BASELINE:
        return "That Flat is the default to take at this size holds in this run."
    if saved < 1:
        return (
            f"It saves {_ms(saved)} a query, less than the millisecond for which an earlier benchmark left Flat the "
            f"default; of the time on a core it is {saved / found.flat_p50_ms.middle:.0%}."
        )
    return (
        f"It saves {_ms(saved)} a query: that an index saves less than a millisecond at this size, the reason of an "
        "earlier benchmark to keep Flat, does not hold here."
    )


def _speed(found: AnnResult) -> str:
    parts = [
        f"at a recall of {float(recall):.1%} or more {p.factory}{f' with {p.search}' if p.search else ''}, "
        f"{p.times_flat:.1f} times as fast as Flat ({_ms(p.p50_ms.middle)})"
        for recall, p in found.fastest.items()
    ]
    return f"Fastest of all in the second measurement: {'; '.join(parts)}."


def _parts(found: AnnResult) -> str:
    """What of the fastest finalists' time a wider or narrower search would not change."""
    taken_apart = {p.factory + p.search: p for p in found.fastest.values() if p.parts_ms}
    sentences = []
    for p in taken_apart.values():
        whole = sum(p.parts_ms.values())
        fixed = whole - sum(p.parts_ms.get(adds, 0.0) for adds in WIDTH)
        sentences.append(
            f"Of the {1e3 * whole:.0f} µs of {p.factory} with {p.search}, {1e3 * fixed:.0f} are spent however narrow "
            f"the search is: at {found.flat_p50_ms.middle / fixed:.0f} times as fast as Flat nothing is left for it."
        )
    return (
        " ".join(sentences) if sentences else "No finalist that is fastest has lists to take apart."
    )


def _sizes(found: AnnResult) -> str:
    memory = found.limits.memory_gb_per_s
    more = 10 * found.n_items * found.d * 4
    large_ms = more / memory / 1e6
    verdict = (
        "there an index is no longer a choice"
        if large_ms > LONG_MS
        else "even that may be soon enough"
    )
    large = (
        f"With ten times as many, Flat reads {more / 1e9:.2f} GB a query, which takes {large_ms:.1f} ms at this "
        f"machine's {memory:.0f} GB a second whatever the code: {verdict}."
    )
    if found.tenth_p50_ms is None:
        return large
    own = found.recommended.p50_ms.middle
    few = found.n_items // 10
    if found.tenth_p50_ms <= 1.5 * own:
        small = (
            f"With a tenth of the items ({few:,}), Flat takes {_ms(found.tenth_p50_ms)}, about what the recommended "
            "index takes here: take Flat and be exact."
        )
    else:
        small = (
            f"With a tenth of the items ({few:,}), Flat takes {_ms(found.tenth_p50_ms)}, still more than the "
            f"recommended index takes with all of them, but so little that exactness is worth more."
        )
    return f"{small} {large}"


def _floor(found: AnnResult) -> str:
    flat = next(p for p in found.best if p.factory == BASELINE)
    arithmetic = gemm_floor_ms(found.limits, found.n_items, found.d)
    sentence = (
        f"Flat, one query at a time, takes {flat.p50_ms.middle / flat.floor_ms:.1f} times as long as reading its "
        f"vectors; in batches of 1,000 {flat.batch_1000_ms / arithmetic:.1f} times as long as the arithmetic of the "
        "product."
    )
    if found.limits.memory_gb_per_s < 0.7 * max(b.gb_per_s for b in found.limits.bandwidth):
        sentence += (
            " Sets that fit a cache are read faster than main memory, so the limit depends on what else the server "
            "keeps in it."
        )
    return sentence


def _second_opinion(found: AnnResult) -> str:
    floor = found.recall_floor
    other = [p for p in found.best if p.factory.startswith("usearch:") and p.recall_k >= floor]
    own = [p for p in found.best if p.factory.startswith("HNSW") and p.recall_k >= floor]
    if not other or not own:
        return "In this run the two libraries' graphs cannot be compared at the floor of recall."
    theirs, ours = (min(group, key=lambda p: p.p50_ms.middle) for group in (other, own))
    ratio = ours.p50_ms.middle / theirs.p50_ms.middle
    said = (
        f"is {ratio:.1f} times as fast as"
        if ratio >= 1
        else f"takes {1 / ratio:.1f} times as long as"
    )
    return (
        f"A second library's graph ({theirs.factory}, {_ms(theirs.p50_ms.middle)}) {said} FAISS's own "
        f"({ours.factory}, {_ms(ours.p50_ms.middle)}) at that recall."
    )


def _projection(found: AnnResult) -> str:
    """The same index with its projection fitted on users and, as a control, on items."""
    by_factory = {p.factory: p for p in found.best}
    for factory, users in by_factory.items():
        items = (
            by_factory.get(factory.replace("Users", "Items"))
            if factory.startswith("Users")
            else None
        )
        if items is not None:
            first, second = (
                f"a recall of {p.recall_k:.4f} in {_ms(p.p50_ms.middle)}{f' with {p.search}' if p.search else ''}"
                for p in (users, items)
            )
            return (
                f"How much is due to users: {factory} reaches {first}; the same index with its projection fitted on "
                f"items reaches {second}."
            )
    return "No index of this run was fitted on users and, as a control, on items as well."


def _failures(found: AnnResult) -> str:
    count = len(found.failures)
    if not count:
        return "Every specification could be built and searched."
    return f"{count} of them failed, each with its reason below; the sweep went on."
