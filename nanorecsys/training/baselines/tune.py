"""Random search over a stated space, the same budget for every baseline, and one read of the test part."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from nanorecsys.data import Interactions, Split
from nanorecsys.evaluation import Evaluation, Scorer, Task, evaluate, make_task, value
from nanorecsys.training.baselines.linear import EASE, ImplicitALS
from nanorecsys.training.baselines.neighbours import ItemKNN, Markov
from nanorecsys.training.baselines.popular import Popularity, RecentPopularity


class Model(Protocol):
    """What can be fitted on known events and then scores users."""

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer: ...


Space = Mapping[str, Sequence[Any]]

RECENCY = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.6, 2.0)
PENALTY = (20, 50, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000)
ALS: Space = {
    "factors": (16, 32, 64, 128),
    "regularization": (0.01, 0.1, 1, 10, 30, 100),
    "alpha": (0.5, 1, 2, 5, 10, 20),
    "iterations": (5, 15),
}


@dataclass(frozen=True)
class Baseline:
    """A row of the table: how to build the model, and the values that each parameter may take."""

    build: Callable[..., Model]
    space: Space


BASELINES: dict[str, Baseline] = {
    "popularity": Baseline(Popularity, {}),
    "popularity of 30 days": Baseline(RecentPopularity, {}),
    "iALS": Baseline(ImplicitALS, ALS),
    "iALS, recent": Baseline(ImplicitALS, {**ALS, "recency": RECENCY}),
    "EASE": Baseline(EASE, {"penalty": PENALTY}),
    "EASE, recent": Baseline(EASE, {"penalty": PENALTY, "recency": RECENCY}),
    "item-kNN": Baseline(
        ItemKNN,
        {
            "neighbours": (20, 50, 100, 200, 500, 1000),
            "shrinkage": (0, 1, 2, 5, 10, 20, 50, 100),
            "recency": (0, *RECENCY),
        },
    ),
    "Markov": Baseline(
        Markov,
        {
            "window": (3, 5, 10, 20, 40),
            "gap": (0, 0.5, 1),
            "last": (5, 10, 20, 50),
            "recency": (0.3, 0.5, 0.7, 0.9, 1.1, 1.3),
            "shrinkage": (5, 20, 50, 100, 200),
            "debias": (0, 0.1, 0.25),
            "backoff": (0.001, 0.01, 0.1, 1),
        },
    ),
}


def fit_and_evaluate(model: Model, task: Task, k_max: int = 100) -> Evaluation:
    """Fit on what the task lets be known, rank its targets."""
    scorer = model.fit(task.known, task.n_users, task.n_items)
    return evaluate(scorer, task.targets, task.seen, task.n_items, k_max=k_max)


def tune(
    baseline: Baseline, task: Task, *, trials: int = 50, metric: str = "ndcg@10", seed: int = 0
) -> tuple[Model, pl.DataFrame]:
    """Random search without repeats: the best model, unfitted, and every trial.

    Args:
        baseline: what to build, and the space to draw from.
        task: a validation task.
        trials: points drawn from the space, or all of a smaller space; one where there is nothing
            to choose.
        metric: what to choose by; of equal ones the first drawn wins.
        seed: same seed, same points.

    Returns:
        The model with the best parameters, and one row a trial: trial, each parameter, the metric,
        seconds.
    """
    sizes = [len(options) for options in baseline.space.values()]
    n_points = int(np.prod(sizes))
    drawn = np.random.default_rng(seed).choice(n_points, min(trials, n_points), replace=False)
    rows = []
    for trial, point in enumerate(drawn):
        chosen = np.unravel_index(point, sizes) if sizes else ()
        parameters = {
            name: options[i]
            for (name, options), i in zip(baseline.space.items(), chosen, strict=True)
        }
        start = time.perf_counter()
        found = value(fit_and_evaluate(baseline.build(**parameters), task, k_max=1), metric)
        rows.append(
            {"trial": trial, **parameters, metric: found, "seconds": time.perf_counter() - start}
        )
    best = max(rows, key=lambda row: row[metric])
    return baseline.build(**{name: best[name] for name in baseline.space}), pl.DataFrame(
        rows, strict=False
    )


@dataclass(frozen=True, eq=False)
class Tuned:
    """A baseline's best model, its trials (see `tune`), and its evaluation on the test task."""

    model: Model
    trials: pl.DataFrame
    evaluation: Evaluation


def tune_and_test(
    interactions: Interactions,
    split: Split,
    *,
    trials: int = 50,
    metric: str = "ndcg@10",
    seed: int = 0,
) -> dict[str, Tuned]:
    """Every baseline, chosen on validation with the same budget, refitted on train and validation, tested once."""
    validation, test = (make_task(interactions, split, stage) for stage in ("validation", "test"))
    table = {}
    for name, baseline in BASELINES.items():
        model, rows = tune(baseline, validation, trials=trials, metric=metric, seed=seed)
        table[name] = Tuned(model, rows, fit_and_evaluate(model, test))
    return table
