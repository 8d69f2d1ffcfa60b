"""Random search over a stated space with the same budget for every baseline, and one test each."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nanorecsys.data import Interactions, Split
from nanorecsys.evaluation import Evaluation, Scorer, Task, make_task, value
from nanorecsys.training.baselines.counts import ItemKNN, Markov, Popularity, RecentPopularity
from nanorecsys.training.baselines.linear import EASE, ImplicitALS
from nanorecsys.training.fit import rank_by


class Model(Protocol):
    """A model that is fitted on known events and then scores users."""

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

# Each baseline, and the values that its parameters may take.
BASELINES: dict[str, tuple[Callable[..., Model], Space]] = {
    "popularity": (Popularity, {}),
    "popularity of 30 days": (RecentPopularity, {}),
    "iALS": (ImplicitALS, ALS),
    "iALS, recent": (ImplicitALS, {**ALS, "recency": RECENCY}),
    "EASE": (EASE, {"penalty": PENALTY}),
    "EASE, recent": (EASE, {"penalty": PENALTY, "recency": RECENCY}),
    "item-kNN": (
        ItemKNN,
        {
            "neighbours": (20, 50, 100, 200, 500, 1000),
            "shrinkage": (0, 1, 2, 5, 10, 20, 50, 100),
            "recency": (0, *RECENCY),
        },
    ),
    "Markov": (
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
    """Fit a model on the known events of a task, and rank the task's targets."""
    scorer = model.fit(task.known, task.n_users, task.n_items)
    return rank_by(scorer, task, k_max)


def tune(name: str, task: Task, trials: int) -> tuple[Model, pd.DataFrame]:
    """Search the space of a baseline at random, without repeats, for the best NDCG@10.

    Args:
        name: A name of `BASELINES`.
        task: Validation task to choose by; of equal results the first one wins.
        trials: Points drawn from the space, the same in every call; a smaller space is tried whole.

    Returns:
        The best model, unfitted, and one row per trial: trial, each parameter, ndcg@10, seconds.
    """
    build, space = BASELINES[name]
    points = list(itertools.product(*space.values()))
    drawn = np.random.default_rng(0).choice(len(points), min(trials, len(points)), replace=False)
    models, rows = [], []
    for trial, point in enumerate(drawn):
        parameters = dict(zip(space, points[point], strict=True))
        start = time.perf_counter()
        models.append(build(**parameters))
        ndcg = value(fit_and_evaluate(models[-1], task, k_max=1), "ndcg@10")
        seconds = time.perf_counter() - start
        rows.append({"trial": trial, **parameters, "ndcg@10": ndcg, "seconds": seconds})
    table = pd.DataFrame(rows)
    return models[table["ndcg@10"].argmax()], table


@dataclass(frozen=True, eq=False)
class Tuned:
    """Best model of a baseline, its trials (see `tune`), and its evaluation on the test task."""

    model: Model
    trials: pd.DataFrame
    evaluation: Evaluation


def tune_and_test(interactions: Interactions, split: Split, trials: int) -> dict[str, Tuned]:
    """Choose every baseline on validation, refit it on train and validation, and test it once."""
    validation, test = (make_task(interactions, split, stage) for stage in ("validation", "test"))
    tuned = {}
    for name in BASELINES:
        model, rows = tune(name, validation, trials)
        tuned[name] = Tuned(model, rows, fit_and_evaluate(model, test))
    return tuned
