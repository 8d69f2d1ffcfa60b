"""Random search over a stated space with the same budget for every baseline, and one test each."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from nanorecsys.data import Interactions, Split
from nanorecsys.evaluation import Evaluation, Scorer, Task, make_task, value
from nanorecsys.training.baselines.counts import ItemKNN, Markov, Popularity, RecentPopularity
from nanorecsys.training.baselines.linear import EASE, ImplicitALS
from nanorecsys.training.baselines.matrices import content_features
from nanorecsys.training.errors import TrainingError


class Model(Protocol):
    """A model that is fitted on known events and then scores users."""

    def fit(self, known: Interactions, n_users: int, n_items: int) -> Scorer: ...


Space = Mapping[str, Sequence[Any]]

RECENCY = (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.6, 2.0)
PENALTY = (20, 50, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000)
EASE_RECENT: Space = {"penalty": PENALTY, "recency": RECENCY}
ALS: Space = {
    "factors": (16, 32, 64, 128),
    "regularization": (0.01, 0.1, 1, 10, 30, 100),
    "alpha": (0.5, 1, 2, 5, 10, 20),
    "iterations": (5, 15),
}
KNN: Space = {
    "neighbours": (20, 50, 100, 200, 500, 1000),
    "shrinkage": (0, 1, 2, 5, 10, 20, 50, 100),
    "recency": (0, *RECENCY),
}
MARKOV: Space = {
    "window": (3, 5, 10, 20, 40),
    "gap": (0, 0.5, 1),
    "last": (5, 10, 20, 50),
    "recency": (0.3, 0.5, 0.7, 0.9, 1.1, 1.3),
    "shrinkage": (5, 20, 50, 100, 200),
    "debias": (0, 0.1, 0.25),
    "backoff": (0.001, 0.01, 0.1, 1),
}

# Each baseline, and the values that its parameters may take.
# A baseline with the parameter `content` also takes `features`, see `content_features`.
BASELINES: dict[str, tuple[Callable[..., Model], Space]] = {
    "popularity": (Popularity, {}),
    "popularity of 30 days": (RecentPopularity, {}),
    "iALS": (ImplicitALS, ALS),
    "iALS, recent": (ImplicitALS, {**ALS, "recency": RECENCY}),
    "EASE": (EASE, {"penalty": PENALTY}),
    "EASE, recent": (EASE, EASE_RECENT),
    "EASE, content": (EASE, {**EASE_RECENT, "content": (1, 3, 10, 30)}),
    "item-kNN": (ItemKNN, KNN),
    "Markov": (Markov, MARKOV),
    "Markov, content": (Markov, {**MARKOV, "content": (0.03, 0.1, 0.3, 1)}),
}


def fit_and_evaluate(model: Model, task: Task, k_max: int = 100) -> Evaluation:
    """Fit a model on the known events of a task, and rank the task's targets."""
    return task.rank(model.fit(task.known, task.n_users, task.n_items), k_max)


def knows_content(name: str) -> bool:
    """Whether a baseline reads the items' features beside the events."""
    return "content" in BASELINES[name][1]


def tune(
    name: str, task: Task, trials: int, features: sparse.csr_array | None = None
) -> tuple[Model, pd.DataFrame]:
    """Search the space of a baseline at random, without repeats, for the best NDCG@10.

    A baseline that knows content tries the points of the same baseline without it, each with one
    weight of the content, drawn at random.

    Args:
        name: A name of `BASELINES`.
        task: Validation task to choose by; of equal results the first one wins.
        trials: Points drawn from the space, the same in every call, so that more of them include
            the fewer; a smaller space is tried whole.
        features: `content_features` of the items, for a baseline that knows content.

    Returns:
        The best model, unfitted, and one row per trial: trial, each parameter, ndcg@10, seconds.
    """
    build, space = BASELINES[name]
    shared = {key: values for key, values in space.items() if key != "content"}
    points = list(itertools.product(*shared.values()))
    drawn = np.random.default_rng(0).permutation(len(points))[:trials]
    table = pd.DataFrame([points[point] for point in drawn], range(len(drawn)), list(shared))
    if knows_content(name):
        build = partial(build, features=features)
        table["content"] = np.random.default_rng(1).choice(space["content"], len(drawn))
    models = [build(**row) for row in table.to_dict("index").values()]
    for trial, model in enumerate(models):
        start = time.perf_counter()
        ndcg = value(fit_and_evaluate(model, task, k_max=1), "ndcg@10")
        table.loc[trial, ["ndcg@10", "seconds"]] = ndcg, time.perf_counter() - start
    return models[table["ndcg@10"].argmax()], table.rename_axis("trial").reset_index()


@dataclass(frozen=True, eq=False)
class Tuned:
    """Best model of a baseline, its trials (see `tune`), and its evaluation on the test task."""

    model: Model
    trials: pd.DataFrame
    evaluation: Evaluation


def tune_and_test(
    interactions: Interactions, split: Split, trials: int, items: pd.DataFrame
) -> dict[str, Tuned]:
    """Choose every baseline on validation, refit it on train and validation, and test it once.

    A baseline that is too large for the data is left out, with a note.

    Args:
        interactions: All events.
        split: Their parts.
        trials: Points that each baseline may try.
        items: One row per item, as in `nanorecsys.data.Dataset`.
    """
    validation, test = (make_task(interactions, split, stage) for stage in ("validation", "test"))
    features = content_features(items)
    tuned = {}
    for name in BASELINES:
        try:
            model, rows = tune(name, validation, trials, features)
            tuned[name] = Tuned(model, rows, fit_and_evaluate(model, test))
        except TrainingError as error:
            print(f"{name} is left out: {error.message}")
    return tuned


def test_chosen(
    tuned: Mapping[str, Tuned], interactions: Interactions, split: Split, items: pd.DataFrame
) -> dict[str, Evaluation]:
    """Test baselines on another data set with the settings that `tune_and_test` chose elsewhere.

    Args:
        tuned: Baselines by name.
        interactions: All events of the other data set.
        split: Their parts; a model is fitted on train and validation, and nothing is chosen.
        items: One row per item of the other data set.
    """
    test, features = make_task(interactions, split, "test"), content_features(items)
    evaluations = {}
    for name, baseline in tuned.items():
        model: Any = baseline.model
        if knows_content(name):
            model = replace(model, features=features)
        try:
            evaluations[name] = fit_and_evaluate(model, test)
        except TrainingError as error:
            print(f"{name} is left out: {error.message}")
    return evaluations
