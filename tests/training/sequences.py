"""Small data with an order to learn, and the sizes that the training tests share."""

import numpy as np
import pandas as pd

from nanorecsys.data import Interactions
from nanorecsys.models.retriever import RetrieverConfig
from nanorecsys.training.loop import TrainingConfig

SMALL = RetrieverConfig(
    d=16, layers=2, heads=2, hidden=32, window=8, dropout=0.1, id_dropout=0.0, content=False
)
SHORT = TrainingConfig(epochs=3, batch_tokens=64, learning_rate=1e-2, precision="fp32")


def walks(n_users=40, n_items=30, length=14, seed=0):
    """Users who walk in steps of one from a random item, so that each item gives the next."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_items, n_users)
    item = (first[:, None] + np.arange(length)) % n_items
    user = np.repeat(np.arange(n_users), length)
    n = n_users * length
    return Interactions(
        user.astype(np.int32),
        item.ravel().astype(np.int32),
        np.ones(n, np.float32),
        np.tile(np.arange(length), n_users),
    )


def titles(n_items=30):
    """One row per item: pairs of neighbours share a word, thirds a genre."""
    item = np.arange(n_items)
    return pd.DataFrame(
        {
            "title": [f"w{i // 2}" for i in item],
            "year": pd.array([1990 + i // 3 for i in item], dtype="Int16"),
            "genres": [[f"g{i % 3}"] for i in item],
        }
    )
