"""The bundles of the ladder. 5 s."""

import asyncio
import dataclasses

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from nanorecsys.data import Histories
from nanorecsys.loadtest import bundles
from nanorecsys.loadtest.bundles import CHOSEN, FP32, IN_KIND, SERVED, build_bundles
from nanorecsys.serving.bundle import RANKER, build_bundle, check_bundle, open_bundle
from nanorecsys.serving.padding import padded
from server.app import create_app
from server.settings import Settings
from tests.loadtest.conftest import EVENTS_READ, MANY
from tests.server.conftest import N_USERS

pytestmark = pytest.mark.timed  # they share the bundles with tests that need the machine


def test_every_bundle_is_complete_and_has_all_users(served):
    assert list(served.folders) == [IN_KIND, FP32, CHOSEN, SERVED]
    for folder in served.folders.values():
        manifest = check_bundle(folder)
        assert (manifest.n_users, manifest.events_read) == (MANY, EVENTS_READ)
    assert served.bootstrapped
    assert served.served.window > EVENTS_READ


def test_user_ids_count_from_one(served):
    assert served.served.user_ids.tolist() == list(range(1, MANY + 1))


def test_the_cache_of_a_server_tells_users_with_equal_histories_apart(served, tmp_path):
    copies = Histories(np.array([0, 5, 10]), np.tile(np.arange(5, dtype=np.int32), 2))
    parts = dataclasses.replace(served.served, histories=copies, user_ids=np.array([1, 2]))
    build_bundle(tmp_path / "bundle", parts)

    async def sources():
        app = create_app(Settings(bundle=tmp_path / "bundle"))
        async with TestClient(TestServer(app)) as client:
            asked = [await client.post("/recommend", json={"user_id": u}) for u in (1, 2, 1)]
            return [(await answer.json())["source"] for answer in asked]

    assert asyncio.run(sources()) == ["model", "model", "cache"]


def test_the_original_in_kind_has_the_ranker_that_the_study_does_not_serve(served):
    in_kind, fp32, chosen, final = (check_bundle(f).files for f in served.folders.values())
    assert RANKER in in_kind
    assert fp32.keys() == chosen.keys() == final.keys() == in_kind.keys() - {RANKER}
    towers = [files["tower.onnx"].sha256 for files in (in_kind, fp32, chosen, final)]
    assert (len(set(towers)), towers[2]) == (3, towers[3])
    changed = {name for name in final if final[name].sha256 != chosen[name].sha256}
    assert changed == {"index.faiss"}


def test_the_original_tower_is_int8_and_gives_nearly_the_same_vectors(served):
    users = np.arange(30)
    items, lengths = padded(served.served.histories, users, served.served.window)
    items = np.pad(items, ((0, 0), (0, served.served.window - items.shape[1])))
    original, fp32, chosen, final = (
        open_bundle(folder).encoder(items, lengths) for folder in served.folders.values()
    )
    assert np.abs(chosen - final).max() < 1e-5
    for exported in (fp32, final):
        cosines = (original * exported).sum(axis=1)
        assert (cosines > 0.98).all()
        assert (cosines < 1 - 1e-6).any()


def test_a_ranker_that_is_served_is_in_every_bundle(run, served, tmp_path, monkeypatch):
    tower = served.parts[IN_KIND].tower  # its export takes seconds
    monkeypatch.setattr(bundles, "_original_tower", lambda models, window, folder: tower)
    found = build_bundles(run, tmp_path / "some", 20, seed=0, serves_ranker=True)
    assert all(RANKER in check_bundle(folder).files for folder in found.folders.values())
    assert not found.bootstrapped
    assert 20 < len(found.served.user_ids) < N_USERS  # the real ones
