"""Baselines against their formulas, bad input and floors on the bundled data (10 s)."""

import numpy as np
import pytest

from nanorecsys.data import Interactions, leave_one_out, load_dataset
from nanorecsys.evaluation import make_task, value
from nanorecsys.training.baselines import linear, matrices
from nanorecsys.training.baselines.counts import ItemKNN, Markov, Popularity, RecentPopularity
from nanorecsys.training.baselines.linear import EASE, ImplicitALS
from nanorecsys.training.baselines.tuning import (
    BASELINES,
    fit_and_evaluate,
    knows_content,
    tune,
    tune_and_test,
)
from nanorecsys.training.errors import TrainingError

N_USERS, N_ITEMS = 12, 15  # user 11 and item 14 have no event
DAY = 86_400
MODELS = [Popularity(), RecentPopularity(), ItemKNN(), Markov(), EASE(), ImplicitALS(factors=4)]


def random_events(seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((N_USERS - 1, N_ITEMS - 1)) < 0.4)
    time = rng.integers(0, 100 * DAY, len(user))
    order = np.lexsort((item, time, user))
    return Interactions(
        user[order].astype(np.int32),
        item[order].astype(np.int32),
        np.ones(len(user), np.float32),
        time[order],
    )


def scores_of(model, known: Interactions) -> np.ndarray:
    return model.fit(known, N_USERS, N_ITEMS)(np.arange(N_USERS))


def history_weights(known: Interactions, power: float, last: int = 1000) -> np.ndarray:
    """Dense (n_users, n_items), one event at a time."""
    weights = np.zeros((N_USERS, N_ITEMS))
    for user in range(N_USERS):
        items = known.item[known.user == user][::-1]
        for age, item in enumerate(items[:last]):
            weights[user, item] = (1 + age) ** -power
    return weights


def has_history(known: Interactions) -> np.ndarray:
    return np.isin(np.arange(N_USERS), known.user)


def test_recent_popularity_counts_the_window_before_the_users_last_event():
    known = random_events()
    scores = scores_of(RecentPopularity(days=20), known)
    share = np.bincount(known.item, minlength=N_ITEMS) / len(known)
    for user in range(N_USERS):
        cut = known.timestamp[known.user == user].max(initial=-1)
        cut = known.timestamp.max() if cut < 0 else cut
        inside = (known.timestamp <= cut) & (known.timestamp >= cut - 20 * DAY)
        expected = np.bincount(known.item[inside], minlength=N_ITEMS) + share
        np.testing.assert_allclose(scores[user], expected, rtol=1e-6)


@pytest.mark.parametrize("neighbours", [3, 100])
def test_item_knn_is_its_formula(neighbours):
    known = random_events()
    x = (history_weights(known, 0) > 0).astype(float)
    counts = x.T @ x
    n = np.diag(counts)
    similar = counts / np.maximum(np.sqrt(np.outer(n, n)) + 2.5, 1)
    np.fill_diagonal(similar, 0)
    for row in similar:
        row[row < np.sort(row)[::-1][: min(neighbours, N_ITEMS)][-1]] = 0
    expected = history_weights(known, 0.7) @ similar
    found = scores_of(ItemKNN(neighbours=neighbours, shrinkage=2.5, recency=0.7), known)
    warm = has_history(known)
    np.testing.assert_allclose(found[warm], expected[warm], rtol=1e-5, atol=1e-7)


def test_markov_is_its_formula():
    known = random_events()
    steps = np.zeros((N_ITEMS, N_ITEMS))
    for user in range(N_USERS):
        items = known.item[known.user == user]
        for d in (1, 2, 3):
            for j, i in zip(items[:-d], items[d:], strict=True):
                steps[j, i] += d**-0.5
    n = np.bincount(known.item, minlength=N_ITEMS)
    steps = steps / (steps.sum(axis=1, keepdims=True) + 4) / np.maximum(n, 1) ** 0.25
    expected = history_weights(known, 1.1, last=4) @ steps + 0.3 * n / len(known)
    model = Markov(window=3, gap=0.5, last=4, recency=1.1, shrinkage=4, debias=0.25, backoff=0.3)
    np.testing.assert_allclose(scores_of(model, known), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("solve", [linear._by_rows, linear._by_items])
def test_both_forms_of_ease_are_the_closed_form(solve):
    known = random_events()
    x = (history_weights(known, 0) > 0).astype(float)
    inverse = np.linalg.inv(x.T @ x + 5 * np.eye(N_ITEMS))
    model = np.eye(N_ITEMS) - inverse / np.diag(inverse)
    weights = matrices.recency_weights(known, N_USERS, 0.8)
    score = solve(
        matrices.user_item(known, N_USERS, N_ITEMS),
        matrices.user_item(known, N_USERS, N_ITEMS, weights),
        5.0,
    )
    expected = history_weights(known, 0.8) @ model
    np.testing.assert_allclose(score(np.arange(N_USERS)), expected, rtol=1e-4, atol=1e-5)


def test_ease_refuses_what_does_not_fit_the_memory():
    with pytest.raises(
        TrainingError, match=r"138493 users and 26744 items takes 2\.7 GiB, above 2"
    ):
        EASE(max_gib=2).fit(random_events(), 138_493, 26_744)


@pytest.mark.parametrize("n_users", [N_USERS, 100])  # either form
def test_ease_without_a_penalty_is_named(n_users):
    known = random_events()
    one_item = Interactions(known.user, np.zeros_like(known.item), known.rating, known.timestamp)
    with pytest.raises(TrainingError, match="penalty 0"):
        EASE(penalty=0).fit(one_item, n_users, N_ITEMS)


def test_ials_solves_for_the_weighted_history(monkeypatch):
    known = random_events()
    items = np.random.default_rng(0).standard_normal((N_ITEMS, 4)).astype(np.float32)
    monkeypatch.setattr(
        linear.AlternatingLeastSquares,
        "fit",
        lambda self, *_, **__: setattr(self, "item_factors", items),
    )
    found = scores_of(ImplicitALS(factors=4, regularization=0.5, alpha=3, recency=0.8), known)
    weights = history_weights(known, 0.8)
    for user in np.flatnonzero(has_history(known)):
        confidence = 3 * weights[user]
        extra = np.where(confidence > 0, confidence - 1, 0)
        left = items.T @ items + (items.T * extra) @ items + 0.5 * np.eye(4)
        expected = items @ np.linalg.solve(left, items.T @ confidence)
        np.testing.assert_allclose(found[user], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_user_without_events_gets_the_popular_order(model):
    known = random_events()
    cold = scores_of(model, known)[N_USERS - 1]
    popular = np.bincount(known.item, minlength=N_ITEMS)
    if isinstance(model, RecentPopularity):
        popular = np.bincount(
            known.item[known.timestamp >= known.timestamp.max() - 30 * DAY], minlength=N_ITEMS
        )
    best = popular == popular.max()
    assert best[cold.argmax()]
    assert cold[N_ITEMS - 1] == cold.min()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_scores_are_finite_float32_for_any_block_of_users(model):
    scorer = model.fit(random_events(), N_USERS, N_ITEMS)
    every = scorer(np.arange(N_USERS))
    assert every.dtype == np.float32
    assert np.isfinite(every).all()
    np.testing.assert_allclose(scorer(np.array([7, 2])), every[[7, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("n_events", [0, 1])
def test_one_item_and_hardly_an_event(model, n_events):
    zeros = np.zeros(n_events, np.int32)
    known = Interactions(zeros, zeros, np.ones(n_events, np.float32), zeros.astype(np.int64))
    scores = model.fit(known, 2, 1)(np.arange(2))
    assert scores.shape == (2, 1)
    assert np.isfinite(scores).all()


@pytest.fixture(scope="module")
def bundled():
    interactions = load_dataset().interactions
    return interactions, make_task(interactions, leave_one_out(interactions), "validation")


# HitRate@10 on the validation part: popularity scores .045, random order .001.
FLOORS = {
    Popularity(): 0.04,
    RecentPopularity(): 0.05,
    ImplicitALS(regularization=10, alpha=2): 0.08,
    ImplicitALS(regularization=10, alpha=2, recency=1.1): 0.1,
    EASE(): 0.09,
    EASE(penalty=600, recency=1.1): 0.12,
    ItemKNN(): 0.09,
    Markov(): 0.13,
}


@pytest.mark.parametrize(("model", "floor"), FLOORS.items(), ids=lambda x: str(x)[:40])
def test_floors_on_the_bundled_data(bundled, model, floor):
    assert value(fit_and_evaluate(model, bundled[1]), "hitrate@10") > floor


def test_tune_draws_without_repeats_and_takes_the_best(monkeypatch, bundled):
    _, task = bundled
    monkeypatch.setitem(BASELINES, "small", (Markov, {"window": (1, 3, 5), "last": (1, 5)}))
    model, trials = tune("small", task, trials=4)
    assert trials.columns.tolist() == ["trial", "window", "last", "ndcg@10", "seconds"]
    assert len(trials) == len(trials.drop_duplicates(["window", "last"])) == 4
    best = trials.sort_values("ndcg@10", ascending=False).iloc[0]
    assert model == Markov(window=best["window"], last=best["last"])
    assert tune("small", task, trials=4)[0] == model
    assert len(tune("small", task, trials=100)[1]) == 6
    assert len(tune("popularity", task, trials=3)[1]) == 1


def test_the_choice_does_not_depend_on_the_test_part():
    rng = np.random.default_rng(0)
    known = random_events()
    split = leave_one_out(known)
    tested = split.part == 2
    item = known.item.copy()
    item[tested] = rng.integers(0, known.n_items, tested.sum())
    shuffled = Interactions(known.user, item, known.rating, known.timestamp)
    one, other = tune_and_test(known, split, trials=3), tune_and_test(shuffled, split, trials=3)
    assert list(one) == [name for name in BASELINES if not knows_content(name)]
    for name in one:
        assert one[name].model == other[name].model
        assert (
            one[name]
            .trials.drop(columns="seconds")
            .equals(other[name].trials.drop(columns="seconds"))
        )
    assert len(one["Markov"].trials) == 3
    assert one["Markov"].evaluation.rank.shape == (tested.sum(),)
