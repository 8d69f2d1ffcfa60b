"""A server that searches in Milvus says when it cannot, goes on, and recovers. 5 s."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pymilvus
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from nanorecsys.serving import milvus as module
from nanorecsys.serving.bundle import open_bundle, read_vectors
from nanorecsys.serving.errors import CollectionError
from nanorecsys.serving.milvus import Milvus, collection, load_vectors
from server.app import SERVICE, create_app
from server.engine import Engine, Query
from server.settings import Settings
from tests.milvus import FakeMilvus
from tests.server.conftest import build_small

URI = "http://user:s3cret@127.0.0.1:19530"
GONE = pymilvus.MilvusException(message="connection refused")
PAUSE_S = 0.05


def load(bundle: Path) -> None:
    """Load a bundle's vectors."""
    manifest, vectors = read_vectors(bundle)
    load_vectors(Milvus(URI), collection(manifest), vectors, "FLAT")


@pytest.fixture
def fake(small, monkeypatch):
    """A Milvus that has the small bundle."""
    monkeypatch.setattr(module, "PAUSE_S", PAUSE_S)
    found = FakeMilvus().install(monkeypatch)
    load(small.bundle)
    return found


def gone(method: str) -> None:
    raise GONE


def here(method: str) -> None:
    """Do not fail."""


@pytest.fixture
def client(small, tmp_path):
    """Run a test against the application on this event loop: `client(test)`."""

    def run(test, bundle=small.bundle, **settings):
        async def main():
            events = str(tmp_path / "events.sqlite")
            own = Settings(bundle=bundle, retrieval=URI, events=events, cache="none", **settings)
            app = create_app(own)
            async with TestClient(TestServer(app)) as made:
                return await test(made, app[SERVICE])

        return asyncio.run(main())

    return run


async def ask(client, **body) -> tuple[int, dict]:
    """Status and JSON of a recommendation to user 1012."""
    answer = await client.post("/recommend", json={"user_id": 1012, "k": 20} | body)
    return answer.status, await answer.json()


async def ready(client) -> tuple[int, dict]:
    answer = await client.get("/readyz")
    return answer.status, await answer.json()


def test_answers_are_those_of_the_embedded_index(fake, small):
    settings = Settings(bundle=small.bundle)
    embedded, remote = Engine(settings), Engine(settings, milvus=Milvus(URI))
    assert embedded.cache_id != remote.cache_id
    queries = [Query(items, True) for items in small.histories if len(items)]
    for a, b in zip(embedded(queries)[0], remote(queries)[0], strict=True):
        assert np.array_equal(a.items, b.items)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_the_index_of_the_bundle_is_not_loaded(fake, small, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} is loaded")

    monkeypatch.setattr("nanorecsys.serving.bundle.load_index", refuse)
    Engine(Settings(bundle=small.bundle), milvus=Milvus(URI)).warm_up()


@pytest.mark.parametrize("threads", [0, 1])
def test_without_milvus_a_request_gets_503_or_popular_items_until_it_is_back(
    fake, client, small, threads
):
    async def check(client, service):
        status, before = await ask(client)
        assert (status, before["source"]) == (200, "model")
        assert (await ready(client))[0] == 200
        fake.fail = gone
        for _ in range(3):
            status, problem = await ask(client)
            assert (status, problem["title"]) == (503, "No retrieval")
            assert "connection refused" in problem["detail"]
            status, found = await ready(client)
            assert status == 503
            assert "connection refused" in found["detail"]
            status, popular = await ask(client, degrade=True)
            assert (status, popular["source"]) == (200, "fallback")
            assert "s3cret" not in f"{problem}{found}"
        seen = {int(item) + 5 for item in small.histories[12]}
        assert not seen & {item["item_id"] for item in popular["items"]}
        fake.fail = here
        await asyncio.sleep(2 * PAUSE_S)
        assert (await ready(client))[0] == 200
        assert await ask(client) == (200, before)

    client(check, threads=threads)


def test_a_search_that_hangs_does_not_hold_the_event_loop(fake, client):
    async def check(client, service):
        hangs, released = threading.Event(), threading.Event()

        def hang(method: str) -> None:
            hangs.set()
            assert released.wait(20)

        fake.fail = hang
        request = asyncio.create_task(ask(client))
        while not hangs.is_set():
            await asyncio.sleep(0.01)
        assert (await client.get("/healthz")).status == 200
        assert not request.done()
        released.set()
        assert (await request)[0] == 200

    client(check, threads=1)


def test_the_server_starts_without_milvus_and_not_without_its_collection(fake, client, small):
    async def check(client, service):
        assert (await ready(client))[0] == 503
        assert (await ask(client))[0] == 503
        fake.fail = here
        await asyncio.sleep(2 * PAUSE_S)
        assert (await ready(client))[0] == 200
        assert (await ask(client))[1]["source"] == "model"

    fake.fail = gone
    client(check)
    fake.collections.clear()
    runner = web.AppRunner(create_app(Settings(bundle=small.bundle, retrieval=URI)))
    with pytest.raises(CollectionError) as caught:
        asyncio.run(runner.setup())
    assert "no such collection" in caught.value.message
    assert caught.value.remedy.startswith("nanorecsys serving load-milvus ")
    assert "s3cret" not in str(caught.value)


def test_a_reload_needs_the_collection_of_the_new_bundle(fake, client, own, tmp_path, caplog):
    old = open_bundle(own).manifest

    async def answered_by(client) -> tuple[str, set[str]]:
        """The bundle of an answer, and the collections that were searched for it."""
        fake.calls.clear()
        answer = (await ask(client))[1]
        return answer["bundle"], {about["collection"] for _, about in fake.calls}

    async def check(client, service):
        assert await answered_by(client) == (old.id, {collection(old)})
        build_small(tmp_path / "new", 1, own)
        new = open_bundle(own).manifest
        await service.reload()
        assert f"nanorecsys serving load-milvus {own}" in caplog.text
        assert await answered_by(client) == (old.id, {collection(old)})
        load(own)
        fake.fail = gone
        await service.reload()
        assert "connection refused" in caplog.text
        fake.fail = here
        assert await answered_by(client) == (old.id, {collection(old)})
        await service.reload()
        assert await answered_by(client) == (new.id, {collection(new)})

    client(check, bundle=own)
