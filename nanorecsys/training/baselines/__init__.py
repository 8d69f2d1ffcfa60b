"""The baselines of chapter 02: popularity, neighbours, Markov, EASE, iALS, tuned with one budget.

    model, trials = tune(BASELINES["Markov"], make_task(interactions, split, "validation"))
    result = fit_and_evaluate(model, make_task(interactions, split, "test"))
    table = tune_and_test(interactions, split)  # all of them

Every model has `fit(known, n_users, n_items)`, which returns a scorer for
`nanorecsys.evaluation.evaluate`. A user without any event is scored by popularity (the Markov chain
backs off to it); an item without any event scores like one that nothing points to.
"""

from nanorecsys.training.baselines.errors import BaselineError
from nanorecsys.training.baselines.linear import EASE, ImplicitALS
from nanorecsys.training.baselines.neighbours import ItemKNN, Markov
from nanorecsys.training.baselines.popular import Popularity, RecentPopularity
from nanorecsys.training.baselines.tune import (
    BASELINES,
    Baseline,
    Model,
    Tuned,
    fit_and_evaluate,
    tune,
    tune_and_test,
)

__all__ = [
    "BASELINES",
    "EASE",
    "Baseline",
    "BaselineError",
    "ImplicitALS",
    "ItemKNN",
    "Markov",
    "Model",
    "Popularity",
    "RecentPopularity",
    "Tuned",
    "fit_and_evaluate",
    "tune",
    "tune_and_test",
]
