"""From rows to the chapter's findings: the best index by rule, growth with n, the planning table, and sentences."""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup.curves import Curve
from nanorecsys.scaleup.result import (
    Gap,
    Generated,
    Growth,
    Judged,
    Moved,
    Planned,
    Row,
    ScaleupResult,
)
from nanorecsys.scaleup.shards import generate

PROMISE = 0.95  # of recall, that a setting is chosen for
MEMORY_SHARE = 0.3  # of Flat's bytes, that an index may take
BUSY = 0.5  # share of its time that a core may search, so that a query seldom waits
MACHINE_GIB, MACHINE_VCPU = (
    256.0,
    64,
)  # of the largest single machine that the planning table thinks of
USABLE = 0.8  # of its memory
GRAPH_POWER = (
    1.2  # of n, by which the time of a graph grows at the least; small ones fit caches and hide it
)
RULE = (
    "the lowest P50 among the indexes with a recall of at least the floor in at most three tenths of the bytes of "
    "the vectors"
)
PLAN_RULE = (
    f"one machine is enough while the index fits {USABLE:.0%} of {MACHINE_GIB:.0f} GiB and {MACHINE_VCPU} vCPU search "
    f"no more than {BUSY:.0%} of their time; beyond that a distributed vector database takes over"
)


def sizes_up_to(n_items: int, sizes: Sequence[int], real: int) -> list[int]:
    """The sizes of the curves: those given that are below `n_items` and hold all real items, and `n_items` itself.

    >>> sizes_up_to(300_000, [5_000, 27_278, 1_000_000], 9_066)
    [27278, 300000]
    """
    return [*sorted({s for s in sizes if real <= s < n_items}), n_items]


def measure_rate(vectors: np.ndarray, generator: str, rows: int, threads: int) -> Generated:
    """Synthetic rows a second of a catalogue in memory, the fit included."""
    n = len(vectors) + rows
    start = time.perf_counter()
    generate(vectors, n, generator, threads=threads)
    seconds = time.perf_counter() - start
    return Generated(generator=generator, n=n, seconds=seconds, rate=rows / seconds)


def graph_fits(built: Mapping[int, float], n: int, seconds: float) -> tuple[bool, float]:
    """Whether a graph over n items would be built within `seconds`, and the seconds foreseen.

    Args:
        built: seconds by size of the graphs that are built already.
        n: items.
        seconds: allowed.

    >>> graph_fits({1000: 1.0, 10_000: 20.0}, 100_000, 100.0)
    (False, 400.0)
    """
    if not built:
        return True, 0.0
    last = max(built)
    power = GRAPH_POWER
    if len(built) > 1:
        before = sorted(built)[-2]
        power = max(GRAPH_POWER, math.log(built[last] / built[before]) / math.log(last / before))
    foreseen = built[last] * (n / last) ** power
    return foreseen <= seconds, round(foreseen, 6)


def graph_stops(graph: str, n: int, foreseen: float, allowed: float) -> str:
    """Where a graph ends and why, in words."""
    return f"{graph} stops before {n:,} items: it would take about {foreseen:,.0f} s, {allowed:,.0f} s are allowed."


def best_row(rows: Sequence[Row], floor: float, d: int) -> Row:
    """The index that the rule (`RULE`) takes; if none passes, the one with the highest recall that is not Flat."""
    others = [r for r in rows if r.factory != BASELINE]
    allowed = [r for r in others if r.recall >= floor and r.bytes_a_vector <= MEMORY_SHARE * 4 * d]
    if allowed:
        return min(allowed, key=lambda r: r.p50_ms.middle)
    return max(others, key=lambda r: r.recall)


def growth(rows: Sequence[Row], floor: float) -> list[Growth]:
    """Laws of P50, bytes and build time of each family, from the sizes at which it reaches the floor, two at least."""
    found = []
    for family in dict.fromkeys(r.family for r in rows):
        own = [r for r in rows if r.family == family and r.recall >= floor]
        # one index a size: the fastest
        own = list({r.n: r for r in sorted(own, key=lambda r: -r.p50_ms.middle)}.values())
        if len(own) < 2:
            continue
        n = np.log([r.n for r in own])
        for what, values in (
            ("p50_ms", [r.p50_ms.middle for r in own]),
            ("bytes", [r.bytes_a_vector * r.n for r in own]),
            ("build_s", [r.build_s for r in own]),
        ):
            if min(values) > 0:
                power, factor = np.polyfit(n, np.log(values), 1)
                found.append(
                    Growth(
                        family=family,
                        what=what,
                        factor=float(np.exp(factor)),
                        power=float(power),
                        points=len(own),
                    )
                )
    return found


def at_size(laws: Sequence[Growth], family: str, what: str, n: float) -> float | None:
    """What a law says for n items; None where there is no law."""
    law = next((g for g in laws if (g.family, g.what) == (family, what)), None)
    return None if law is None else law.factor * n**law.power


def plan(
    laws: Sequence[Growth],
    best: Row,
    sizes: Sequence[int],
    rates: Sequence[float],
    measured: Sequence[int],
) -> list[Planned]:
    """The planning table of the best index's family.

    P50 and memory follow the fitted laws, or are in proportion to n where there is none; P99 keeps
    its ratio to P50.

    Args:
        laws: from `growth`.
        best: the index.
        sizes: items.
        rates: queries a second.
        measured: sizes that were measured.
    """
    found = []
    for n in sizes:
        p50 = at_size(laws, best.family, "p50_ms", n) or best.p50_ms.middle * n / best.n
        size = at_size(laws, best.family, "bytes", n) or best.bytes_a_vector * n
        memory = size / 2**30
        for rate in rates:
            vcpu = max(1.0, math.ceil(round(rate * p50 / 1000 / BUSY, 6)))
            found.append(
                Planned(
                    n=n,
                    rate=rate,
                    p99_ms=p50 * best.p99_ms.middle / best.p50_ms.middle,
                    vcpu=vcpu,
                    memory_gib=memory,
                    measured=n <= max(measured),
                    one_machine=memory <= USABLE * MACHINE_GIB and vcpu <= MACHINE_VCPU,
                )
            )
    return found


def kept_promise(made: Curve, real: Curve, promise: float = PROMISE) -> tuple[float, float]:
    """What a made-up catalogue promises, and what the setting that is chosen there finds in the real one.

    The setting is where the made-up curve reaches the promise, on a straight line in the log of the
    setting; where it does not, the last setting and what is found there.

    >>> made, real = Curve([1, 4], [0.9, 1.0], [1, 4]), Curve([1, 4], [0.5, 0.9], [1, 4])
    >>> [round(x, 3) for x in kept_promise(made, real)]
    [0.95, 0.7]
    """
    places = np.log(made.settings)
    above = [i for i, r in enumerate(made.recall) if r >= promise]
    if not above:
        return made.recall[-1], real.recall[-1]
    i = above[0]
    if i == 0:
        return made.recall[0], real.recall[0]
    share = (promise - made.recall[i - 1]) / (made.recall[i] - made.recall[i - 1])
    place = places[i - 1] + share * (places[i] - places[i - 1])
    return promise, float(np.interp(place, places, real.recall))


def same_setting(rows: Sequence[Row], recalls: Mapping[tuple[str, str], float]) -> list[Moved]:
    """Each index of a catalogue with its recall, at the same setting, in another one.

    Args:
        rows: of one catalogue.
        recalls: of the other, by index and setting; indexes that it lacks are left out.
    """
    found = []
    for row in rows:
        other = recalls.get((row.factory, row.search))
        if other is not None and row.factory != BASELINE:
            found.append(
                Moved(
                    factory=row.factory,
                    search=row.search,
                    promised=row.recall,
                    found=other,
                    generator=row.generator,
                    n=row.n,
                )
            )
    return found


def moved_sentence(moved: Sequence[Moved], n: int, generator: str) -> str:
    """Which promise at n items is the furthest off, and which the closest, on that generator's catalogue."""
    own = [m for m in moved if m.n == n]
    if not own:
        return f"No generator but {generator} was tried at {n:,} items."
    worst, best = (pick(own, key=lambda m: abs(m.promised - m.found)) for pick in (max, min))
    return (
        f"At {n:,} items the promise furthest off is that of {worst.generator} ({_promise(worst)}), the closest "
        f"that of {best.generator} ({_promise(best)})."
    )


def gap(judged: Judged, family: str) -> Gap:
    """The difference of one family."""
    return next(g for g in judged.gaps if g.family == family)


def closest_descriptor(
    judged: Sequence[Judged], real: object, names: Sequence[str]
) -> tuple[str, float]:
    """The descriptor whose distance from the real catalogue's goes best with the largest recall difference.

    Args:
        judged: three generators or more.
        real: descriptors of the real catalogue.
        names: of the descriptors.

    Returns:
        its name, and Spearman's rank correlation over the generators.
    """
    worst = np.argsort(np.argsort([j.worst for j in judged]))
    found = []
    for name in names:
        off = [abs(getattr(j.described, name) - getattr(real, name)) for j in judged]
        order = np.argsort(np.argsort(off))
        found.append((name, float(np.corrcoef(worst, order)[0, 1])))
    return max(found, key=lambda pair: pair[1])


def story(r: ScaleupResult) -> dict[str, str]:
    """The sentences of the page whose wording depends on how the numbers came out."""
    return {
        "answer": f"{_fastest(r)} {_fidelity(r)}",
        "fidelity_sentence": _fidelity(r),
        "independent_sentence": _independent(r),
        "original_sentence": _original(r),
        "moved_sentence": moved_sentence(r.moved, r.moved_at, r.generator),
        "floor_sentence": _floor(r),
        "planning_sentence": _planning(r),
        "copies_sentence": _copies(r),
        "correlate_sentence": _correlate(r),
        "laws_sentence": _laws(r),
    }


def _ms(value: float) -> str:
    return (
        f"{value:.0f} ms"
        if value >= 10
        else f"{value:.2f} ms"
        if value >= 0.995
        else f"{value:.3f} ms"
    )


def _fastest(r: ScaleupResult) -> str:
    b = r.best
    if b.recall < r.recall_floor:
        return (
            f"At {r.n_items:,} items no index within three tenths of the bytes reaches a recall of "
            f"{r.recall_floor:.2f}; the best is {b.factory} with {b.recall:.3f}."
        )
    return (
        f"At {r.n_items:,} items (generator {r.generator}) {b.factory} with {b.search} finds {b.recall:.1%} of the "
        f"exact {r.k} neighbours in {_ms(b.p50_ms.middle)} at P50, {r.speedup:,.0f} times as fast as exact search "
        f"({_ms(r.flat.p50_ms.middle)}), in {r.memory_share:.0%} of its memory; one query at a time, one thread."
    )


def _fidelity(r: ScaleupResult) -> str:
    best = next(j for j in r.judged if j.generator == r.recommended_generator)
    what = (
        f"among what users have not seen {best.generator} misses the real recall by at most {best.worst:.3f} in any of "
        f"IVF, HNSW and PQ, averaged over {r.subsets} hidden subsets"
    )
    if best.believable:
        return f"Such a catalogue can be believed, within limits: {what}; {best.copies:.1%} of it are nearly copies."
    return (
        f"None of the generators passes the held-out test; of those that do not copy the closest, {what} "
        f"({best.reason}). {_why_off(r, best)}"
    )


def _why_off(r: ScaleupResult, judged: Judged) -> str:
    """Where a generator is furthest off, what it misses elsewhere, and what the test itself can tell apart."""
    worst = max(judged.gaps, key=lambda g: abs(g.largest))
    real = r.real_curves[worst.family]
    off = {
        s: abs(a - b)
        for s, a, b in zip(real.settings, worst.curve.recall, real.recall, strict=True)
    }
    off.pop(worst.setting, None)
    rest = f", and by at most {max(off.values()):.3f} at the others" if off else ""
    others = ", ".join(f"{abs(g.largest):.3f} in {g.family}" for g in judged.gaps if g is not worst)
    sizes = sorted(abs(x) for x in worst.by_subset)
    noise = r.real_noise.get(worst.family, 0.0)
    told = (
        f"It is that far off in {worst.family} at the setting {worst.setting} of {min(real.settings)} to "
        f"{max(real.settings)}{rest}; the largest difference elsewhere is {others}. Which {r.kept:,} items are kept "
        f"moves that one difference between {sizes[0]:.3f} and {sizes[-1]:.3f}, and one training of {worst.family} on "
        f"the same real items lies up to {noise:.3f} from the mean of many"
    )
    if max(noise, sizes[-1] - sizes[0]) < r.bound:
        return f"{told}: the test could tell a better generator apart."
    return f"{told}: at so small a catalogue the bound of {r.bound:.2f} is about what the test itself can tell apart."


def _independent(r: ScaleupResult) -> str:
    found = next((j for j in r.judged if j.generator == "independent"), None)
    best = next(j for j in r.judged if j.generator == r.recommended_generator)
    if found is None:
        return "The earlier benchmark's generator was not tested in this run."
    worst = max(found.gaps, key=lambda g: abs(g.largest))
    way = "too easy" if worst.largest > 0 else "too hard"
    return (
        f"Independent Gaussians, the earlier benchmark's, are off by {found.worst:.3f}, {found.worst / best.worst:.1f} "
        f"times as far as {best.generator}; their largest error, in {worst.family}, makes search look {way}."
    )


def _original(r: ScaleupResult) -> str:
    pairs = []
    for family in ("IVF, PQ", "IVF, SQ8"):
        mine = next(
            (
                x
                for x in r.rows
                if x.family == family and x.n == r.n_items and x.generator == r.generator
            ),
            None,
        )
        theirs = next(
            (
                x
                for x in r.rows
                if x.family == family and x.n == r.n_items and x.generator == "independent"
            ),
            None,
        )
        if mine and theirs and r.generator != "independent":
            pairs.append(
                f"{mine.factory} has a recall of {theirs.recall:.3f} in {_ms(theirs.p50_ms.middle)} on independent "
                f"Gaussians and {mine.recall:.3f} in {_ms(mine.p50_ms.middle)} on {r.generator}"
            )
    if pairs and (moved := [m for m in r.moved if m.n == r.n_items]):
        worst = max(moved, key=lambda m: m.promised - m.found)
        pairs.append(
            f"taken from there to here, {worst.factory} with {worst.search} finds {worst.found:.3f} in place of the "
            f"{worst.promised:.3f} that was promised"
        )
    return (
        "; ".join(pairs) + "."
        if pairs
        else "The earlier benchmark's table was not repeated in this run."
    )


def _promise(m: Moved) -> str:
    return f"{m.factory} with {m.search} finds {m.found:.3f} where {m.promised:.3f} was promised"


def _floor(r: ScaleupResult) -> str:
    if r.flat.floor_ms is None or r.best.floor_ms is None:
        return "The best index is a graph, which does not scan."
    return (
        f"Exact search takes {r.flat.p50_ms.middle / r.flat.floor_ms:.1f} times as long as reading its vectors; the "
        f"best index reads {r.best.read_mib:.2f} MiB a query and takes {r.best.p50_ms.middle / r.best.floor_ms:.1f} "
        "times as long as that."
    )


def _planning(r: ScaleupResult) -> str:
    beyond = [p for p in r.planned if not p.one_machine]
    if not beyond:
        return "Every line of the table fits one machine."
    first = min(beyond, key=lambda p: (p.n, p.rate))
    return (
        f"By the rule one machine ends at {first.n:,} items and {first.rate:,.0f} queries a second "
        f"({first.memory_gib:,.0f} GiB, {first.vcpu:,.0f} vCPU): there a distributed vector database takes over."
    )


def _copies(r: ScaleupResult) -> str:
    copying = [j for j in r.judged if j.copies > r.copies_bound]
    if not copying:
        return "None of the generators copies."
    names = ", ".join(f"{j.generator} ({j.copies:.0%})" for j in copying)
    return f"Nearly copies of items that they were given are made by {names}."


def _correlate(r: ScaleupResult) -> str:
    if len(r.judged) < 3:
        return "Too few generators were tested to say which descriptor goes with the error."
    names = ("lid_mle", "lid_two_nn", "hubness", "contrast", "nn_distance", "nn_power", "auc")
    usable = [n for n in names if getattr(r.real_described, n) is not None]
    name, correlation = closest_descriptor(r.judged, r.real_described, usable)
    return (
        f"Over the {len(r.judged)} generators the error in recall goes best with the error in {name.replace('_', ' ')} "
        f"(rank correlation {correlation:.2f}); the best of {len(usable)} descriptors over so few says little."
    )


def _laws(r: ScaleupResult) -> str:
    flat = next((g for g in r.growth if g.family == BASELINE and g.what == "p50_ms"), None)
    own = next((g for g in r.growth if g.family == r.best.family and g.what == "p50_ms"), None)
    if flat is None or own is None:
        return "Too few sizes reached the floor of recall for a law."
    return (
        f"P50 grows as n to the power {flat.power:.2f} for exact search and {own.power:.2f} for {own.family}, fitted "
        f"on {own.points} sizes."
    )
