"""Baselines against their formulas, bad input and floors on the bundled data (10 s)."""

import dataclasses
from functools import partial

import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import Interactions, leave_one_out, load_dataset
from nanorecsys.evaluation import make_task, value
from nanorecsys.training.baselines import linear, matrices, tuning
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


def films(genres: list[list[str]]) -> pd.DataFrame:
    """A table of items of one year whose titles share no word."""
    titles = [f"Film{i}" for i in range(len(genres))]
    return pd.DataFrame({"title": titles, "year": 2000, "genres": genres})


ITEMS = films([["Comedy", "War"][: 1 + i % 2] for i in range(N_ITEMS - 1)] + [["War"]])
FEATURES = matrices.content_features(ITEMS)
CONTENT = [EASE(content=5, features=FEATURES), Markov(content=5, features=FEATURES)]
MODELS = [
    *(Popularity(), RecentPopularity(), ItemKNN(), Markov(), EASE(), ImplicitALS(factors=4)),
    *CONTENT,
]


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


@pytest.mark.parametrize("penalty", [5.0, 40.0])
def test_ease_with_content_is_the_closed_form_of_both_matrices(penalty):
    known = random_events()
    x = (history_weights(known, 0) > 0).astype(float)
    features = FEATURES.toarray()
    inverse = np.linalg.inv(x.T @ x + 7 * features @ features.T + penalty * np.eye(N_ITEMS))
    model = np.eye(N_ITEMS) - inverse / np.diag(inverse)
    expected = (history_weights(known, 0.8) @ model)[has_history(known)]
    built = EASE(penalty=penalty, recency=0.8, content=7, features=FEATURES)
    # 12 users and 3 features are as many as 15 items, 100 users are more.
    for n_users in (N_USERS, 100):
        found = built.fit(known, n_users, N_ITEMS)(np.flatnonzero(has_history(known)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", CONTENT, ids=lambda model: type(model).__name__)
def test_content_of_weight_zero_changes_nothing(model):
    known = random_events()
    plain = type(model)()
    found = scores_of(dataclasses.replace(plain, features=FEATURES), known)
    np.testing.assert_allclose(found, scores_of(plain, known), rtol=1e-5, atol=1e-6)
    assert np.abs(scores_of(model, known) - found).max() > 0.01


@pytest.mark.parametrize("build", [EASE, Markov])
def test_content_finds_what_no_other_user_had(build):
    """Ten users of one genre each and no shared item: only content points to what comes last."""
    n = 60
    genre = np.arange(n) // 6 % 2  # a user's six items are of one genre
    known = Interactions(
        np.repeat(np.arange(10, dtype=np.int32), 6),
        np.arange(n, dtype=np.int32),
        np.ones(n, np.float32),
        np.arange(n),
    )
    features = matrices.content_features(films([[["Comedy"], ["War"]][g] for g in genre]))
    split = leave_one_out(known)
    task = make_task(known, split, "test")
    alike = genre == genre[:6].max()
    for model, finds in ((build(), False), (build(content=10.0, features=features), True)):
        score = model.fit(task.known, 10, n)(np.array([0]))[0]
        new = np.setdiff1d(np.arange(n), task.known.item[task.known.user == 0])
        best = new[np.argsort(-score[new], kind="stable")]
        assert bool(alike[best[: alike[new].sum()]].all()) is finds


@pytest.mark.parametrize("model", CONTENT, ids=lambda model: type(model).__name__)
def test_content_places_an_item_without_events(model):
    known = random_events()
    wars = np.flatnonzero(["War" in genres for genres in ITEMS["genres"]])
    kept = (known.user > 0) | np.isin(known.item, wars)  # user 0 has war films alone
    columns = (known.user, known.item, known.rating, known.timestamp)
    known = Interactions(*(column[kept] for column in columns))
    new = scores_of(dataclasses.replace(model, content=50.0), known)[0, N_ITEMS - 1]
    assert new > scores_of(type(model)(), known)[0, N_ITEMS - 1] + 0.01


def test_features_have_unit_rows_and_rare_ones_weigh_more():
    found = matrices.content_features(films([["War"], ["War", "Noir"], ["War"], ["Noir"], []]))
    dense = found.toarray()
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(dense, axis=1), [1, 1, 1, 1, 0], rtol=1e-6)
    noir, war = np.log(5 / 2), np.log(5 / 3)  # the year of all of them weighs nothing
    np.testing.assert_allclose(sorted(dense[1])[-2:], np.array([war, noir]) / np.hypot(war, noir))


def test_ease_refuses_what_does_not_fit_the_memory():
    with pytest.raises(
        TrainingError, match=r"138493 users and 26744 items takes 2\.7 GiB, above 2"
    ):
        EASE(max_gib=2).fit(random_events(), 138_493, 26_744)


def test_a_baseline_that_is_too_large_is_left_out(monkeypatch, capsys):
    known, items = random_events(), ITEMS.iloc[:-1]
    split = leave_one_out(known)
    few = {name: BASELINES[name] for name in ("EASE", "popularity")}
    monkeypatch.setattr(tuning, "BASELINES", few)
    both = tune_and_test(known, split, 1, items)
    assert list(both) == ["EASE", "popularity"]
    assert capsys.readouterr().out == ""
    tiny = partial(EASE, max_gib=1e-9)
    monkeypatch.setattr(tuning, "BASELINES", few | {"EASE": (tiny, few["EASE"][1])})
    assert list(tune_and_test(known, split, 1, items)) == ["popularity"]
    assert "EASE is left out: EASE on 11 users and 14 items takes" in capsys.readouterr().out
    larger = {"EASE": dataclasses.replace(both["EASE"], model=EASE(max_gib=1e-9))}
    assert tuning.test_chosen(both | larger, known, split, items).keys() == {"popularity"}


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
    if model in CONTENT:
        model = dataclasses.replace(model, features=FEATURES[:1])
    scores = model.fit(known, 2, 1)(np.arange(2))
    assert scores.shape == (2, 1)
    assert np.isfinite(scores).all()


@pytest.fixture(scope="module")
def bundled():
    data = load_dataset()
    task = make_task(data.interactions, leave_one_out(data.interactions), "validation")
    return matrices.content_features(data.items), task


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
    EASE(penalty=600, recency=1.1, content=10): 0.12,
    Markov(window=10, last=20, shrinkage=200, debias=0.1, content=0.1): 0.145,
}


@pytest.mark.parametrize(("model", "floor"), FLOORS.items(), ids=lambda x: str(x)[:40])
def test_floors_on_the_bundled_data(bundled, model, floor):
    features, task = bundled
    if getattr(model, "content", 0):
        model = dataclasses.replace(model, features=features)
    assert value(fit_and_evaluate(model, task), "hitrate@10") > floor


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
    fewer = tune("small", task, trials=2)[1].drop(columns="seconds")
    assert fewer.equals(trials.drop(columns="seconds")[:2])  # more trials include the fewer
    assert len(tune("popularity", task, trials=3)[1]) == 1


def test_the_choice_does_not_depend_on_the_test_part():
    rng = np.random.default_rng(0)
    known = random_events()
    split = leave_one_out(known)
    tested = split.part == 2
    item = known.item.copy()
    item[tested] = rng.integers(0, known.n_items, tested.sum())
    shuffled = Interactions(known.user, item, known.rating, known.timestamp)
    items = ITEMS[: known.n_items]
    one, other = (tune_and_test(events, split, 3, items) for events in (known, shuffled))
    for name in one:
        assert one[name].model == other[name].model
        assert (
            one[name]
            .trials.drop(columns="seconds")
            .equals(other[name].trials.drop(columns="seconds"))
        )
    assert len(one["Markov"].trials) == 3
    assert one["Markov"].evaluation.rank.shape == (tested.sum(),)


def test_content_baselines_need_the_items_and_get_the_same_trials():
    known = random_events()
    split = leave_one_out(known)
    tuned = tune_and_test(known, split, trials=2, items=ITEMS[: known.n_items])
    again = tune_and_test(known, split, trials=2, items=ITEMS[: known.n_items])
    assert list(tuned) == list(BASELINES)
    for name in filter(knows_content, BASELINES):
        assert len(tuned[name].trials) == 2
        assert tuned[name].model.content > 0
        assert tuned[name].model == again[name].model
        assert np.array_equal(tuned[name].evaluation.rank, again[name].evaluation.rank)


def test_the_settings_of_one_data_set_are_tested_on_another():
    known, other = random_events(), random_events(seed=5)
    split, other_split = leave_one_out(known), leave_one_out(other)
    items, other_items = ITEMS[: known.n_items], films([["War"], ["Noir"]] * 7)[: other.n_items]
    tuned = tune_and_test(known, split, trials=2, items=items)
    found = tuning.test_chosen(tuned, other, other_split, items=other_items)
    assert list(found) == list(BASELINES)
    task = make_task(other, other_split, "test")
    features = matrices.content_features(other_items)
    for name, baseline in tuned.items():
        model = baseline.model
        if knows_content(name):
            model = dataclasses.replace(model, features=features)
        expected = fit_and_evaluate(model, task)
        assert np.array_equal(found[name].rank, expected.rank), name
    same = tuning.test_chosen(tuned, known, split, items=items)
    assert all(np.array_equal(same[n].rank, tuned[n].evaluation.rank) for n in tuned)


def test_a_baseline_with_content_tries_the_points_of_the_one_without():
    known = random_events()
    tuned = tune_and_test(known, leave_one_out(known), trials=3, items=ITEMS[: known.n_items])
    for name, plain in (("Markov, content", "Markov"), ("EASE, content", "EASE, recent")):
        parameters = [key for key in BASELINES[name][1] if key != "content"]
        assert tuned[name].trials[parameters].equals(tuned[plain].trials[parameters])
        assert tuned[name].trials["content"].isin(BASELINES[name][1]["content"]).all()


def test_items_without_any_feature_leave_the_baselines_as_they_are():
    known = random_events()
    bare = films([[]] * N_ITEMS).assign(year=None)
    for model in (EASE(), Markov()):
        same = dataclasses.replace(model, content=3.0, features=matrices.content_features(bare))
        found = scores_of(same, known)
        np.testing.assert_allclose(found, scores_of(model, known), rtol=1e-5, atol=1e-6)
