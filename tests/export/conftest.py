"""A small retriever whose attention and positions matter as much as after training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanorecsys.data import Histories
from nanorecsys.export import variants
from nanorecsys.models.retriever import Retriever, RetrieverConfig

N_ITEMS = 40
SMALL = RetrieverConfig(d=16, layers=2, heads=2, hidden=24, window=10, dropout=0.2, content=False)


def small_encoder(**changes):
    torch.manual_seed(0)
    model = Retriever(replace(SMALL, **changes), np.ones(N_ITEMS, bool)).eval()
    with torch.no_grad():
        for weight in model.tower.parameters():
            weight.mul_(20 if weight.dim() == 2 else 1)
    return model.encoder()


@pytest.fixture(scope="session")
def encoder():
    return small_encoder()


@pytest.fixture(scope="session")
def batch():
    """Padded items and lengths: empty, one item, unequal, repeated, a whole window."""
    rows = [[0], [5], [1, 2, 3], [7, 7, 7, 7], list(range(1, 11))]
    items = np.zeros((len(rows), 10), np.int64)
    for row, history in enumerate(rows):
        items[row, : len(history)] = history
    return items, np.array([len(history) for history in rows])


def histories(*rows):
    items = [np.array(row, np.int32) for row in ([], *rows)]
    return Histories(np.cumsum([0, *map(len, rows)]), np.concatenate(items))


CALIBRATION = histories([], [4], [0, 1, 2], [6] * 4, *(range(n, n + 9) for n in range(9)))


@pytest.fixture(scope="session")
def built(encoder, tmp_path_factory):
    """Every variant of the encoder but the compiled one, for one thread and for two."""
    folder = tmp_path_factory.mktemp("variants")
    names = [name for name in variants.VARIANTS if name != variants.TORCH_COMPILED]
    found = variants.build(encoder, CALIBRATION, folder, threads=(1, 2), names=names)
    return {v.name: v for v in found}
