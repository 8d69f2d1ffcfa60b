"""Indexes built from shards: the same as in one piece, resumed after a kill, within a bound of memory. About 20 s."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from msgspec import json

from nanorecsys.ann.errors import DirectionsError, DivisibilityError, FactoryError, NeighboursError
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.limits import Bandwidth, Limits
from nanorecsys.ann.specs import directions
from nanorecsys.scaleup import search_worker, specs, write_catalogue
from nanorecsys.scaleup.build import Plan, build
from nanorecsys.scaleup.rows import Rows
from nanorecsys.scaleup.scale import Ladder, Settings, frames, grid
from nanorecsys.scaleup.search_worker import spared_bytes
from nanorecsys.scaleup.specs import parts
from nanorecsys.scaleup.steps import Steps
from nanorecsys.scaleup.truth import exact_prefixes
from nanorecsys.serving.retrieval import FaissIndex, load_index
from nanorecsys.system.blas import faiss

N, D = 4000, 16
CHOOSING = 25  # of 40 queries
CODED = "Users8,IVF16(PQ4x4fs,RFlat),PQ4x4fsr,Refine(SQ8)"
SPECS = (
    "IVF16,SQ8",
    "IVF16,PQ8np",
    "IVF16,PQ8x4fs,Refine(SQ8)",
    "IVF16,PQ8x4fsr",
    "IVF16,RaBitQ",
    "IVF16,RaBitQfs,Refine(SQ8)",
    "Items8,IVF16,SQ8",
    CODED,
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory, curved) -> Path:
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.npy"
    write_catalogue(path, curved, N, "recombined", progress=False)
    return path


@pytest.fixture(scope="module")
def queries(curved) -> np.ndarray:
    return curved[:40] @ np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0].astype(
        "f4"
    )


@pytest.fixture(scope="module")
def users(catalogue, curved) -> str:
    """Users whose vectors lie in 4 of the 16 dimensions; the file lies beside the catalogue."""
    vectors = curved[40:240].copy()
    vectors[:, 4:] = 0
    np.save(
        catalogue.with_name("users.npy"), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    )
    return str(catalogue.with_name("users.npy"))


def plan(specification: str, catalogue: Path, folder: Path, **more) -> Plan:
    values = {"points": 32, "iterations": 3, "block_rows": 1024, "threads": 1} | more
    if specification.startswith("Users"):
        values.setdefault("users", str(catalogue.with_name("users.npy")))
    return Plan(
        specification=specification, catalogue=str(catalogue), n=N, folder=str(folder), **values
    )


def answers(
    path: Path, specification: str, queries: np.ndarray, search: str = "nprobe=4"
) -> np.ndarray:
    index = load_index(specification, path)
    index.set(search)
    return index.search(queries, 10)[1]


@pytest.mark.parametrize("specification", SPECS)
def test_blocks_make_the_index_that_one_piece_makes(
    specification, catalogue, queries, users, tmp_path
):
    several = build(plan(specification, catalogue, tmp_path / "several"))
    whole = build(plan(specification, catalogue, tmp_path / "whole", block_rows=N))
    assert load_index(specification, several.path).index.ntotal == N
    np.testing.assert_array_equal(
        answers(several.path, specification, queries), answers(whole.path, specification, queries)
    )


@pytest.mark.parametrize(
    "specification", ["IVF16,SQ8", "IVF16,PQ8x4fs,Refine(SQ8)", "IVF16_HNSW8,SQ8", "HNSW8"]
)
def test_the_index_finds_the_neighbours(specification, catalogue, queries, tmp_path):
    path = build(plan(specification, catalogue, tmp_path)).path
    exact = exact_neighbours(np.load(catalogue), queries, 10)
    search = {True: "efSearch=64", False: "nprobe=16"}[specification == "HNSW8"]
    if "Refine" in specification:
        search += ",k_factor_rf=16"
    if "_HNSW" in specification:
        search += ",quantizer_efSearch=32"
    assert exact.recall(answers(path, specification, queries, search), 10).mean() > 0.8


def test_users_directions_find_what_users_ask_for(catalogue, users, tmp_path):
    """A quarter of the directions is all that users take: nothing is lost to them, and much to a fit on the items."""
    asked = np.load(users)[:40]
    exact = exact_neighbours(np.load(catalogue), asked, 10)
    recall = {}
    for space in ("Users4", "Items4"):
        path = build(plan(f"{space},IVF16,SQ8", catalogue, tmp_path)).path
        recall[space] = exact.recall(answers(path, "", asked, "nprobe=16"), 10).mean()
    assert recall["Users4"] > 0.9
    assert recall["Items4"] < recall["Users4"] - 0.1


def test_refinement_compares_whole_vectors(catalogue, queries, users, tmp_path):
    """Queries that leave the users' directions still find their neighbours, if enough of them are compared again."""
    path = build(plan(CODED, catalogue, tmp_path)).path
    exact = exact_neighbours(np.load(catalogue), queries, 10)
    few, many = (
        exact.recall(answers(path, CODED, queries, f"nprobe=16,k_factor_rf={f}"), 10).mean()
        for f in (1, 400)
    )
    assert many > 0.95
    assert few < many - 0.2


def test_centroids_are_found_by_their_codes(catalogue, queries, users, tmp_path):
    index = faiss.read_index(str(build(plan(CODED, catalogue, tmp_path)).path))
    lists = faiss.extract_index_ivf(index)
    assert (lists.d, faiss.downcast_index(lists).implem) == (8, 11)
    coarse = faiss.downcast_index(lists.quantizer)
    assert isinstance(coarse, faiss.IndexRefineFlat)
    assert faiss.downcast_index(coarse.base_index).sa_code_size() == 2
    _, near = coarse.search(queries[:, :8].copy(), 1)
    centroids = coarse.reconstruct_n(0, 16)
    assert (near[:, 0] == (queries[:, :8] @ centroids.T).argmax(axis=1)).mean() > 0.7


def test_lists_of_one_space_are_not_those_of_another(catalogue, users, tmp_path):
    folder = tmp_path / "steps"
    for specification in ("IVF16,SQ8", "Items8,IVF16,SQ8", "Users8,IVF16,SQ8"):
        build(plan(specification, catalogue, folder))
    shapes = {p.name: np.load(p).shape for p in folder.glob("coarse-*-centroids.npy")}
    assert shapes == {
        "coarse-16-centroids.npy": (16, 16),
        "coarse-Items8-16-centroids.npy": (16, 8),
        "coarse-Users8-16-centroids.npy": (16, 8),
    }


def test_k_means_sees_so_many_points_at_most(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr("nanorecsys.scaleup.build.CLUSTER_POINTS", 300)
    asked = []
    sample = Rows.sample
    monkeypatch.setattr(
        Rows, "sample", lambda self, count, *rest: asked.append(count) or sample(self, count, *rest)
    )
    build(plan("IVF16,SQ8", catalogue, tmp_path, points=100))
    assert asked[0] == 300


def test_lists_on_the_disk_answer_as_those_in_memory(catalogue, queries, tmp_path):
    memory = build(plan("IVF16,SQ8", catalogue, tmp_path / "memory"))
    disk = build(plan("IVF16,SQ8", catalogue, tmp_path / "disk", on_disk=True))
    assert disk.path.stat().st_size < 0.1 * memory.path.stat().st_size
    np.testing.assert_array_equal(
        answers(memory.path, "IVF16,SQ8", queries), answers(disk.path, "IVF16,SQ8", queries)
    )


@pytest.mark.parametrize("step", [1, 4, 7, 9, 10, 11])
def test_a_killed_build_resumes_with_the_same_bytes(step, catalogue, tmp_path):
    """Killed without notice when that many steps are done, or in the middle of the next."""
    whole = build(plan("IVF16,PQ8x4fs,Refine(SQ8)", catalogue, tmp_path / "whole")).path
    code = f"""
import os, signal
from pathlib import Path
from nanorecsys.scaleup import build, steps
done = 0
do = steps.Steps.do
def killing(self, name, make):
    global done
    if done == {step}:
        def make_half(path, make=make):
            make(path)
            os.kill(os.getpid(), signal.SIGKILL)
        do(self, name, make_half)
    done += 1
    return do(self, name, make)
build.Steps.do = killing
build.build(build.Plan(specification="IVF16,PQ8x4fs,Refine(SQ8)", catalogue={str(catalogue)!r}, n={N},
    folder={str(tmp_path / "killed")!r}, points=32, iterations=3, block_rows=1024, threads=1))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert not (tmp_path / "killed" / whole.name).exists()
    made = []
    do = Steps.do
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Steps,
            "do",
            lambda self, name, make: do(self, name, lambda path: made.append(name) or make(path)),
        )
        again = build(plan("IVF16,PQ8x4fs,Refine(SQ8)", catalogue, tmp_path / "killed")).path
    assert again.read_bytes() == whole.read_bytes()
    assert len(made) == 12 - step


def test_what_another_index_shares_is_not_made_again(catalogue, tmp_path):
    build(plan("IVF16,PQ8x4fs,Refine(SQ8)", catalogue, tmp_path))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("coarse-*")}
    assert before
    build(plan("IVF16,SQ8", catalogue, tmp_path))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("coarse-*")} == before
    assert not list(tmp_path.glob("block-*[0-9]"))  # merged blocks are gone


@pytest.mark.parametrize(
    ("specification", "error"),
    [
        ("Nope", FactoryError),
        ("IVF16,PQ7np", DivisibilityError),
        ("PQ8np", FactoryError),
        ("IVF16,SQ8,RFlat", FactoryError),
        ("Users8,HNSW8", FactoryError),
        ("Users17,IVF16,SQ8", DirectionsError),
        ("Users8,IVF16,PQ16np", DivisibilityError),
        ("IVF16(PQ7x4fs,RFlat),SQ8", DivisibilityError),
    ],
)
def test_specifications_that_cannot_be_built(specification, error, catalogue, tmp_path):
    with pytest.raises(error):
        build(plan(specification, catalogue, tmp_path))


def test_users_directions_need_users(catalogue, tmp_path):
    with pytest.raises(DirectionsError, match="none"):
        build(plan("Users8,IVF16,SQ8", catalogue, tmp_path, users=""))


def test_projected_specifications_are_taken_apart():
    found = parts("Users152,IVF(PQ76x4fs,RFlat),PQ76x4fsr,Refine(SQ8)", 3_000_000)
    assert found.factory == "Users152,IVF8192(PQ76x4fs,RFlat),PQ76x4fsr,Refine(SQ8)"
    assert (found.space, directions(found.factory), found.coarse_code) == (
        "Users152",
        152,
        "PQ76x4fs,RFlat",
    )
    assert (found.code, found.refined, found.coarse_links) == ("PQ76x4fsr", True, 0)
    assert found.family == "users' directions, PQ fast scan, refined"
    assert parts("Items8,IVF4_HNSW8,SQ8", 1000).factory == "Items8,IVF4_HNSW8,SQ8"
    assert parts("Items8,IVF4,SQ8", 1000).family != parts("IVF4,SQ8", 1000).family


def test_lists_are_as_many_as_items_allow():
    assert parts("IVF4096,PQ32np", 3_000_000).factory == "IVF4096,PQ32np"
    assert parts("IVF4096,PQ32np", 10_000).lists == 256
    assert parts("IVF_HNSW32,SQ8", 3_000_000) == parts(
        f"IVF{specs.MOST_LISTS}_HNSW32,SQ8", 3_000_000
    )


def test_rows_are_those_of_the_file(catalogue):
    vectors = np.load(catalogue)
    rows = Rows(catalogue, 3000)
    np.testing.assert_array_equal(rows.read(10, 20), vectors[10:20])
    assert rows.blocks(1024) == [(0, 1024), (1024, 2048), (2048, 3000)]
    half = np.eye(D, dtype="f4")[:5]
    np.testing.assert_array_equal(rows.projected(half).read(10, 20), vectors[10:20, :5])
    np.testing.assert_array_equal(
        rows.projected(half).sample(500, 0, 1024), rows.sample(500, 0, 1024)[:, :5]
    )
    sample = rows.sample(500, 0, 1024)
    np.testing.assert_array_equal(sample, rows.sample(500, 0, 3000))
    assert len(np.unique(sample, axis=0)) == 500
    np.testing.assert_array_equal(rows.sample(9999, 0, 1024), vectors[:3000])


def test_exact_neighbours_of_prefixes(catalogue, queries, monkeypatch):
    monkeypatch.setattr("nanorecsys.scaleup.truth.BLOCK", 700)
    vectors = np.load(catalogue)
    found = exact_prefixes(catalogue, queries, 10, [900, 1400, N])
    for n, exact in found.items():
        wanted = exact_neighbours(vectors[:n], queries, 10)
        np.testing.assert_array_equal(np.sort(exact.items), np.sort(wanted.items))
        np.testing.assert_array_equal(exact.hits[10], wanted.hits[10])
        assert exact.recall(wanted.items, 10).mean() == 1


def test_exact_neighbours_count_ties(tmp_path):
    vectors = np.tile(np.eye(4, dtype="f4"), (5, 1))
    np.save(tmp_path / "v.npy", vectors)
    exact = exact_prefixes(tmp_path / "v.npy", vectors[:1], 2, [20])[20]
    assert exact.recall(np.array([[8, 16]]), 2).tolist() == [1.0]
    assert exact.recall(np.array([[8, 17]]), 2).tolist() == [0.5]


def test_more_neighbours_than_items(catalogue, queries):
    with pytest.raises(NeighboursError):
        exact_prefixes(catalogue, queries, 50, [40])


@pytest.fixture(scope="module")
def ladder(tmp_path_factory, catalogue, queries, users) -> Ladder:
    limits = Limits(
        bandwidth=[Bandwidth(working_set_mib=1.0, gb_per_s=10.0)], gemm_gflops={"1": 1.0}
    )
    settings = Settings(
        choosing=CHOOSING, points=32, iterations=2, block_rows=1024, rounds=1, timed=10, threads=1
    )
    folder = tmp_path_factory.mktemp("ladder")
    exact = exact_prefixes(catalogue, queries, 10, [N])
    return Ladder(folder, "recombined", catalogue, queries, exact, limits, settings, np.load(users))


def test_a_row_of_the_ladder(ladder):
    flat, found = ladder.row("Flat", N), ladder.row("IVF16,SQ8", N)
    assert flat.recall == 1.0
    assert (flat.bytes_a_vector, flat.read_mib) == (4 * D, N * 4 * D / 2**20)
    assert found.recall >= 0.9
    assert found.search in grid(parts("IVF16,SQ8", N), 10, N)
    assert found.p50_ms.low <= found.p50_ms.middle <= found.p99_ms.high
    assert 0 < found.build_peak_gib < 1
    assert found.shared_s <= found.build_s
    assert ladder.recalls(N)["IVF16,SQ8", found.search] >= 0.95
    rows = frames([ladder])
    own = rows["accuracy"].filter(index="IVF16-SQ8").filter(pl.len().over("setting") > CHOOSING)
    assert own["setting"].n_unique() == 1
    assert own.filter(pl.col("query") >= CHOOSING)["recall"].mean() == pytest.approx(found.recall)
    assert set(rows["accuracy"]["index"]) >= {"Flat", "IVF16-SQ8"}
    assert rows["latency"].filter(index="IVF16-SQ8", round=-1).height == 10


def test_more_queries_try_the_settings_that_may_be_the_least(ladder, tmp_path, monkeypatch):
    ladder.row("IVF16,SQ8", N)
    plan = json.decode(
        (ladder.folder / f"{N}" / "IVF16-SQ8" / "search.json").read_bytes(), type=search_worker.Plan
    )
    monkeypatch.setattr(search_worker, "SCOUTS", CHOOSING // 4)
    found = search_worker.measure(plan, tmp_path)
    tried = pl.read_parquet(tmp_path / "accuracy.parquet").group_by("setting").agg(pl.len())
    few = [plan.settings[i] for i in tried.filter(pl.col("len") == CHOOSING // 4)["setting"].sort()]
    more = [plan.settings[i] for i in tried.filter(pl.col("len") > CHOOSING // 4)["setting"].sort()]
    assert found.search in more
    assert plan.settings[-1] in few  # all lists: fewer surely do


def test_a_row_in_users_directions(ladder):
    row = ladder.row(CODED, N)
    assert (row.factory, row.family) == (CODED, "users' directions, PQ fast scan, refined")
    assert row.recall > 0.8
    assert row.floor_ms > 0


def test_centroids_that_have_codes_are_not_all_read(catalogue, users, tmp_path):
    index = load_index("", build(plan(CODED, catalogue, tmp_path)).path)
    index.set("nprobe=4")
    # 16 codes of 2 bytes are read, and 8 centroids of 8 floats in place of 16
    assert spared_bytes(index) == 4 * 8 * (16 - 8) - 16 * 2
    assert spared_bytes(load_index("", build(plan("IVF16,SQ8", catalogue, tmp_path)).path)) == 0
    assert spared_bytes(load_index("", build(plan("HNSW8", catalogue, tmp_path)).path)) == 0


def test_a_row_of_a_graph_says_nothing_of_what_is_read(ladder):
    row = ladder.row("HNSW8", N)
    assert (row.read_mib, row.floor_ms) == (None, None)


def test_bytes_count_lists_on_the_disk(ladder):
    disk, memory = ladder.row("IVF16,SQ8", N, on_disk=True), ladder.row("IVF16,SQ8", N)
    assert disk.bytes_a_vector == pytest.approx(memory.bytes_a_vector, rel=0.1)


def test_a_row_that_is_there_is_not_made_again(ladder, monkeypatch):
    first = ladder.row("Flat", N)
    monkeypatch.setattr(Ladder, "_run", None)
    assert ladder.row("Flat", N) == first


def test_an_index_that_cannot_be_built_is_written_down(ladder):
    assert ladder.row("Nope", N) is None
    assert ladder.row("IVF16,PQ7np", N) is None
    assert [f.error for f in ladder.failures] == ["FactoryError", "DivisibilityError"]


def test_merging_holds_blocks_and_index_but_not_the_vectors(catalogue, tmp_path, monkeypatch):
    """No call asks for more rows than a block or the sample has."""
    monkeypatch.setattr("nanorecsys.scaleup.build.CODE_POINTS", 256)
    asked = []
    read = Rows.read
    monkeypatch.setattr(
        Rows,
        "read",
        lambda self, start, stop: asked.append(stop - start) or read(self, start, stop),
    )
    built = build(plan("IVF16,SQ8", catalogue, tmp_path))
    assert max(asked) == 1024
    assert FaissIndex(faiss.read_index(str(built.path))).index.ntotal == N
