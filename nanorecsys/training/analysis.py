"""Computations of the training chapter: quality with intervals, choices, ablations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from nanorecsys.data import Histories, Interactions
from nanorecsys.evaluation import (
    Change,
    DotProduct,
    Evaluation,
    Task,
    mean_interval,
    paired_change,
    value,
    values,
)
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.fit import encode_users, fit_retriever, rank_by, scorer
from nanorecsys.training.loop import Trained, TrainingConfig
from nanorecsys.training.losses import LOSSES
from nanorecsys.training.result import ItemChoice, NdcgDifference, Quality, Read

# The ways to represent items, and whether each uses their content.
ITEMS_BY = {"id and content": True, "id alone": False}
RARE = 5  # events below which an item counts as rare
BASE = "base"
READ_MARGIN = 0.05  # share of a metric that reading fewer events may cost

Configs = tuple[RetrieverConfig, TrainingConfig]


def quality(runs: Sequence[Evaluation]) -> Quality:
    """Quality of a model on one task from the evaluations of its seeds."""
    found: dict[str, float] = {}
    for name in ("hitrate", "ndcg"):
        interval = mean_interval(_over_seeds(runs, f"{name}@10"))
        found[name] = interval.estimate
        found[f"{name}_low"], found[f"{name}_high"] = interval.low, interval.high
    for name in ("mrr", "ndcg_ips", "coverage"):
        found[name] = float(np.mean([value(run, f"{name}@10") for run in runs]))
    return Quality(**found, users=len(runs[0].users), seeds=len(runs))


def change(
    runs: Sequence[Evaluation], others: Sequence[Evaluation], metric: str = "ndcg@10"
) -> Change:
    """Change of a metric from the seeds of another model to those of one model, paired by user."""
    return paired_change(_over_seeds(others, metric), _over_seeds(runs, metric))


def difference(
    runs: Sequence[Evaluation], others: Sequence[Evaluation], against: str
) -> NdcgDifference:
    """NDCG@10 of a model's seeds minus that of another model on the same task, paired by user."""
    found = change(runs, others)
    return NdcgDifference(against=against, ndcg=found.change, low=found.low, high=found.high)


def rank(model: Retriever, task: Task, events: int | None = None) -> Evaluation:
    """Rank a task's targets by a retriever, which reads its window or the last `events` only."""
    return rank_by(scorer(model, task, events), task)


def rank_shuffled(model: Retriever, task: Task, seed: int) -> Evaluation:
    """Rank a task's targets after histories in random order, to show what the order contributes."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(task.n_users), task.seen.lengths)
    order = np.lexsort((rng.random(len(users)), users))
    shuffled = Histories(task.seen.offsets, task.seen.items[order])
    return rank_by(DotProduct(encode_users(model, shuffled), model.item_vectors()), task)


def with_history(evaluation: Evaluation, task: Task) -> Evaluation:
    """The targets of users that have a known history."""
    return evaluation.restricted(task.seen.lengths[evaluation.users[evaluation.target_row]] > 0)


def item_inputs(ways: Sequence[str]) -> dict[str, bool]:
    """Whether each of some ways to represent items uses their content.

    Raises:
        TrainingError: no way is given, or one that is not in `ITEMS_BY`.
    """
    if not ways or not ITEMS_BY.keys() >= set(ways):
        raise TrainingError(
            f"items_by is {list(ways)}", f"Name one or more of {', '.join(ITEMS_BY)}."
        )
    return {way: ITEMS_BY[way] for way in ways}


def item_choice(trained: Trained, ranks: Evaluation, task: Task) -> ItemChoice:
    """Validation results of one way to represent items, also for targets that training hardly has.

    Args:
        trained: Retriever fitted on the task.
        ranks: The task's targets ranked by it.
        task: Validation task.
    """
    rare = np.bincount(task.known.item, minlength=task.n_items)[ranks.target_item] < RARE
    return ItemChoice(
        ndcg=value(ranks, "ndcg@10"),
        hitrate=value(ranks, "hitrate@10"),
        ndcg_rare=value(ranks.restricted(rare), "ndcg@10") if rare.any() else 0.0,
        rare_targets=int(rare.sum()),
        best_epoch=trained.best_epoch,
        seconds=float(trained.curve["seconds"].sum()),
    )


def read_fewer(
    model: Retriever, task: Task, whole: Evaluation, numbers: Iterable[int]
) -> list[Read]:
    """Quality by the number of last events read from each history, the whole window first.

    Args:
        model: Fitted retriever.
        task: Validation task.
        whole: The task's targets ranked by the model after the whole window.
        numbers: Numbers of events to try; those not below the window are left out.
    """
    window = model.config.window
    lengths = task.seen.lengths[task.targets.lengths > 0]
    reads = []
    for events in [window, *sorted({n for n in numbers if 0 < n < window}, reverse=True)]:
        ranks = whole if events == window else rank(model, task, events)
        read = Read(
            events=events,
            mean=float(np.minimum(lengths, events).mean()),
            ndcg_100=change([ranks], [whole], "ndcg@100"),
            hitrate_100=change([ranks], [whole], "hitrate@100"),
        )
        reads.append(read)
    return reads


def enough_events(reads: Sequence[Read]) -> int:
    """Number of events to read, from the results of `read_fewer`.

    From the whole window down, the fewest that keep NDCG@100 and HitRate@100 within `READ_MARGIN`
    of the whole window's, at the lower end of the paired interval.
    """
    enough = reads[0]
    for fewer in reads[1:]:
        if any(c.low < -READ_MARGIN * c.base for c in (fewer.ndcg_100, fewer.hitrate_100)):
            break
        enough = fewer
    return enough.events


def variants(
    model: RetrieverConfig, training: TrainingConfig, names: Sequence[str]
) -> dict[str, Configs]:
    """Configurations of the ablation: the base, and each variant that changes one thing of it.

    Args:
        model: Sizes of the base.
        training: Schedule of the base.
        names: Variants to make, all if empty.

    Raises:
        TrainingError: there is no such variant.
    """
    every: dict[str, Configs] = {
        name: (model, replace(training, loss=name)) for name in LOSSES if name != training.loss
    }
    every |= {
        "seen_negatives": (model, replace(training, seen_negatives=True)),
        "id_alone": (replace(model, content=False), training),
        "absolute_positions": (replace(model, positions="absolute"), training),
        "half_window": (replace(model, window=model.window // 2), training),
        "one_layer": (replace(model, layers=1), training),
        "twice_layers": (replace(model, layers=2 * model.layers), training),
    }
    if unknown := [name for name in names if name not in every]:
        raise TrainingError(
            f"there is no variant {unknown[0]!r}", f"Use any of {', '.join(every)}."
        )
    return {BASE: (model, training)} | {name: every[name] for name in names or every}


def ablate(
    task: Task, items: pd.DataFrame, variants: Mapping[str, Configs], seeds: Sequence[int]
) -> pd.DataFrame:
    """Fit each variant with every seed, and rank the validation task.

    Args:
        task: Validation task.
        items: One row per item.
        variants: Configurations by name.
        seeds: Random seeds to train each variant with.

    Returns:
        One row per variant and seed: variant, seed, ndcg (at 10), seconds of training.
    """
    rows = []
    for name, (model, training) in tqdm(variants.items(), desc="ablation"):
        for seed in seeds:
            seeded = replace(training, seed=seed)
            trained = fit_retriever(task, items, model, seeded, progress=False)
            ndcg = value(rank(trained.model, task), "ndcg@10")
            seconds = trained.curve["seconds"].sum()
            rows.append({"variant": name, "seed": seed, "ndcg": ndcg, "seconds": seconds})
    return pd.DataFrame(rows)


def ties_reversed(interactions: Interactions) -> Interactions:
    """The same events, with simultaneous events of a user in the opposite order (falling item)."""
    order = np.lexsort((-interactions.item, interactions.timestamp, interactions.user))
    columns = ("user", "item", "rating", "timestamp")
    return replace(interactions, **{name: getattr(interactions, name)[order] for name in columns})


def changed_targets(task: Task, other: Task) -> float:
    """Share of the targets of `task` that are no targets of `other`."""
    targets, others = (
        np.repeat(np.arange(t.n_users), t.targets.lengths) * t.n_items + t.targets.items
        for t in (task, other)
    )
    return float(1 - np.isin(targets, others).mean())


def rank_frame(runs: Mapping[str, Mapping[str, Sequence[Evaluation]]]) -> pd.DataFrame:
    """Raw rows behind every quality: task, model, run, user int32, item int32, rank float64.

    Args:
        runs: Evaluations of each seed, by task and model.
    """
    return pd.concat(
        [
            run.rank_rows().assign(task=task, model=model, run=i)
            for task, models in runs.items()
            for model, evaluations in models.items()
            for i, run in enumerate(evaluations)
        ],
        ignore_index=True,
    )[["task", "model", "run", "user", "item", "rank"]]


def _over_seeds(runs: Sequence[Evaluation], name: str) -> np.ndarray:
    """A metric's value for each user, the mean over the seeds, float64 (m,)."""
    return np.mean([values(run, name).values for run in runs], axis=0)
