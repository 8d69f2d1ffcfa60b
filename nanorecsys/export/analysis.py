"""What the export chapter concludes: which variant is served, and the sentences that depend on the numbers."""

from collections.abc import Mapping, Sequence

import polars as pl

from nanorecsys.data import Histories
from nanorecsys.export import append
from nanorecsys.export.result import COMPANY, Append, ExportResult, VariantResult
from nanorecsys.models.retriever import RetrieverConfig, UserEncoder
from nanorecsys.serving.encoder import Encode
from nanorecsys.system.errors import NanorecsysError

# The rule: no more of NDCG@10 may be lost, as a share of the trained model's.
LOSS = 0.01
# Events after which kept states are compared with a full encode.
APPENDED = 1, 10, 50, 100, 200
DRIFT = {"user": pl.Int64, "appended": pl.Int64, "forgotten": pl.Int64, "cosine": pl.Float32}
# And for keeping states: a step's share of a full encode, the cosine to it, and what a user may
# take, which is what 8 GiB hold of the earlier benchmark's 138,493 users.
APPEND_SHARE, APPEND_COSINE, APPEND_KIB = 0.5, 0.99, 64.0


def served(variants: Mapping[str, VariantResult]) -> dict[str, VariantResult]:
    """The variants that a server without PyTorch could run: those with a file."""
    return {name: v for name, v in variants.items() if v.load_ms is not None}


def keeps_quality(variant: VariantResult) -> bool:
    """Whether the interval of the change of NDCG@10 excludes a loss of more than `LOSS`."""
    ndcg = variant.closeness.ndcg
    return ndcg.low >= -LOSS * ndcg.base


def knows_company(variant: VariantResult) -> bool:
    """Whether a history's vector depends on what else is in its batch."""
    return variant.closeness.company is not None and variant.closeness.company > COMPANY


def choose(variants: Mapping[str, VariantResult]) -> str:
    """The rule of the study: the lowest mean latency over real histories among the served that keep their quality and
    know no company.

    Raises:
        NanorecsysError: none does.
    """
    kept = {
        name: v for name, v in served(variants).items() if keeps_quality(v) and not knows_company(v)
    }
    if not kept:
        raise NanorecsysError(
            "no exported variant keeps its NDCG@10 within the rule",
            "Judge more users, or train longer: with a weak model the interval is too wide to tell.",
        )
    return min(kept, key=lambda name: kept[name].mean_ms)


def story(found: ExportResult) -> dict[str, str]:
    """The sentences of the page whose wording depends on how the numbers came out."""
    chosen, change = found.variants[found.chosen], found.variants[found.chosen].closeness.ndcg
    excluded = [name for name, v in served(found.variants).items() if not keeps_quality(v)]
    effect = (
        "worse" if change.high < 0 else "better" if change.low > 0 else "not measurably different"
    )
    answer = (
        (
            f"{found.chosen} is served: {chosen.mean_ms:.1f} ms a user over real histories on one thread, its NDCG@10 "
            f"{effect} from the trained model's ({change.change:+.4f}, {change.low:+.4f} to {change.high:+.4f})."
        )
        .replace("worse from", "worse than")
        .replace("better from", "better than")
    )
    rule = (
        f"The rule leaves out {'; '.join(excluded)}: the interval reaches a loss of more than {LOSS:.0%}."
        if excluded
        else f"Every exported variant keeps its NDCG@10: no interval reaches a loss of {LOSS:.0%}."
    )
    company = [name for name, v in served(found.variants).items() if knows_company(v)]
    if company:
        rule += f" The rule leaves out {'; '.join(company)}: an answer would depend on who asks at the same time."
    return {"answer": answer, "rule_sentence": rule, "append_sentence": _append(found)}


def measure_append(
    encoder: UserEncoder, full: Encode, histories: Histories, lengths: Sequence[int], repeats: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Timings and drift of `nanorecsys.export.append`, in fp32 on one thread.

    Args:
        full: the full encode to compare with.
        histories: CSR, for the drift; where none is long enough, its frame is empty.
        lengths: events of a history with its new one.

    Raises:
        ExportError: positions are absolute.
    """
    window = encoder.tower.config.window
    appender = append.Appender(append.step_tower(encoder).SerializeToString(), window)
    timings = append.append_timings(
        appender, full, len(encoder.table) - 1, lengths, repeats=repeats
    )
    at = [n for n in APPENDED if window + n <= histories.lengths.max(initial=0)]
    drift = (
        append.append_drift(appender, full, histories, at=at) if at else pl.DataFrame(schema=DRIFT)
    )
    return timings, drift


def append_costs(timings: pl.DataFrame, config: RetrieverConfig) -> list[Append]:
    """Medians of `append.append_timings` by length, with the state's size."""
    medians = (
        timings.group_by("length", "variant")
        .agg(ms=pl.col("ms").median())
        .pivot("variant", index="length")
    )
    return [
        Append(
            length=row["length"],
            step_ms=row["append"],
            full_ms=row["full encode"],
            state_kib=append.state_bytes(config, row["length"]) / 1024,
        )
        for row in medians.sort("length").iter_rows(named=True)
    ]


def lowest_cosines(drift: pl.DataFrame) -> dict[str, float]:
    """The lowest cosine over the users, by events appended since the window slid."""
    lowest = drift.group_by("appended").agg(pl.col("cosine").min()).sort("appended")
    return {str(events): cosine for events, cosine in lowest.iter_rows()}


def append_pays(append: Sequence[Append], drift: Mapping[str, float]) -> bool:
    """The rule for shipping kept states: at every length half the time, vectors that stay, and states that fit.

    Args:
        append: costs by length.
        drift: lowest cosine to a full encode, by events appended since the window slid.
    """
    return (
        all(a.step_ms <= APPEND_SHARE * a.full_ms for a in append)
        and all(cosine >= APPEND_COSINE for cosine in drift.values())
        and max(a.state_kib for a in append) <= APPEND_KIB
    )


def _append(found: ExportResult) -> str:
    longest = max(found.append, key=lambda a: a.length)
    drift = ", ".join(
        f"{cosine:.4f} after {events}" for events, cosine in found.append_drift.items()
    )
    sentence = (
        f"At {longest.length} events one append takes {longest.step_ms:.2f} ms against {longest.full_ms:.2f} ms for a "
        f"full encode, and keeps {longest.state_kib:,.0f} KiB a user. "
    )
    if drift:
        sentence += f"The lowest cosine to a full encode, by events appended since the window slid: {drift}. "
    verdict = (
        "It pays, and is shipped." if found.append_pays else "It does not pay, and is not shipped."
    )
    return sentence + verdict
