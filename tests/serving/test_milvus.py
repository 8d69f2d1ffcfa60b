"""A Milvus that fails, hangs, or has lost rows is named, and retried or paused. 3 s."""

import logging
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pymilvus
import pytest
from click.testing import CliRunner

from nanorecsys.cli import cli
from nanorecsys.serving import milvus as module
from nanorecsys.serving.bundle import build_bundle, open_bundle
from nanorecsys.serving.errors import (
    CollectionError,
    LibraryError,
    RetrievalError,
    SettingError,
)
from nanorecsys.serving.milvus import Milvus, MilvusIndex, bundle_index, load_vectors
from nanorecsys.serving.retrieval import FaissIndex
from nanorecsys.system.blas import faiss
from tests.ann.vectors import clustered, users
from tests.libraries import remove
from tests.milvus import FakeMilvus
from tests.serving.small_bundle import N_ITEMS, D, small_parts

URI = "http://user:s3cret@milvus.example:19530/films"
N = 300


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMilvus:
    return FakeMilvus().install(monkeypatch)


@pytest.fixture
def vectors() -> np.ndarray:
    return clustered(N, 16)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that an index sees, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def loaded(fake: FakeMilvus, vectors: np.ndarray) -> FakeMilvus:
    """A Milvus with the collection `films`, asked nothing else yet."""
    load_vectors(Milvus(URI), "films", vectors, "HNSW:M=16,efConstruction=100", "ef=20")
    fake.calls.clear()
    fake.connections = fake.closed = 0
    return fake


def index(**settings: float) -> MilvusIndex:
    """The collection `films` as an index."""
    return MilvusIndex(Milvus(URI, **settings), "films", (N, 16), "load it")


class TimedOutError(grpc.RpcError):
    def details(self) -> str:
        return "Deadline Exceeded"


FAILURES = [
    (TimedOutError(), "Deadline Exceeded"),
    (pymilvus.MilvusException(message="no such node"), "no such node"),
]


def failing(method: str, error: Exception, times: int = 10**9):
    """Fail a method so many times."""
    left = [times]

    def fail(called: str) -> None:
        if called == method and left[0]:
            left[0] -= 1
            raise error

    return fail


def test_answers_are_those_of_an_index_in_this_process(loaded, vectors):
    flat = FaissIndex(faiss.index_factory(16, "Flat", faiss.METRIC_INNER_PRODUCT))
    flat.index.add(vectors)
    remote = index()
    for k in (1, 10, N, N + 5):
        found, expected = remote.search(users(7, 16), k), flat.search(users(7, 16), k)
        assert [part.dtype for part in found] == [part.dtype for part in expected]
        assert np.array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0][:, :N], expected[0][:, :N], atol=1e-5)
        assert (found[0][:, N:] == -np.inf).all()


def test_no_more_is_asked_for_than_milvus_gives(loaded, monkeypatch):
    monkeypatch.setattr(module, "MOST", 50)
    scores, items = index().search(users(2, 16), 80)
    assert ((items >= 0).sum(1) == 50).all()
    assert scores.shape == (2, 80)
    [options] = [options for method, options in loaded.calls if method == "search"]
    assert (options["limit"], options["search_params"]) == (50, {"params": {"ef": 50}})
    assert options["timeout"] == 0.25


@pytest.mark.parametrize(("error", "reason"), FAILURES)
@pytest.mark.parametrize("method", ["connect", "search"])
def test_a_failed_try_is_repeated_on_a_new_connection(loaded, method, error, reason):
    remote = index(retries=2)
    if method == "search":
        remote.search(users(1, 16), 5)
    loaded.fail = failing(method, error, times=2)
    before = loaded.connections
    assert (remote.search(users(1, 16), 5)[1] >= 0).all()
    assert loaded.connections == before + (2 if method == "search" else 1)
    assert loaded.closed == (2 if method == "search" else 0)


@pytest.mark.parametrize(("error", "reason"), FAILURES)
def test_after_the_last_try_searches_fail_at_once_then_one_decides(
    loaded, clock, caplog, error, reason
):
    caplog.set_level(logging.INFO)
    remote = index(retries=2)
    remote.search(users(1, 16), 5)
    tried = [3, 3, 4, 4]  # all tries, none in the pause, a single one after it, none
    loaded.fail = failing("search", error)
    loaded.calls.clear()
    for number, pause_s in zip(tried, (0.5, 0.6, 0.5, 0.6), strict=True):
        with pytest.raises(RetrievalError, match=reason) as caught:
            remote.search(users(1, 16), 5)
        assert len(loaded.calls) == number
        assert "s3cret" not in str(caught.value)
        clock[0] += pause_s
    loaded.fail = lambda method: None
    assert (remote.search(users(1, 16), 5)[1] >= 0).all()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "s3cret" not in caplog.text


def test_one_try_decides_too_where_the_collection_could_not_be_checked_yet(loaded, clock):
    """Each try may hold the thread that searches for seconds."""
    remote = index(retries=2)
    loaded.fail = failing("has_collection", TimedOutError())
    tried = [3, 4, 5]
    for number in tried:
        with pytest.raises(RetrievalError, match="Deadline Exceeded"):
            remote.search(users(1, 16), 5)
        assert [method for method, _ in loaded.calls] == ["has_collection"] * number
        clock[0] += 1.1
    loaded.fail = lambda method: None
    assert (remote.search(users(1, 16), 5)[1] >= 0).all()


def test_a_thread_holds_a_connection_and_there_are_no_more_than_the_pool(loaded):
    remote, inside, most = index(pool=3), Counter(), []
    remote.search(users(1, 16), 5)
    barrier, lock = threading.Barrier(3, timeout=10), threading.Lock()

    def wait(method: str) -> None:
        with lock:
            inside["now"] += 1
            most.append(inside["now"])
        barrier.wait()
        with lock:
            inside["now"] -= 1
        barrier.wait()

    loaded.fail = lambda method: wait(method) if method == "search" else None
    with ThreadPoolExecutor(12) as pool:
        assert len(list(pool.map(lambda i: remote.search(users(1, 16), 5), range(12)))) == 12
    assert max(most) == loaded.connections == 3
    loaded.fail = lambda method: None
    for _ in range(5):
        remote.search(users(1, 16), 5)
    assert loaded.connections == 3


@pytest.mark.parametrize("change", ["absent", "fewer", "more", "narrower"])
def test_a_collection_that_is_not_whole_is_refused_with_the_command(loaded, vectors, change):
    rows = loaded.collections["films"]["rows"]
    if change == "absent":
        loaded.collections.clear()
    elif change == "fewer":
        rows.pop()
    elif change == "more":
        rows.append(rows[0])
    else:
        loaded.collections["films"]["fields"][1]["params"]["dim"] = 8
    found = {"absent": "no such", "fewer": "299", "more": "301", "narrower": "(300, 8)"}[change]
    with pytest.raises(CollectionError) as caught:
        index().search(users(1, 16), 5)
    assert found in caught.value.message
    assert caught.value.remedy == "load it"


def test_an_interrupted_load_is_resumed(fake, vectors, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 70)
    with Milvus(URI) as milvus:
        fake.fail = failing("insert", pymilvus.MilvusException(message="full"))
        with pytest.raises(RetrievalError, match="full"):
            load_vectors(milvus, "films", vectors, "FLAT")
        seen = Counter()

        def killed(method: str) -> None:
            seen[method] += 1
            if seen["insert"] == 4:
                raise KeyboardInterrupt

        fake.fail = killed
        with pytest.raises(KeyboardInterrupt):
            load_vectors(milvus, "films", vectors, "FLAT")
        rows = fake.collections["films"]["rows"]
        assert len(rows) == 210
        del rows[100]  # a batch of which a row is lost
        rows.append(rows[3])  # and one with a row too many
        fake.fail, progress = lambda method: None, []
        loaded = load_vectors(milvus, "films", vectors, "FLAT", progress=progress.append)
        assert loaded.inserted == 70 + 70 + 90
        assert progress == [70, 70, 70, 70, 20]
        assert sorted(row["item"] for row in rows) == list(range(N))
        assert load_vectors(milvus, "films", vectors, "FLAT").inserted == 0
    for row in rows:
        assert np.array_equal(row["vector"], vectors[row["item"]])


def test_a_load_that_milvus_miscounts_is_refused(loaded, vectors):
    rows = loaded.collections["films"]["rows"]
    rows.append({"item": N, "vector": vectors[0]})
    with pytest.raises(
        CollectionError, match="expected 300 rows in the collection films, found 301"
    ):
        load_vectors(Milvus(URI), "films", vectors, "HNSW:M=16,efConstruction=100", "ef=20")


def test_another_index_is_refused_and_a_refused_index_leaves_no_collection(loaded, vectors):
    with pytest.raises(CollectionError, match=r"'FLAT'.*HNSW:M=16,efConstruction=100 ef=20"):
        load_vectors(Milvus(URI), "films", vectors, "FLAT")
    loaded.fail = failing("create_index", pymilvus.MilvusException(message="invalid index type"))
    with pytest.raises(RetrievalError, match="invalid index type"):
        load_vectors(Milvus(URI), "others", vectors, "NOPE")
    assert list(loaded.collections) == ["films"]


@pytest.mark.parametrize("wrong", [("IVF_SQ8:nlist=many", ""), ("FLAT", "nprobe")])
def test_a_mistyped_setting_is_refused_before_a_collection_is_made(fake, vectors, wrong):
    with pytest.raises(SettingError, match=r"many|nprobe"):
        load_vectors(Milvus(URI), "films", vectors, *wrong)
    assert not fake.collections


@pytest.mark.parametrize("uri", ["milvus:19530", "ftp://milvus", "http://", "./milvus.db"])
def test_what_is_no_address_is_named(uri):
    with pytest.raises(RetrievalError, match="not http"):
        Milvus(uri)


def test_without_pymilvus_the_command_that_installs_it_is_named(vectors, monkeypatch):
    remove("milvus", monkeypatch)
    for attempt in (
        lambda: index().search(users(1, 16), 5),
        lambda: load_vectors(Milvus(URI), "films", vectors, "FLAT"),
    ):
        with pytest.raises(LibraryError) as caught:
            attempt()
        assert caught.value.remedy == "pip install -e '.[milvus]'"


# The command


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    build_bundle(tmp_path / "bundle", small_parts(tmp_path))
    return tmp_path / "bundle"


def test_the_command_loads_a_bundle_and_says_what_it_counted(fake, bundle):
    def load(*options: str) -> str:
        arguments = ["serving", "load-milvus", str(bundle), "--uri", URI, *options]
        found = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output
        assert "s3cret" not in found.output
        return found.output

    manifest = open_bundle(bundle).manifest
    shown = load()
    assert f"nanorecsys_{manifest.id}" in shown
    assert f"{N_ITEMS} rows counted, {N_ITEMS} of them inserted now" in shown
    assert f"{N_ITEMS} rows counted, 0 of them inserted now" in load()
    chosen = ("--index", "IVF_SQ8:nlist=4", "--search", "nprobe=3", "--replace")
    assert f"{N_ITEMS} of them inserted now" in load(*chosen)
    [held] = fake.collections.values()
    assert held["description"] == "IVF_SQ8:nlist=4 nprobe=3"
    assert held["index"]["nlist"] == 4
    remote = open_bundle(bundle, remote=lambda found: bundle_index(Milvus(URI), bundle, found))
    queries = clustered(5, D)
    expected = open_bundle(bundle).index.search(queries, 5)[1]
    assert np.array_equal(remote.index.search(queries, 5)[1], expected)
    searched = [options for method, options in fake.calls if method == "search"]
    assert searched[0]["search_params"] == {"params": {"nprobe": 3}}


def test_the_command_refuses_what_does_not_fit(bundle):
    run = CliRunner().invoke
    command = ["serving", "load-milvus", str(bundle)]
    assert "Missing option '--uri'" in run(cli, command).output
    without = run(cli, [*command, "--uri", URI, "--search", "nprobe=3"])
    assert "give both" in without.output
    nowhere = run(cli, ["serving", "load-milvus", "/nowhere", "--uri", URI])
    assert "expected the folder of a serving bundle" in str(nowhere.exception)
