"""Computations of the training chapter: quality with intervals, choices, ablations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np
import pandas as pd
from tqdm import tqdm

from nanorecsys.data import Interactions, Split
from nanorecsys.data.prepared import Prepared
from nanorecsys.evaluation.bootstrap import Change, mean_interval, paired_change
from nanorecsys.evaluation.metrics import value, values
from nanorecsys.evaluation.protocols import Task, last_events, make_task
from nanorecsys.evaluation.ranking import Evaluation, EvaluationError
from nanorecsys.models.ranker import FittedRanker
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.training import result
from nanorecsys.training.baselines.matrices import with_fallback
from nanorecsys.training.errors import check_names
from nanorecsys.training.fit import fit_retriever, scorer
from nanorecsys.training.loop import Trained, TrainingConfig
from nanorecsys.training.losses import LOSSES
from nanorecsys.training.ranker import reranker

# The ways to represent items, and whether each uses their content.
ITEMS_BY = {"id and content": True, "id alone": False}
RARE = 5  # events below which an item counts as rare
MIN_TARGETS = 30  # rare targets below which they have no quality of their own
BASE = "base"
LAYERS_MARGIN = 0.02  # share of the best candidate's NDCG@10 that fewer layers may cost
READ_MARGIN = 0.05  # share of NDCG@10 that reading fewer events may cost

Configs = tuple[RetrieverConfig, TrainingConfig]


def splits_of(sets: Mapping[str, Prepared], names: Sequence[str]) -> dict[str, dict[str, Split]]:
    """Splits of each data set by name: leave-one-out, then the others of `names`.

    A split is left out, with a note, if the histories of some data set are too short for it.

    Raises:
        TrainingError: there is no such split.
    """
    check_names("split", names, [*next(iter(sets.values())).splits, result.LAST_TEN])
    found = {}
    for name in dict.fromkeys([result.LEAVE_ONE_OUT, *names]):
        try:
            found[name] = {dataset: _split(prepared, name) for dataset, prepared in sets.items()}
        except EvaluationError as error:
            print(f"{name} is left out: {error.message}")
    return {dataset: {name: split[dataset] for name, split in found.items()} for dataset in sets}


def _split(prepared: Prepared, name: str) -> Split:
    """A split whose validation and test parts ask for something."""
    events = prepared.dataset.interactions
    split = last_events(events) if name == result.LAST_TEN else prepared.splits[name]
    if name != result.LEAVE_ONE_OUT:
        for stage in ("validation", "test"):
            task = make_task(events, split, stage)
            if not task.seen.lengths[task.asked].any():
                raise EvaluationError(f"no user of the {stage} part has an earlier event")
    return split


def quality(runs: Sequence[Evaluation]) -> result.Quality:
    """Quality of a model on one task from the evaluations of its seeds."""
    return result.Quality(
        hitrate=mean_interval(_by_seed(runs, "hitrate@10")),
        ndcg=mean_interval(_by_seed(runs, "ndcg@10")),
        mrr=float(_by_seed(runs, "mrr@10").mean()),
        users=len(runs[0].users),
        seeds=len(runs),
    )


def change(
    runs: Sequence[Evaluation], others: Sequence[Evaluation], metric: str = "ndcg@10"
) -> Change:
    """Change of a metric from the seeds of another model to those of one model.

    It is paired by user, and by seed too: both models have the same seeds, or one has a single one.
    """
    return paired_change(_by_seed(others, metric), _by_seed(runs, metric))


def margin(runs: Mapping[str, Sequence[Evaluation]]) -> result.Margin:
    """The served order against the baseline with the highest NDCG@10 on the same task.

    Args:
        runs: Evaluations of each seed, by model.
    """
    baselines = [name for name in runs if name not in (result.SERVED, result.RETRIEVER)]
    best = max(baselines, key=lambda name: _by_seed(runs[name], "ndcg@10").mean())
    return result.Margin(against=best, ndcg=change(runs[result.SERVED], runs[best]).interval)


def rank(model: Retriever, task: Task, events: int | None = None) -> Evaluation:
    """Rank a task's targets by a retriever, which reads its window or the last `events` only."""
    return task.rank(scorer(model, task, events))


def rank_served(
    model: Retriever, task: Task, events: int, ranked: FittedRanker | None = None
) -> Evaluation:
    """Rank a task's targets in the order that the server answers in.

    The retriever reads the last `events` of a history, the ranker puts its first hundred items in
    order, if there is one, and a user without a history gets the popular items.

    Args:
        model: Retriever that was fitted on the task.
        task: Task whose targets are ranked.
        events: Number of last events to read from each history.
        ranked: Ranker that was fitted on the task, or None for the retriever's order.
    """
    retrieved = scorer(model, task, events)
    ordered = reranker(ranked, retrieved.user_vectors, task.seen) if ranked else retrieved
    return task.rank(with_fallback(ordered, task.known, task.n_users, task.n_items))


def with_history(evaluation: Evaluation, task: Task) -> Evaluation:
    """The targets of users that have a known history."""
    return evaluation.restricted(task.seen.lengths[evaluation.users[evaluation.target_row]] > 0)


def item_inputs(ways: Sequence[str]) -> dict[str, bool]:
    """Whether each of some ways to represent items uses their content; all ways if none is given.

    Raises:
        TrainingError: there is no such way.
    """
    check_names("way to represent items", ways, ITEMS_BY)
    return {way: ITEMS_BY[way] for way in ways or ITEMS_BY}


def item_choice(trained: Trained, ranks: Evaluation, task: Task) -> result.ItemChoice:
    """Validation results of one way to represent items, also for targets that training hardly has.

    Args:
        trained: Retriever fitted on the task.
        ranks: The task's targets ranked by it.
        task: Validation task.
    """
    rare = np.bincount(task.known.item, minlength=task.n_items)[ranks.target_item] < RARE
    found = quality([ranks])
    return result.ItemChoice(
        ndcg=found.ndcg,
        hitrate=found.hitrate,
        ndcg_rare=quality([ranks.restricted(rare)]).ndcg if rare.sum() >= MIN_TARGETS else None,
        rare_targets=int(rare.sum()),
        best_epoch=trained.best_epoch,
    )


def layer_choices(
    trained: Mapping[int, Sequence[Trained]], ranks: Mapping[int, Sequence[Evaluation]]
) -> list[result.LayerChoice]:
    """Validation results of each number of layers against the best one, paired by user and seed.

    Args:
        trained: Retrievers of each seed by number of layers, trained for equally many epochs.
        ranks: The validation targets ranked by each.
    """
    best = max(ranks, key=lambda layers: _by_seed(ranks[layers], "ndcg@10").mean())
    curves = {
        layers: pd.concat([run.curve for run in runs]).groupby("epoch").mean()
        for layers, runs in trained.items()
    }
    return [
        result.LayerChoice(
            layers=layers,
            ndcg=change(ranks[layers], ranks[best]),
            best_epoch=int(curve["validation"].idxmax()),
            seconds=float(curve["seconds"].sum()),
        )
        for layers, curve in curves.items()
    ]


def enough_layers(choices: Sequence[result.LayerChoice]) -> result.LayerChoice:
    """The fewest layers that keep NDCG@10 within `LAYERS_MARGIN` of the best candidate's."""
    enough = [c for c in choices if c.ndcg.change >= -LAYERS_MARGIN * c.ndcg.base]
    return min(enough, key=lambda choice: choice.layers)


def read_fewer(
    models: Sequence[Retriever], task: Task, whole: Sequence[Evaluation], numbers: Iterable[int]
) -> list[result.Read]:
    """Quality by the number of last events read from each history, the whole window first.

    Args:
        models: Fitted retrievers, one for each seed.
        task: Validation task.
        whole: The task's targets ranked by each model after the whole window.
        numbers: Numbers of events to try; those not below the window are left out.
    """
    window = models[0].config.window
    lengths = task.seen.lengths[task.asked]
    fewer = sorted({n for n in numbers if 0 < n < window}, reverse=True)
    ranks = {n: [rank(model, task, n) for model in models] for n in fewer}
    return [
        result.Read(
            events=n,
            mean=float(np.minimum(lengths, n).mean()),
            ndcg=change(found, whole),
            ndcg_100=change(found, whole, "ndcg@100"),
        )
        for n, found in ({window: whole} | ranks).items()
    ]


def enough_events(reads: Sequence[result.Read]) -> int:
    """Number of events to read, from the results of `read_fewer`.

    From the whole window down, the fewest that keep NDCG@10 within `READ_MARGIN` of the whole
    window's, at the lower end of the paired interval.
    """
    kept = takewhile(lambda read: read.ndcg.low > -READ_MARGIN * read.ndcg.base, reads[1:])
    return [reads[0], *kept][-1].events


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
        "half_window": (replace(model, window=model.window // 2), training),
    }
    check_names("variant", names, every)
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
            rows.append((name, seed, ndcg, trained.curve["seconds"].sum()))
    return pd.DataFrame(rows, columns=["variant", "seed", "ndcg", "seconds"])


def ties_reversed(interactions: Interactions) -> Interactions:
    """The same events, with simultaneous events of a user in the opposite order (falling item)."""
    order = np.lexsort((-interactions.item, interactions.timestamp, interactions.user))
    return interactions.take(order)


def changed_targets(task: Task, other: Task) -> float:
    """Share of the targets of `task` that are no targets of `other`."""
    targets, others = (
        np.repeat(np.arange(t.n_users), t.targets.lengths) * t.n_items + t.targets.items
        for t in (task, other)
    )
    return 1 - float(np.isin(targets, others).mean())


def rank_frame(runs: Mapping[str, Mapping[str, Sequence[Evaluation]]]) -> pd.DataFrame:
    """Raw rows behind every quality: task, model, run, user int32, item int32, rank float64.

    Args:
        runs: Evaluations of each seed, by task and model.
    """
    rows = {
        (task, model, i): run.rank_rows()
        for task, models in runs.items()
        for model, evaluations in models.items()
        for i, run in enumerate(evaluations)
    }
    names = ["task", "model", "run"]
    return pd.concat(rows, names=names).reset_index(names).reset_index(drop=True)


def _by_seed(runs: Sequence[Evaluation], name: str) -> np.ndarray:
    """A metric's value of each seed for each user, float64 (seeds, users)."""
    return np.stack([values(run, name) for run in runs])
