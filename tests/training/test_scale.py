"""The rate at another size is measured in a process of its own, and its failure is told."""

import pytest

from nanorecsys.data import DataError
from nanorecsys.training import scale
from nanorecsys.training.errors import TrainingError


def test_the_measured_process_counts_what_it_read(tmp_path):
    found = scale.measure(tmp_path, n_ratings=20_000, n_users=200, n_items=400, steps=1)
    assert (found.ratings, found.users, found.items, found.steps) == (20_000, 200, 400, 1)
    assert found.tokens_per_s > 0
    assert found.hours_an_epoch == pytest.approx(
        (20_000 - 2 * 200) / found.tokens_per_s / 3600, rel=1e-3
    )
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such table"):
        scale.measure(tmp_path, n_ratings=10, n_users=20, n_items=400, steps=1)


def test_a_measured_process_that_dies_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(scale.sys, "executable", "/bin/false")
    with pytest.raises(TrainingError, match="ended with status 1"):
        scale.measure(tmp_path, n_ratings=20_000, n_users=200, n_items=400, steps=1)
