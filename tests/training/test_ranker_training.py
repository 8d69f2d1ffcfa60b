"""Lists are mined as described, and the ranker learns from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanorecsys.data import Histories, histories, leave_one_out
from nanorecsys.evaluation import evaluate, make_task, value
from nanorecsys.models.errors import ModelError
from nanorecsys.models.ranker import POPULARITY, load_ranker, save_ranker
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.fit import encode_users, fit_retriever, scorer
from nanorecsys.training.ranker import RankerTraining, draw, fit_ranker, mine, reranker
from tests.training.sequences import SHORT, SMALL, titles, walks

EVENTS = walks(n_users=80)
TASK = make_task(EVENTS, leave_one_out(EVENTS), "test")
TRAINING = RankerTraining(depth=10, mined=6, uniform=4, epochs=8, batch_lists=64)


@pytest.fixture(scope="module")
def retriever():
    # Stopped early, so that there is something left to improve.
    model = replace(SMALL, content=True, id_dropout=0.2)
    return fit_retriever(
        TASK, titles(), model, replace(SHORT, epochs=1, learning_rate=3e-4), progress=False
    ).model


@pytest.fixture(scope="module")
def fitted(retriever):
    return fit_ranker(retriever, TASK, titles(), TRAINING)


def quality(score):
    return value(evaluate(score, TASK.targets, TASK.seen, TASK.n_items), "ndcg@10")


def test_lists_are_places_with_candidates_that_the_user_never_has(retriever):
    known = histories(EVENTS)
    lists = mine(retriever, known, lists=80 * 3, depth=10)
    assert lists.users.shape == (240, 16)
    items = known.items.reshape(80, -1)
    rows = {tuple(row) for row in items[:, -3:].tolist()}
    assert {tuple(row) for row in lists.positive.reshape(80, 3).tolist()} == rows
    for positive, mined in zip(lists.positive.tolist(), lists.mined.tolist(), strict=True):
        # A walk is 14 consecutive items and holds the positive; the mined ones are in no walk but
        # others'.
        owners = [set(walk) for walk in items.tolist() if positive in walk]
        assert len(set(mined)) == 10
        assert any(not owner & set(mined) for owner in owners)


def test_user_vectors_of_lists_are_those_before_the_positive(retriever):
    known = histories(EVENTS)
    lists = mine(retriever, known, lists=80, depth=2)
    before = Histories(np.arange(0, 80 * 13 + 1, 13), known.items.reshape(80, 14)[:, :-1].ravel())
    order = np.lexsort(encode_users(retriever, before).T.round(4))
    got = lists.users.numpy()
    np.testing.assert_allclose(
        got[np.lexsort(got.T.round(4))], encode_users(retriever, before)[order], atol=1e-4
    )


def test_short_candidate_lists_and_repeats_of_the_positive_are_no_negatives(retriever):
    lists = mine(retriever, histories(EVENTS), lists=80, depth=100)
    assert (lists.mined < 0).any(1).all()  # 14 of 30 items are the user's own
    candidates, missing = draw(lists, torch.arange(50), TRAINING, 30)
    assert not missing[:, 0].any()
    assert (
        missing[:, 1:]
        == ((lists.positive[:50, None] == candidates[:, 1:]) | (candidates[:, 1:] < 0))
    )[:, 6:].all()
    assert candidates.min() >= 0


def test_reranking_helps_a_retriever_that_was_stopped_early(retriever, fitted):
    before = scorer(retriever, TASK)
    after = reranker(fitted, before.user_vectors, TASK.seen, depth=16)
    assert quality(after) > quality(before) + 0.02


def test_reranking_moves_the_best_unseen_candidates_only(retriever, fitted):
    before = scorer(retriever, TASK)
    users = np.arange(5, dtype=np.int32)
    plain = before(users)
    scores = reranker(fitted, before.user_vectors, TASK.seen, depth=4)(users)
    for user in users:
        seen = TASK.seen.items[TASK.seen.offsets[user] : TASK.seen.offsets[user + 1]]
        plain[user, seen] = -np.inf
        best = set(np.argsort(-plain[user])[:4].tolist())
        assert set(np.argsort(-scores[user])[:4].tolist()) == best
        rest = [i for i in range(30) if i not in best and i not in seen]
        np.testing.assert_allclose(scores[user, rest], plain[user, rest], atol=1e-6)


def test_masked_items_are_read_as_unknown(fitted):
    items = torch.tensor([[3, 4]])
    vectors, features, unknown = fitted.items.read(items, torch.tensor([[True, False]]))
    assert torch.equal(vectors[0, 0], fitted.items.content_vectors[3])
    assert torch.equal(vectors[0, 1], fitted.items.vectors[4])
    assert features[0, :, POPULARITY].tolist() == [0, fitted.items.features[4, POPULARITY]]
    assert unknown.tolist() == [[1, 0]]
    assert fitted.items.features[3, POPULARITY] > 0  # reading changed a copy


def test_same_seed_same_ranker(retriever, fitted):
    repeated = fit_ranker(retriever, TASK, titles(), TRAINING)
    weights = (of.ranker.state_dict() for of in (repeated, fitted))
    for one, other in zip(*(own.values() for own in weights), strict=True):
        assert torch.equal(one, other)


def test_nothing_to_learn_from_is_a_named_error(retriever):
    with pytest.raises(TrainingError, match="no user has two events"):
        mine(retriever, Histories(np.array([0, 1, 1]), np.array([3], np.int32)), 10, 5)


def test_saved_and_loaded_scores_the_same(retriever, fitted, tmp_path):
    path = tmp_path / "ranker.pt"
    save_ranker(path, fitted)
    loaded = load_ranker(path)
    users, task_users = scorer(retriever, TASK).user_vectors, np.arange(4, dtype=np.int32)
    scores = [reranker(ranker, users, TASK.seen)(task_users) for ranker in (loaded, fitted)]
    np.testing.assert_array_equal(*scores)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="not a saved ranker"):
        load_ranker(path)
