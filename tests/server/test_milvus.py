"""A real Milvus: exact ids, a reload, and a kill and return under load. 60 s."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from click.testing import CliRunner

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.cli import cli
from nanorecsys.serving import milvus as module
from nanorecsys.serving.bundle import open_bundle
from nanorecsys.serving.milvus import Milvus, MilvusIndex, load_vectors, milvus_choice
from server.engine import Engine, Query
from server.settings import Settings
from tests.ann.vectors import clustered, users
from tests.milvus import SERVER, MilvusServer
from tests.server.conftest import build_small
from tests.server.test_faults import ask
from tests.server.test_lifecycle import PATIENT, USERS, any_user, logged, serving, under_load

pytestmark = [
    pytest.mark.milvus,
    pytest.mark.skipif(not MilvusServer.available, reason=f"there is no {SERVER}: make milvus"),
]

N, D, K = 3000, 64, 100
LOAD_S = 60  # longest time of a call
RETURN_S = 60  # time in which a server is ready again after the return of Milvus
# What a bundle may have chosen, and a floor of the recall of Milvus's nearest index.
CHOICES = {
    ("HNSW16", "efSearch=10"): 0.85,
    ("lorann:clusters=16,dims=64", "clusters=16,rerank=500"): 0.95,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running Milvus."""
    found = MilvusServer(tmp_path_factory.mktemp("milvus") / "data")
    found.start()
    try:
        found.wait()
        yield found
    finally:
        found.kill()


def load(bundle: Path, server: MilvusServer) -> str:
    """Load a bundle with the command, return what it prints."""
    arguments = ["serving", "load-milvus", str(bundle), "--uri", server.uri]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False).output


def on_milvus(server: MilvusServer) -> tuple[str, ...]:
    """Options of a server that searches there, patient enough for a busy machine."""
    return ("--retrieval", server.uri, "--retrieval-timeout-ms", "3000", *PATIENT)


def test_an_exact_index_finds_the_ids_of_exact_search_after_a_resumed_load(server, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1000)
    vectors, queries = clustered(N, D), users(60, D)
    left = iter([None, KeyboardInterrupt])

    def kill(rows: int) -> None:
        if error := next(left):
            raise error

    with Milvus(server.uri, LOAD_S) as milvus:
        with pytest.raises(KeyboardInterrupt):
            load_vectors(milvus, "exact", vectors, "FLAT", progress=kill)
        milvus.call("load_collection", "exact")
        milvus.call("delete", "exact", filter="item >= 10 and item < 13")
        assert load_vectors(milvus, "exact", vectors, "FLAT").inserted == N - 1000
        assert load_vectors(milvus, "exact", vectors, "FLAT").inserted == 0
        scores, items = MilvusIndex(milvus, "exact", vectors.shape).search(queries, K)
        milvus.call("drop_collection", "exact")
    exact = exact_neighbours(vectors, queries, K)
    assert exact.recall(items).min() == 1.0
    found = np.einsum("qkd,qd->qk", vectors[items], queries)
    np.testing.assert_allclose(scores, found, atol=1e-5)
    assert (scores[:, 1:] <= scores[:, :-1]).all()


def test_the_choice_of_a_bundle_has_its_like_in_milvus(server):
    vectors, queries = clustered(N, D), users(60, D)
    exact = exact_neighbours(vectors, queries, K)

    def recall(choice: tuple[str, str]) -> float:
        name = f"kind{list(CHOICES).index(choice)}"
        with Milvus(server.uri, LOAD_S) as milvus:
            load_vectors(milvus, name, vectors, *milvus_choice(*choice, N))
            found = MilvusIndex(milvus, name, vectors.shape).search(queries, K)[1]
            milvus.call("drop_collection", name)
        return exact.recall(found).mean()

    with ThreadPoolExecutor(len(CHOICES)) as pool:  # a load mostly waits for Milvus's next round
        found = list(pool.map(recall, CHOICES))
    assert all(own >= floor for own, floor in zip(found, CHOICES.values(), strict=True)), found


def test_a_server_answers_as_with_the_embedded_index_and_reloads(server, own, tmp_path, small):
    shown = load(own, server)
    assert "300 rows counted, 300 of them inserted now" in shown
    embedded = Engine(Settings(bundle=own))
    old = embedded.id
    with serving(own, tmp_path, *on_milvus(server), "--cache", "none") as running:
        for user in (1000, 1002, 1012):
            [expected], _ = embedded([Query(small.histories[user - 1000], exclude_seen=True)])
            status, answer = ask(running.url, user_id=user, k=100)
            assert (status, answer["source"]) == (200, "model")
            found = [item["item_id"] - 5 for item in answer["items"]]
            assert found == expected.items.tolist()

        async def reload() -> None:
            await asyncio.to_thread(build_small, tmp_path / "new", 1, own)
            os.kill(running.pid, signal.SIGHUP)
            await logged(running, f"nanorecsys serving load-milvus {own}", times=1)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(load, own, server)
            os.kill(running.pid, signal.SIGHUP)
            await logged(running, "takes over from", times=1)
            await asyncio.sleep(0.5)

        seen = under_load(running.url, reload, any_user, number=2)
    assert set(seen.statuses) == {200}
    assert not seen.errors
    new = open_bundle(own).manifest.id
    assert list(dict.fromkeys(seen.bundles)) == [old, new]


def test_milvus_is_killed_and_returns_under_load(server, small, tmp_path):
    load(small.bundle, server)
    events = ("--events", str(tmp_path / "events.sqlite"), "--cache", "none")
    with serving(small.bundle, tmp_path, *on_milvus(server), *events) as running:
        before = [ask(running.url, user_id=user) for user in USERS]
        problems = []

        async def until_ready(status: int) -> None:
            async with aiohttp.ClientSession() as session, asyncio.timeout(RETURN_S):
                while True:
                    async with session.get(f"{running.url}/readyz") as answer:
                        if answer.status == status:
                            problems.append((await answer.json()).get("detail"))
                            return
                    await asyncio.sleep(0.05)

        async def kill_and_return() -> None:
            server.kill()
            await until_ready(503)
            await asyncio.sleep(0.5)
            server.start()
            await until_ready(200)
            await asyncio.sleep(0.5)

        def body(number: int) -> dict:
            return any_user(number) | {"degrade": number % 2 == 0}

        seen = under_load(running.url, kill_and_return, body, number=2)
        after = [ask(running.url, user_id=user) for user in USERS]
        log = running.log.read_text()
    assert after == before
    assert {status for status, _ in after} == {200}
    assert set(seen.statuses) == {200, 503}
    assert set(seen.sources) == {"model", "fallback"}
    assert not seen.errors
    assert f"Milvus at {server.uri} fails" in problems[0]
    assert "works again" in log
    assert "Traceback" not in log
