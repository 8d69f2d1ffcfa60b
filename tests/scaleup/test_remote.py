"""The same search in this process and in Milvus: a fake one, and for one test a real one. 5 s."""

import os

import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.result import to_records
from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup import remote, result
from nanorecsys.scaleup.bench import CatalogueBench
from nanorecsys.scaleup.catalogue import CatalogueFile, exact_prefixes
from nanorecsys.scaleup.search import SearchOptions, open_flat
from nanorecsys.serving.errors import RetrievalError
from nanorecsys.serving.milvus import Milvus
from nanorecsys.study.layout import layout
from tests.ann.vectors import clustered, users
from tests.milvus import FakeMilvus, MilvusServer

N, D, K = 300, 16, 10
OPTIONS = SearchOptions(k=K, floor=0.9, choosing=20, rounds=1, timed=10)


@pytest.fixture
def catalogue(tmp_path):
    np.save(tmp_path / "catalogue.npy", clustered(N, D))
    return CatalogueFile(tmp_path / "catalogue.npy")


@pytest.fixture
def task(catalogue):
    queries = users(40, D)
    exact = exact_neighbours(catalogue.read(0, N), queries, K)
    return remote.Task(queries, exact, OPTIONS, requests=60)


@pytest.fixture
def fake(monkeypatch):
    return FakeMilvus().install(monkeypatch)


def test_exact_search_finds_the_same_on_both_sides(catalogue, task, fake):
    engine = "http://127.0.0.1:1", os.getpid()
    here, rows = remote.search_here(task, open_flat, catalogue, "")
    there, asked = remote.search_milvus(task, engine, catalogue, "FLAT", "")
    assert here["recall"] == there["recall"] == 1.0
    assert rows.groupby("clients").size().to_dict() == {1: 60, 4: 60, 16: 60}
    assert sorted(asked["query"]) == sorted(rows["query"])
    assert len(fake.collections["items"]["rows"]) == N


class Narrow(FakeMilvus):
    """A Milvus that finds nothing below 27 lists."""

    def search(self, name, data, limit, search_params):
        found = super().search(name, data=data, limit=limit, search_params=search_params)
        for hits in found:
            hits.ids = hits.ids if search_params["params"]["nprobe"] >= 27 else [-1] * limit
        return found


def test_a_setting_is_raised_until_it_keeps_the_floor_and_no_further(catalogue, task, monkeypatch):
    Narrow().install(monkeypatch)
    engine = "http://127.0.0.1:1", os.getpid()
    found, _ = remote.search_milvus(task, engine, catalogue, "IVF_SQ8:nlist=64", "nprobe=10")
    assert (found["search"], found["recall"]) == ("nprobe=27", 1.0)


def test_without_the_program_there_is_no_milvus(tmp_path, monkeypatch):
    monkeypatch.delenv("NANORECSYS_MILVUS", raising=False)
    assert remote.milvus_program(tmp_path) is None
    program = tmp_path / remote.PROGRAM
    program.parent.mkdir(parents=True)
    program.touch()
    assert remote.milvus_program(tmp_path) == program
    monkeypatch.setenv("NANORECSYS_MILVUS", "none")
    assert remote.milvus_program(tmp_path) is None


def test_a_milvus_that_does_not_answer_is_told_after_a_while(monkeypatch, fake):
    def fail(method):
        raise RetrievalError("it is gone")

    monkeypatch.setattr(fake, "fail", fail)
    monkeypatch.setattr(remote, "START_S", 0.1)
    with pytest.raises(RetrievalError, match="it is gone"):
        remote.wait(Milvus("http://127.0.0.1:1"))


def test_figures_are_those_of_the_rows():
    ms = np.repeat([1.0, 2.0, 4.0], 20)
    alone = pd.DataFrame({"clients": 1, "start_ns": 1e6 * (np.cumsum(ms) - ms), "ns": 1e6 * ms})
    both = pd.DataFrame({"clients": 4, "start_ns": 0.0, "ns": 2e9}, index=range(8))
    found = remote.summary(pd.concat([alone, both]))
    assert (found["p50_ms_low"], found["p50_ms"], found["p50_ms_high"]) == (1.0, 2.0, 4.0)
    assert np.isnan(found["p99_ms"])
    assert found["per_s_4"] == pytest.approx(4.0)
    assert found["per_s_1"] == pytest.approx(60 / 0.14)
    enough = pd.DataFrame({"clients": 1, "start_ns": 0.0, "ns": np.arange(10_000) * 1e6})
    assert remote.summary(enough)["p99_ms"] == pytest.approx(9899, abs=1)


def test_a_hop_is_the_difference_of_two_searches_of_one_kind():
    points = pd.DataFrame(
        [
            {"n": 9, "exact": False, "place": remote.HERE, "recall": 0.9, "p50_ms": 1.0},
            {"n": 9, "exact": True, "place": remote.HERE, "recall": 1.0, "p50_ms": 2.0},
            {"n": 9, "exact": False, "place": remote.MILVUS, "recall": 0.95, "p50_ms": 4.0},
        ]
    )
    assert to_records(remote.hops(points), result.Hop) == [result.Hop(n=9, exact=False, hop_ms=3.0)]


@pytest.mark.milvus
@pytest.mark.skipif(not MilvusServer.available, reason="there is no Milvus: make milvus")
def test_a_real_milvus_stands_beside_the_process_and_is_stopped(tmp_path, catalogue):
    queries = users(40, D)
    exact = exact_prefixes(catalogue.path, queries, K, [N])
    apart = users(60, D, seed=3)
    bench = CatalogueBench(
        tmp_path / "work", "local", catalogue.path, queries, exact, OPTIONS, apart
    )
    program = remote.milvus_program(layout().root)
    served = bench.measure("IVF4,SQ8", N)
    points, requests = remote.compare(bench, program, served, 30)
    assert bench.failures == []
    assert points["index"].tolist() == ["IVF4,SQ8", BASELINE, "IVF_SQ8:nlist=4", "FLAT"]
    assert points.loc[points["exact"], "recall"].tolist() == [1.0, 1.0]
    assert points["recall"].min() >= OPTIONS.floor
    assert points["memory_gib"].min() > 0.01
    assert (requests.groupby(["place", "index", "clients"]).size() == 30).all()
    assert len(to_records(points, result.RemotePoint)) == 4
    folder = str(bench.folder / "remote")
    assert [p for p in _commands() if folder in p] == []


def _commands():
    import psutil

    found = (process.info["cmdline"] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(command or []) for command in found]
