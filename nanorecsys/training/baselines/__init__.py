"""The baselines of chapter 02: popularity, neighbours, Markov, EASE, iALS, tuned with one budget.

    from nanorecsys.training.baselines.tuning import fit_and_evaluate, tune, tune_and_test
    model, trials = tune("Markov", make_task(interactions, split, "validation"), trials=50)
    result = fit_and_evaluate(model, make_task(interactions, split, "test"))
    tuned = tune_and_test(interactions, split, trials=50)  # all of them

Every model has `fit(known, n_users, n_items)`, which returns a scorer for
`nanorecsys.evaluation.evaluate`. A user without any event is scored by popularity (the Markov chain
backs off to it); an item without any event scores like one that nothing points to.
"""
