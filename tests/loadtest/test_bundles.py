"""The bundles of the ladder. 5 s."""

import itertools

import numpy as np
import pytest

from nanorecsys.loadtest import bundles
from nanorecsys.loadtest.bundles import build_bundles
from nanorecsys.loadtest.population import window_keys
from nanorecsys.serving.bundle import check_bundle, open_bundle
from nanorecsys.serving.padding import padded
from tests.loadtest.conftest import EVENTS_READ, MANY
from tests.server.conftest import N_USERS

pytestmark = pytest.mark.timed  # they share the bundles with tests that need the machine


def test_every_bundle_is_complete_and_has_all_users(served):
    assert list(served.folders) == [
        bundles.EVERY,
        bundles.LAST,
        bundles.FUSED,
        bundles.CHOSEN,
        bundles.INDEXED,
    ]
    for folder in served.folders.values():
        manifest = check_bundle(folder)
        assert manifest.n_users == MANY
    assert served.final == bundles.INDEXED
    assert served.bootstrapped
    assert len(served.lengths) == MANY
    assert served.lengths.max() == served.parts.events_read == EVENTS_READ < served.parts.window
    assert {open_bundle(folder).manifest.events_read for folder in served.folders.values()} == {
        EVENTS_READ
    }


def test_user_ids_count_from_one_and_no_two_users_are_alike(served):
    assert served.parts.user_ids.tolist() == list(range(1, MANY + 1))
    histories = served.parts.histories
    assert len(np.unique(window_keys(histories, np.arange(MANY), served.parts.events_read))) == MANY


def test_each_bundle_differs_from_the_last_in_tower_or_index_only(served):
    manifests = [check_bundle(folder) for folder in served.folders.values()]
    for before, after in itertools.pairwise(manifests):
        changed = {n for n in before.files if before.files[n].sha256 != after.files[n].sha256}
        assert changed in ({"tower.onnx"}, {"index.faiss"})


def test_the_towers_give_the_same_vectors(served):
    users = np.arange(30)
    items, lengths = padded(served.parts.histories, users, served.parts.window)
    first, *others = (
        open_bundle(folder).encoder(items, lengths) for folder in served.folders.values()
    )
    for other in others:
        assert np.abs(first - other).max() < 1e-4


def test_only_the_named_bundles_and_the_served_ones_are_built(run, tmp_path):
    found = build_bundles(run, tmp_path / "some", 20, seed=0, names={bundles.FUSED})
    assert list(found.folders) == [bundles.FUSED, bundles.CHOSEN, bundles.INDEXED]
    assert not found.bootstrapped
    assert 20 < len(found.lengths) < N_USERS  # the real ones
