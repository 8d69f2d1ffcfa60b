"""Real items and users are read as the server has them. 3 s, most of it for torch."""

import numpy as np
import pandas as pd
import pytest
import torch

from nanorecsys.data import Dataset, Histories, Interactions, leave_one_out, save_prepared
from nanorecsys.data.load import ids_sha256
from nanorecsys.models.retriever import Retriever, RetrieverConfig, save_retriever
from nanorecsys.scaleup.datasets import read_real
from nanorecsys.training.fit import encode_users

USERS, EVENTS = 20, 6


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = RetrieverConfig(d=8, layers=1, heads=2, hidden=8, window=6, dropout=0.0, content=False)
    return Retriever(config, np.ones(30, bool)).eval()


@pytest.fixture(scope="module")
def histories():
    """Six items of each user, (users, events)."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(30)[:EVENTS] for _ in range(USERS)]).astype(np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, histories):
    folder = tmp_path_factory.mktemp("run")
    users = pd.DataFrame({"user": range(USERS), "user_id": range(USERS)})
    items = pd.DataFrame({"item": range(30), "item_id": range(30), "title": "", "year": 2000})
    events = Interactions(
        user=np.repeat(np.arange(USERS, dtype=np.int32), EVENTS),
        item=histories.ravel(),
        rating=np.ones(USERS * EVENTS, np.float32),
        timestamp=np.tile(np.arange(EVENTS), USERS),
        ids_sha256=ids_sha256(users["user_id"], items["item_id"]),
    )
    dataset = Dataset("tiny", events, users, items.assign(genres=[[]] * 30))
    save_prepared(folder, dataset, [leave_one_out(events)])
    save_retriever(folder / "retriever.pt", model)
    np.save(folder / "item_vectors.npy", model.item_vectors())
    return folder


def read(folder, users=0, seed=1):
    return read_real(folder, folder / "item_vectors.npy", folder / "retriever.pt", 3, users, seed)


def test_users_ask_after_their_whole_history_without_the_test_event(folder, model, histories):
    real = read(folder)
    assert (real.name, real.vectors.shape) == ("tiny", (30, 8))
    assert (real.queries.shape, real.apart.shape) == ((16, 8), (4, 8))
    kept = {tuple(history[:-1]): number for number, history in enumerate(histories)}
    found = [kept[tuple(own)] for own in real.seen.items.reshape(16, EVENTS - 1)]
    assert len(set(found)) == 16  # users in random order
    assert found != sorted(found)
    expected = encode_users(model, real.seen, events=3)
    np.testing.assert_allclose(real.queries, expected, atol=1e-6)
    assert not np.allclose(real.queries, encode_users(model, real.seen))


def test_users_apart_are_not_measured_and_depend_on_the_seed(folder, model, histories):
    known = Histories(np.arange(0, 101, EVENTS - 1), histories[:, :-1].ravel())
    everyone = encode_users(model, known, events=3)

    def numbers(vectors):
        return set(np.abs(everyone[:, None] - vectors).max(axis=2).argmin(axis=0).tolist())

    real, other = read(folder), read(folder, seed=2)
    assert numbers(real.queries) == set(range(USERS)) - numbers(real.apart)
    assert len(numbers(real.apart)) == 4
    assert numbers(real.apart) != numbers(other.apart)


def test_fewer_users_are_the_first_ones(folder):
    real, few = read(folder), read(folder, users=4)
    np.testing.assert_array_equal(few.queries, real.queries[:4])
    again = real.with_users(4)
    np.testing.assert_array_equal(again.queries, few.queries)
    assert again.seen.items.tolist() == few.seen.items.tolist()
    assert len(real.with_users(0).queries) == 16
