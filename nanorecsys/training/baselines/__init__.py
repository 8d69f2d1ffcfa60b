"""The baselines of chapter 02: popularity, neighbours, Markov, EASE, iALS, tuned with one budget.

    from nanorecsys.training.baselines import tuning
    model, trials = tuning.tune("Markov", make_task(interactions, split, "validation"), trials=50)
    result = tuning.fit_and_evaluate(model, make_task(interactions, split, "test"))
    tuned = tuning.tune_and_test(interactions, split, trials=50, items=items)  # all of them
    tuning.test_chosen(tuned, others, split_of_others, items=items_of_others)  # same settings

Every model has `fit(known, n_users, n_items)`, which returns a scorer for
`nanorecsys.evaluation.evaluate`. A user without any event is scored by popularity (the Markov chain
backs off to it). An item without any event scores like one that nothing points to, unless the
baseline knows content.
"""
