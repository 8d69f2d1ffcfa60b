"""Indexes built block by block, and their bench. 12 s.

A process takes a second to start. So the bench runs in child processes where the fixtures build
`IVF16,SQ8` and open exact search, and in this one otherwise.
"""

import gc
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanorecsys.ann import bench as measuring
from nanorecsys.ann.errors import AnnError, CrashError, VectorsError
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.evaluation import mean_interval
from nanorecsys.scaleup import bench, build, specs, write_catalogue
from nanorecsys.scaleup.bench import CatalogueBench, usable
from nanorecsys.scaleup.catalogue import CatalogueFile, exact_prefixes
from nanorecsys.scaleup.search import SearchOptions, open_flat, search_at_floor, surely
from nanorecsys.scaleup.specs import parse_specification
from nanorecsys.serving.errors import SpecificationError
from nanorecsys.serving.retrieval import FaissIndex, load_index
from nanorecsys.system.blas import faiss

N, D = 4000, 16
CHOOSING = 25  # queries out of 40
CODED = "Users8,IVF16(PQ4x4fs,RFlat),PQ4x4fsr,Refine(SQ8)"
SPECS = (
    "IVF16,SQ8",
    "IVF16,PQ8np",
    "IVF16,PQ8x4fs,Refine(SQ8)",
    "IVF16,PQ8x4fsr",
    "Items8,IVF16,SQ8",
    CODED,
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory, curved) -> Path:
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.npy"
    write_catalogue(path, curved, N, "recombined")
    return path


@pytest.fixture(scope="module")
def queries(curved) -> np.ndarray:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
    return curved[:40] @ rotation.astype("f4")


@pytest.fixture(scope="module")
def users(curved) -> np.ndarray:
    """Users whose vectors lie in 4 of the 16 dimensions."""
    vectors = curved[40:240].copy()
    vectors[:, 4:] = 0
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch):
    monkeypatch.setattr(build, "BLOCK_ROWS", 1024)


def made(specification, catalogue, folder, users=None):
    """Build an index, save it and load it again, as the bench does."""
    parsed = parse_specification(specification, N)
    build.build(CatalogueFile(catalogue), parsed, users).save(folder / "index")
    return load_index(folder / "index")


def answers(index, queries, setting="nprobe=4"):
    index.set(setting)
    return index.search(queries, 10)[1]


@pytest.mark.parametrize("specification", SPECS)
def test_blocks_make_the_index_that_one_piece_makes(
    specification, catalogue, queries, users, tmp_path, monkeypatch
):
    several = made(specification, catalogue, tmp_path, users)
    monkeypatch.setattr(build, "BLOCK_ROWS", N)
    whole = made(specification, catalogue, tmp_path, users)
    assert several.index.ntotal == N
    np.testing.assert_array_equal(answers(several, queries), answers(whole, queries))


@pytest.mark.parametrize(
    ("specification", "setting"),
    [
        ("IVF16,SQ8", "nprobe=16"),
        ("IVF16,PQ8x4fs,Refine(SQ8)", "nprobe=16,k_factor_rf=16"),
        ("scann:leaves=16,vectors=8", "leaves=16,rerank=200"),
    ],
)
def test_the_index_finds_the_neighbours(specification, setting, catalogue, queries, tmp_path):
    exact = exact_neighbours(np.load(catalogue), queries, 10)
    index = made(specification, catalogue, tmp_path)
    assert exact.recall(answers(index, queries, setting)).mean() > 0.8


def test_users_directions_find_what_users_ask_for(catalogue, users, tmp_path):
    """Users take a quarter of the directions: a fit on them loses nothing, one on items much."""
    exact = exact_neighbours(np.load(catalogue), users[:40], 10)
    recall = {}
    for space in ("Users4", "Items4"):
        index = made(f"{space},IVF16,SQ8", catalogue, tmp_path, users)
        recall[space] = exact.recall(answers(index, users[:40], "nprobe=16")).mean()
    assert recall["Users4"] > 0.9
    assert recall["Items4"] < recall["Users4"] - 0.1


def test_refinement_compares_whole_vectors(catalogue, queries, users, tmp_path):
    """Queries outside the users' directions find their neighbours if enough are re-ranked."""
    index = made(CODED, catalogue, tmp_path, users)
    exact = exact_neighbours(np.load(catalogue), queries, 10)
    few, many = (
        exact.recall(answers(index, queries, f"nprobe=16,k_factor_rf={f}")).mean() for f in (1, 400)
    )
    assert many > 0.95
    assert few < many - 0.2


def test_centroids_are_found_by_their_codes(catalogue, queries, users, tmp_path):
    index = made(CODED, catalogue, tmp_path, users)
    lists = faiss.extract_index_ivf(index.index)
    assert (lists.d, faiss.downcast_index(lists).implem) == (8, 11)
    coarse = faiss.downcast_index(lists.quantizer)
    assert isinstance(coarse, faiss.IndexRefineFlat)
    assert faiss.downcast_index(coarse.base_index).sa_code_size() == 2
    _, near = coarse.search(queries[:, :8].copy(), 1)
    centroids = coarse.reconstruct_n(0, 16)
    assert (near[:, 0] == (queries[:, :8] @ centroids.T).argmax(axis=1)).mean() > 0.7


def test_k_means_and_blocks_read_a_bounded_number_of_rows(catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CLUSTER_POINTS", 300)
    monkeypatch.setattr(build, "CODE_POINTS", 256)
    samples, reads = [], []
    sample, read = CatalogueFile.sample, CatalogueFile.read
    monkeypatch.setattr(
        CatalogueFile,
        "sample",
        lambda self, count, seed: samples.append(count) or sample(self, count, seed, 1024),
    )
    monkeypatch.setattr(
        CatalogueFile,
        "read",
        lambda self, start, stop: reads.append(stop - start) or read(self, start, stop),
    )
    assert made("IVF16,SQ8", catalogue, tmp_path).index.ntotal == N
    assert samples[0] == 300
    assert max(reads) == 1024


@pytest.mark.parametrize(
    "specification",
    [
        "Nope",
        "IVF16,PQ7np",
        "PQ8np",
        "HNSW8",
        "scann:trees=3",
        "IVF16,SQ8,RFlat",
        "Users8,HNSW8",
        "Users17,IVF16,SQ8",
        "Users8,IVF16,PQ16np",
        "IVF16(PQ7x4fs,RFlat),SQ8",
    ],
)
def test_specifications_that_cannot_be_built_have_a_named_error(specification, catalogue, tmp_path):
    with pytest.raises(SpecificationError):
        made(specification, catalogue, tmp_path)


def test_users_directions_need_users_vectors(catalogue, users, tmp_path):
    with pytest.raises(SpecificationError, match="none"):
        made("Users8,IVF16,SQ8", catalogue, tmp_path)
    with pytest.raises(VectorsError, match="norm 2"):
        made("Users8,IVF16,SQ8", catalogue, tmp_path, 2 * users)


def test_a_projected_specification_is_parsed():
    found = parse_specification("Users152,IVF(PQ76x4fs,RFlat),PQ76x4fsr,Refine(SQ8)", 3_000_000)
    assert found.factory == "Users152,IVF8192(PQ76x4fs,RFlat),PQ76x4fsr,Refine(SQ8)"
    assert found.coarse_code == "PQ76x4fs,RFlat"
    assert (found.code, found.refined) == ("PQ76x4fsr", True)
    assert found.family == "users' directions, PQ fast scan, refined"
    same = "Items8,IVF4,SQ8"
    assert parse_specification(same, 1000).factory == same
    families = {parse_specification(s, 1000).family for s in ("Items8,IVF4,SQ8", "IVF4,SQ8")}
    assert len(families) == 2


def test_lists_are_as_many_as_items_allow():
    assert parse_specification("IVF4096,PQ32np", 3_000_000).factory == "IVF4096,PQ32np"
    assert parse_specification("IVF4096,PQ32np", 10_000).lists == 256
    assert parse_specification("IVF,SQ8", 3_000_000).factory == f"IVF{specs.MOST_LISTS},SQ8"
    sizes = [parse_specification("lorann:", n).lists for n in (27_278, 3_000_000)]
    assert sizes[0] < sizes[1]  # those of other libraries follow the catalogue too


OPTIONS = SearchOptions(choosing=CHOOSING, rounds=1, timed=10, threads=1)


@pytest.fixture(scope="module")
def tried(tmp_path_factory, catalogue, queries, users) -> CatalogueBench:
    folder = tmp_path_factory.mktemp("bench")
    exact = exact_prefixes(catalogue, queries, 10, [N])
    return CatalogueBench(folder, "recombined", catalogue, queries, exact, OPTIONS, users)


@pytest.fixture
def here(flat, lists, monkeypatch):
    """Call functions in this process in place of `in_child`."""
    for module in (bench, measuring):
        monkeypatch.setattr(module, "in_child", lambda work, *arguments, threads: work(*arguments))
    yield
    gc.enable()


@pytest.fixture(scope="module")
def flat(tried):
    return tried.measure("Flat", N)


@pytest.fixture(scope="module")
def lists(tried):
    return tried.measure("IVF16,SQ8", N)


def test_exact_search_is_measured(flat):
    assert flat["recall"] == 1.0
    assert flat["bytes_a_vector"] == 4 * D


def test_an_index_is_measured_at_the_fastest_setting_that_surely_reaches_the_floor(tried, lists):
    assert lists["recall"] >= 0.9
    assert lists["p50_ms_low"] <= lists["p50_ms"] <= lists["p50_ms_high"]
    assert 0 < lists["build_peak_gib"] < 1
    (accuracy,) = (f for f in tried.rows["accuracy"] if f["factory"].iloc[0] == "IVF16,SQ8")
    by_setting = dict(list(accuracy.groupby("search", sort=False)["recall"]))
    chosen = by_setting[lists["search"]]
    assert len(chosen) == 40
    assert surely(chosen[:CHOOSING], 0.95)
    nprobe = int(lists["search"].removeprefix("nprobe="))
    cheaper = [own for s, own in by_setting.items() if int(s.removeprefix("nprobe=")) < nprobe]
    assert cheaper
    assert not any(surely(own, 0.95) for own in cheaper)
    (latency,) = (f for f in tried.rows["latency"] if f["factory"].iloc[0] == "IVF16,SQ8")
    assert (latency["round"] == -1).sum() == 10


def test_the_recall_is_that_of_the_users_who_did_not_choose(catalogue, queries, tried):
    """An index that serves the choosing users well and the others badly."""
    some = queries[:CHOOSING, 0]

    class Partial(FaissIndex):
        def set(self, search):
            self.setting = search

        def search(self, asked, k):
            scores, items = super().search(asked, k)
            items[~np.isin(asked[:, 0], some), 3:] = -1
            return scores, items

    def load(rows):
        return Partial(open_flat(rows).index)

    settings = ["nprobe=1", "nprobe=2"]
    given = (load, [CatalogueFile(catalogue)], settings, queries, tried.exact[N])
    found, rows = search_at_floor(*given, OPTIONS)
    interval = (found["recall"], found["recall_low"], found["recall_high"])
    assert interval == pytest.approx((0.3, 0.3, 0.3))
    assert found["search"] == "nprobe=1"  # the other setting costs more
    assert rows["accuracy"].groupby("search").size().to_dict() == {"nprobe=1": 40, "nprobe=2": 25}


def test_the_interval_is_over_users(tried, lists):
    (accuracy,) = (f for f in tried.rows["accuracy"] if f["factory"].iloc[0] == "IVF16,SQ8")
    chosen = accuracy[(accuracy["search"] == lists["search"]) & (accuracy["query"] >= CHOOSING)]
    expected = mean_interval(chosen["recall"].to_numpy())
    found = (lists["recall"], lists["recall_low"], lists["recall_high"])
    assert found == pytest.approx((expected.estimate, expected.low, expected.high))


def test_what_was_built_and_measured_with_the_same_input_is_not_repeated(tried, flat, lists, here):
    before = {p: p.stat().st_mtime_ns for p in tried.folder.rglob("*.*")}
    second = replace(tried, failures=[], rows=defaultdict(list))
    assert (second.measure("Flat", N), second.measure("IVF16,SQ8", N)) == (flat, lists)
    assert {p: p.stat().st_mtime_ns for p in tried.folder.rglob("*.*")} == before
    (kept,) = (f for f in tried.rows["latency"] if f["factory"].iloc[0] == "IVF16,SQ8")
    assert second.rows["latency"][1].equals(kept)
    other = replace(second, options=replace(OPTIONS, seed=1))
    assert other.measure("IVF16,SQ8", N)["p50_ms"] != lists["p50_ms"]
    assert len(set(tried.folder.rglob("*.index")) - set(before)) == 1


def test_an_index_in_users_directions_is_measured(tried, here):
    row = tried.measure(CODED, N)
    assert (row["factory"], row["family"]) == (CODED, "users' directions, PQ fast scan, refined")
    assert row["recall"] > 0.8


def test_an_index_of_another_library_is_measured(tried, here):
    row = tried.measure("scann:leaves=16,vectors=8", N)
    assert (row["family"], row["search"].partition("=")[0]) == ("ScaNN", "leaves")
    assert row["recall"] > 0.8
    assert row["build_peak_gib"] > 0
    assert row["bytes_a_vector"] > D  # it counts what is on the disk, vectors included


def test_a_library_that_cannot_build_here_is_left_out(catalogue, here):
    """LoRANN wants 64 dimensions; a specification of FAISS is not tried."""
    wanted = ["IVF16,SQ8", "lorann:vectors=16", "scann:vectors=8"]
    kept, failures = usable(wanted, np.load(catalogue), threads=1)
    assert kept == ["IVF16,SQ8", "scann:vectors=8"]
    assert [failure.factory for failure in failures] == ["lorann:vectors=16"]


def test_a_setting_beside_the_grid_is_measured_too(tried, here):
    deep = replace(tried, extra=("nprobe=3",), rows=defaultdict(list))
    deep.measure("IVF16,SQ8", N)
    assert "nprobe=3" in set(deep.rows["accuracy"][0]["search"])


def test_an_index_that_cannot_be_built_is_recorded(tried, here):
    before = len(tried.failures)
    assert tried.measure("Nope", N) is None
    assert tried.measure("IVF16,PQ7np", N) is None
    found = [f.error for f in tried.failures[before:]]
    assert found == ["SpecificationError", "SpecificationError"]


def crash(*_):
    raise CrashError("it died", "Try again.")


def test_without_exact_search_there_is_nothing_to_compare_with(tried, here, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "search_at_floor", crash)
    with pytest.raises(AnnError, match="the baseline Flat was not measured at 4,000: it died"):
        replace(tried, folder=tmp_path, failures=[]).measure("Flat", N)


def test_a_crash_is_recorded(tried, here, monkeypatch):
    monkeypatch.setattr(bench, "build_catalogue", crash)
    assert tried.measure("IVF16,PQ4np", N) is None
    assert tried.failures[-1].error == "CrashError"
