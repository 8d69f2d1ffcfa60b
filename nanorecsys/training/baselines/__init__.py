"""The baselines of chapter 02: popularity, neighbours, Markov, EASE, iALS, tuned with one budget.

    model, trials = tune("Markov", make_task(interactions, split, "validation"), trials=50)
    result = fit_and_evaluate(model, make_task(interactions, split, "test"))
    tuned = tune_and_test(interactions, split, trials=50)  # all of them

Every model has `fit(known, n_users, n_items)`, which returns a scorer for
`nanorecsys.evaluation.evaluate`. A user without any event is scored by popularity (the Markov chain
backs off to it); an item without any event scores like one that nothing points to.
"""

from nanorecsys.training.baselines.counts import ItemKNN, Markov, Popularity, RecentPopularity
from nanorecsys.training.baselines.linear import EASE, ImplicitALS
from nanorecsys.training.baselines.tuning import BASELINES, fit_and_evaluate, tune, tune_and_test

__all__ = [
    "BASELINES",
    "EASE",
    "ImplicitALS",
    "ItemKNN",
    "Markov",
    "Popularity",
    "RecentPopularity",
    "fit_and_evaluate",
    "tune",
    "tune_and_test",
]
