"""What the training chapter does with models: fits over seeds, quality with intervals, ablations, neighbours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nanorecsys.data import Histories, Interactions
from nanorecsys.evaluation import (
    Change,
    DotProduct,
    Evaluation,
    Scorer,
    Task,
    evaluate,
    mean_interval,
    paired_change,
    value,
    values,
)
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.training.encode import encode_users
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.fit import Fitted, fit_retriever, scorer
from nanorecsys.training.loop import TrainingConfig
from nanorecsys.training.losses import LOSSES
from nanorecsys.training.result import (
    RETRIEVER,
    Difference,
    ItemChoice,
    Quality,
    Read,
    ScaleResult,
    TrainingResult,
    Variant,
)

ITEMS_BY = {
    "id and content": True,
    "id alone": False,
}  # whether a way to tell items apart has content
RARE = 5  # events below which an item counts as rare
BASE = "base: full softmax"
WARM = "global_temporal, users with a history"
READ_MARGIN = 0.05  # of a metric, that reading fewer events may cost
READ_RULE = (
    f"from the whole window down, as few events as keep NDCG@100 and HitRate@100 within {READ_MARGIN:.0%} of the whole "
    "window's, at the lower end of the paired interval"
)


def quality(runs: Sequence[Evaluation]) -> Quality:
    """One row of the quality table from the evaluations of a model's seeds on one task."""
    hitrate, ndcg = (mean_interval(_over_seeds(runs, name)) for name in ("hitrate@10", "ndcg@10"))
    means = {
        name: float(np.mean([value(run, f"{name}@10") for run in runs]))
        for name in ("mrr", "ndcg_ips", "coverage")
    }
    return Quality(
        hitrate=hitrate.estimate,
        hitrate_low=hitrate.low,
        hitrate_high=hitrate.high,
        ndcg=ndcg.estimate,
        ndcg_low=ndcg.low,
        ndcg_high=ndcg.high,
        **means,
        users=len(runs[0].users),
        seeds=len(runs),
    )


def difference(
    runs: Sequence[Evaluation], others: Sequence[Evaluation], against: str
) -> Difference:
    """NDCG@10 of a model's seeds minus another's on the same task, paired by user."""
    found = change(runs, others)
    return Difference(against=against, ndcg=found.change, low=found.low, high=found.high)


def best_baseline(evaluations: Mapping[str, Evaluation]) -> str:
    """The baseline with the highest NDCG@10 on the task: the one that is hardest to beat."""
    return max(evaluations, key=lambda name: value(evaluations[name], "ndcg@10"))


def rank(model: Retriever, task: Task, events: int | None = None) -> Evaluation:
    """Rank a task's targets by a fitted retriever, where `events` is given by the last so many of each history."""
    return rank_by(scorer(model, task, events), task)


def rank_by(score: Scorer, task: Task) -> Evaluation:
    """Rank a task's targets."""
    return evaluate(score, task.targets, task.seen, task.n_items)


def change(
    runs: Sequence[Evaluation], others: Sequence[Evaluation], metric: str = "ndcg@10"
) -> Change:
    """What a metric of a model's seeds is more than that of another's on the same task, paired by user."""
    return paired_change(_over_seeds(others, metric), _over_seeds(runs, metric))


def read_fewer(
    model: Retriever, task: Task, whole: Evaluation, numbers: Iterable[int]
) -> list[Read]:
    """Quality by how many events of each history are read, the whole window first and then fewer and fewer.

    Args:
        model: a fitted retriever.
        task: a validation task.
        whole: the model's ranks of it after the whole window.
        numbers: of events; those that are no fewer than the window are left out.
    """
    window = model.config.window
    fewer = sorted({n for n in numbers if 0 < n < window}, reverse=True)
    tried, ranked = [window, *fewer], [whole, *(rank(model, task, events) for events in fewer)]
    lengths = task.seen.lengths[task.targets.lengths > 0]
    return [
        Read(
            events=events,
            mean=float(np.minimum(lengths, events).mean()),
            ndcg_100=change([run], ranked[:1], "ndcg@100"),
            hitrate_100=change([run], ranked[:1], "hitrate@100"),
        )
        for events, run in zip(tried, ranked, strict=True)
    ]


def enough_events(reads: Sequence[Read]) -> int:
    """Events to read by the rule (`READ_RULE`).

    Args:
        reads: from `read_fewer`.
    """
    enough = reads[0]
    for fewer in reads[1:]:
        if any(c.low < -READ_MARGIN * c.base for c in (fewer.ndcg_100, fewer.hitrate_100)):
            break
        enough = fewer
    return enough.events


def with_history(evaluation: Evaluation, task: Task) -> Evaluation:
    """The rows of users that have a history when they are asked about."""
    return evaluation.restricted(task.seen.lengths[evaluation.users[evaluation.target_row]] > 0)


@dataclass(frozen=True, eq=False)
class Way:
    """One way to tell items apart: what validation says of it, the retriever, and its ranks of the validation task."""

    choice: ItemChoice
    fitted: Fitted
    ranks: Evaluation


def choose_items(
    task: Task,
    items: pl.DataFrame,
    ways: Sequence[str],
    model: RetrieverConfig,
    training: TrainingConfig,
    folder: Path,
) -> dict[str, Way]:
    """Fit the retriever once for each way to tell items apart, and rank the validation task with it.

    Args:
        task: a validation task.
        items: one row an item.
        ways: of `ITEMS_BY`.
        model: sizes; its `content` is set here.
        training: schedule.
        folder: for checkpoints, from which a killed run goes on.

    Raises:
        TrainingError: there is no such way, or none is asked for.
    """
    if not ways or not ITEMS_BY.keys() >= set(ways):
        raise TrainingError(
            f"items_by is {list(ways)}", f"Name one or more of {', '.join(ITEMS_BY)}."
        )
    counts = np.bincount(task.known.item, minlength=task.n_items)
    found = {}
    for way in ways:
        fitted = fit_retriever(
            task,
            items,
            replace(model, content=ITEMS_BY[way]),
            training,
            validate=True,
            checkpoint_path=folder / f"items-{ITEMS_BY[way]}.pt",
        )
        result = rank(fitted.model, task)
        rare = counts[result.target_item] < RARE
        choice = ItemChoice(
            ndcg=value(result, "ndcg@10"),
            hitrate=value(result, "hitrate@10"),
            ndcg_rare=value(result.restricted(rare), "ndcg@10") if rare.any() else 0.0,
            rare_targets=int(rare.sum()),
            best_epoch=fitted.trained.best_epoch,
            seconds=float(fitted.trained.curve["seconds"].sum()),
        )
        found[way] = Way(choice, fitted, result)
    return found


def fit_seeds(
    task: Task,
    items: pl.DataFrame,
    model: RetrieverConfig,
    training: TrainingConfig,
    seeds: Iterable[int],
    stop_after: int,
    folder: Path,
) -> list[Fitted]:
    """Fit the retriever on a test task once a seed, for as many epochs as validation chose."""
    return [
        fit_retriever(
            task,
            items,
            model,
            replace(training, seed=seed),
            stop_after=stop_after,
            checkpoint_path=folder / f"{task.name.replace('/', '-')}-{seed}.pt",
        )
        for seed in seeds
    ]


def variants(model: RetrieverConfig, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The base, and the changes that `names` stand for (all if there is none), by the title that figures give them.

    >>> variants(RetrieverConfig(window=100), ["gbce", "half_window"])
    {'base: full softmax': {}, 'loss: gbce': {'loss': 'gbce'}, 'window halved': {'window': 50}}

    Raises:
        TrainingError: there is no such variant.
    """
    known = {
        **{name: (f"loss: {name}", {"loss": name}) for name in LOSSES if name != "full_softmax"},
        "seen_negatives": ("seen items as negatives", {"seen_negatives": True}),
        "id_alone": ("items by id alone", {"content": False}),
        "absolute": ("positions: absolute", {"positions": "absolute"}),
        "half_window": ("window halved", {"window": model.window // 2}),
        "one_layer": ("one layer", {"layers": 1}),
        "twice_layers": ("twice the layers", {"layers": 2 * model.layers}),
    }
    if unknown := [name for name in names if name not in known]:
        raise TrainingError(
            f"there is no variant {unknown[0]!r}", f"Use any of {', '.join(known)}."
        )
    return {BASE: {}} | dict(known[name] for name in names or known)


def ablate(
    task: Task,
    items: pl.DataFrame,
    model: RetrieverConfig,
    training: TrainingConfig,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Variant]:
    """Fit variants of one configuration, each with every seed, and rank the validation task.

    Args:
        task: a validation task.
        items: one row an item.
        model: the configuration that the variants change.
        training: the schedule that they change.
        variants: name to changes, each of a field of either configuration.
        seeds: of each variant.
        progress: wraps the names of the variants, to show how far it is.
    """
    rows = {}
    for name in progress(list(variants)):
        changes = variants[name]
        shape = replace(model, **{k: v for k, v in changes.items() if hasattr(model, k)})
        schedule = replace(training, **{k: v for k, v in changes.items() if hasattr(training, k)})
        fits = [
            fit_retriever(task, items, shape, replace(schedule, seed=s), progress=False)
            for s in seeds
        ]
        found = [value(rank(fit.model, task), "ndcg@10") for fit in fits]
        rows[name] = Variant(
            ndcg=float(np.mean(found)),
            lowest=min(found),
            highest=max(found),
            seeds=len(found),
            seconds=float(np.mean([fit.trained.curve["seconds"].sum() for fit in fits])),
        )
    return rows


def rank_shuffled(model: Retriever, task: Task, seed: int) -> Evaluation:
    """Rank a task's targets after histories whose order is lost: what is left is what the order does not give."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(task.n_users), task.seen.lengths)
    order = np.lexsort((rng.random(len(users)), users))
    shuffled = Histories(task.seen.offsets, task.seen.items[order])
    return rank_by(DotProduct(encode_users(model, shuffled), model.item_vectors()), task)


def ties_reversed(interactions: Interactions) -> Interactions:
    """The same events, those of one user and second in the opposite order: by item number, falling."""
    order = np.lexsort((-interactions.item, interactions.timestamp, interactions.user))
    return replace(
        interactions,
        user=interactions.user[order],
        item=interactions.item[order],
        rating=interactions.rating[order],
        timestamp=interactions.timestamp[order],
    )


def changed_targets(task: Task, other: Task) -> float:
    """Share of users with one target each in `task` whose target is another, or none, in `other`."""
    asked = np.flatnonzero(task.targets.lengths)
    mine = task.targets.items[task.targets.offsets[asked]]
    theirs = np.full(task.n_users, -1)
    others = np.flatnonzero(other.targets.lengths)
    theirs[others] = other.targets.items[other.targets.offsets[others]]
    return float((theirs[asked] != mine).mean())


def neighbours(
    vectors: np.ndarray, titles: Sequence[str], items: Iterable[int], k: int = 5
) -> list[tuple[str, ...]]:
    """The title of each of `items`, and those of its k nearest by inner product.

    Args:
        vectors: float32 (n_items, d), unit norm.
        titles: of all items.
        items: whose neighbours to show.
        k: how many.
    """
    rows = []
    for item in items:
        scores = vectors @ vectors[item]
        scores[item] = -np.inf
        rows.append((titles[item], *(titles[i] for i in np.argsort(-scores, kind="stable")[:k])))
    return rows


def rank_frame(runs: Mapping[str, Mapping[str, Sequence[Evaluation]]]) -> pl.DataFrame:
    """The raw rows behind every quality: task, model, run, user int32, item int32, rank float64."""
    return pl.concat(
        run.rank_rows().select(
            task=pl.lit(task),
            model=pl.lit(model),
            run=pl.lit(i),
            user="user",
            item="item",
            rank="rank",
        )
        for task, models in runs.items()
        for model, evaluations in models.items()
        for i, run in enumerate(evaluations)
    )


def _over_seeds(runs: Sequence[Evaluation], name: str) -> np.ndarray:
    """A metric's value for each user, the mean over the seeds, float64 (m,)."""
    return np.mean([values(run, name).values for run in runs], axis=0)


def story(found: TrainingResult) -> dict[str, str]:
    """The sentences of the page whose wording depends on how the numbers came out."""
    own = {task: models[RETRIEVER] for task, models in found.quality.items()}
    leave_one_out = own["leave_one_out"]
    misses = [
        f"{name} {value:.3f} against {target}"
        for name, value, target in (
            ("HitRate@10", leave_one_out.hitrate, 0.155),
            ("NDCG@10", leave_one_out.ndcg, 0.085),
        )
        if found.is_study_shape and value < target
    ]
    sentences = [
        f"On {task.replace('_', ' ')}, {_against(margin)}" for task, margin in found.margin.items()
    ]
    answer = (
        f"The retriever reaches HitRate@10 {leave_one_out.hitrate:.3f} and NDCG@10 {leave_one_out.ndcg:.3f} under "
        f"leave-one-out. {' '.join(sentences)}"
    )
    if misses:
        answer = (
            f"This run falls short of what the study holds itself to: {'; '.join(misses)}. {answer}"
        )
    change = found.ranker.change
    effect = _verdict(change, "it improves", "it spoils", "it does not measurably change")
    return {
        "answer": answer,
        "margin_sentence": " ".join(sentences),
        "temporal_sentence": _temporal(found),
        "order_sentence": "order matters."
        if found.shuffled_ndcg < found.ranker.before.ndcg
        else "this model does not use it.",
        "ranker_sentence": f"The ranker changes the NDCG@10 of its retriever by {change.ndcg:+.4f} "
        f"({change.low:+.4f} to {change.high:+.4f}): {effect} the order.",
        "events_sentence": _events(found),
        "scale_sentence": _scale(found.scale),
    }


def _against(margin: Difference) -> str:
    place = _verdict(margin, "above", "below", "not measurably different from")
    return (
        f"its NDCG@10 is {place} that of the best baseline, {margin.against} "
        f"({margin.ndcg:+.4f}, {margin.low:+.4f} to {margin.high:+.4f})."
    )


def _verdict(difference: Difference, better: str, worse: str, neither: str) -> str:
    """The word that a paired interval allows."""
    if difference.low > 0:
        return better
    return worse if difference.high < 0 else neither


def _temporal(found: TrainingResult) -> str:
    models = found.quality.get(WARM)
    if not models:
        return "The temporal split was not judged in this run."
    best = max(models, key=lambda name: models[name].ndcg)
    return (
        f"Under the temporal split only {models[best].users} test users have a history; for them {best} is best of "
        f"{len(models)} models (NDCG@10 {models[best].ndcg:.3f}, the retriever {models[RETRIEVER].ndcg:.3f})."
    )


def _events(found: TrainingResult) -> str:
    whole, read = found.reads[0], next(r for r in found.reads if r.events == found.events_read)
    if read is whole:
        return "Every event of the window is worth reading."
    tested = "; ".join(
        f"in the {name}'s order it is {c.change:+.4f} ({c.low:+.4f} to {c.high:+.4f})"
        for name, c in found.events_change.items()
    )
    return (
        f"The last {read.events} events are enough, {read.mean:.0f} in the mean where a window has {whole.mean:.0f}. "
        f"On the test part, read once for this number, the change of NDCG@10 is: {tested}."
    )


def _scale(scale: ScaleResult | None) -> str:
    if scale is None:
        return "The rate at a larger size was not measured in this run; the full profile takes MovieLens 20M's."
    return (
        f"On a generated data set of {scale.ratings:,} ratings and {scale.items:,} items, {scale.steps} steps of the "
        f"study shape ran at {scale.tokens_per_s:,.0f} tokens a second ({scale.device}): {scale.hours_an_epoch:.1f} "
        f"hours an epoch, with {scale.peak_rss_gib:.1f} GiB at the peak."
    )
