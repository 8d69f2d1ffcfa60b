"""Every library's indexes answer alike, in threads too, and give their memory back. 12 s."""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nanorecsys.ann import specs
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.indexes import build_index
from nanorecsys.serving.errors import LibraryError, SettingError, SpecificationError
from nanorecsys.serving.retrieval import LIBRARIES, Index, LorannIndex, library, load_index
from tests.ann.vectors import clustered, users
from tests.libraries import NEEDS, NEEDS_HALVES, has_halves, remove

N, D, K = 3000, 64, 20
HALVES = "lorann:clusters=16,dims=64,vectors=16"
# A specification of each library, a setting that finds nearly all, and one that finds too few.
CASES = {
    "IVF16,SQ8": ("nprobe=16", "nprobe=1"),
    "scann:leaves=16": ("leaves=16,rerank=500", "leaves=1,rerank=1"),
    "scann:leaves=16,vectors=16": ("leaves=16,rerank=500", "leaves=1,rerank=1"),
    "scann:leaves=16,vectors=8": ("leaves=16,rerank=500", "leaves=1,rerank=1"),
    "lorann:clusters=16,dims=64": ("clusters=16,rerank=500", "clusters=1,rerank=1"),
    "lorann:clusters=16,dims=32,bits=4": ("clusters=16,rerank=900", "clusters=1,rerank=1"),
    HALVES: ("clusters=16,rerank=500", "clusters=1,rerank=1"),
}
MARKED = [
    pytest.param(spec, marks=NEEDS_HALVES if spec == HALVES else NEEDS[library(spec)], id=spec)
    for spec in CASES
]
OTHERS = [pytest.param(name, marks=NEEDS[name]) for name in ("scann", "lorann")]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(N, D)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return users(60, D)


def loaded(factory: str, vectors: np.ndarray, folder: Path) -> Index:
    """An index that was built, saved and loaded again."""
    build_index(factory, vectors).save(folder / "index")
    return load_index(folder / "index")


@pytest.mark.parametrize("factory", MARKED)
def test_answers_are_sorted_typed_and_padded_and_equal_after_a_load(
    factory: str, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    built = build_index(factory, vectors)
    built.save(tmp_path / "index")
    index = load_index(tmp_path / "index")
    assert type(index) is type(built)
    assert index.shape == built.shape == (N, D)
    exact = exact_neighbours(vectors, queries, K)
    recall = {}
    for search in CASES[factory]:
        for each in (index, built):
            each.set(search)
        for k in (1, K, N):
            scores, items = index.search(queries, k)
            assert (scores.dtype, items.dtype) == (np.float32, np.int64)
            assert scores.shape == items.shape == (len(queries), k)
            assert (scores[:, 1:] <= scores[:, :-1]).all()
            assert ((items < 0) == np.isneginf(scores) | (scores < -1e38)).all()
            assert (np.sort(items) == np.sort(built.search(queries, k)[1])).mean() > 0.999
            one_by_one = [index.search(query[None], k)[1][0] for query in queries]
            assert (np.sort(items) == np.sort(one_by_one)).mean() > 0.999
        recall[search] = exact.recall(index.search(queries, K)[1]).mean()
    found = np.einsum("qkd,qd->qk", vectors[items], queries)[items >= 0]
    assert scores[items >= 0] == pytest.approx(found, abs=0.03)
    good, poor = recall.values()
    assert good > 0.98
    assert poor < good


@pytest.mark.parametrize("factory", MARKED)
def test_many_threads_search_one_index_as_one_does(
    factory: str, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    index = loaded(factory, vectors, tmp_path)
    index.set(CASES[factory][0])
    alone = [index.search(query[None], K)[1] for query in queries]
    order = np.random.default_rng(0).integers(0, len(queries), 1000)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: index.search(queries[i : i + 1], K)[1], order))
    assert all(np.array_equal(found, alone[i]) for i, found in zip(order, together, strict=True))


LOOP = """
import sys
from pathlib import Path
import numpy as np
import psutil
from nanorecsys.serving.retrieval import load_index

queries = np.load(sys.argv[1])
for name in sys.argv[2:]:
    sizes = []
    for _ in range(40):
        load_index(Path(name)).search(queries, 10)
        sizes.append(psutil.Process().memory_info().rss)
    print(sizes[-1] - sizes[19])
"""


def test_an_index_that_is_dropped_frees_its_memory(
    vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "queries.npy", queries)
    there = [f for f in CASES if importlib.util.find_spec(LIBRARIES[library(f)][0].split(".")[0])]
    there = [factory for factory in there if factory != HALVES or has_halves()]
    files = [tmp_path / str(number) for number in range(len(there))]
    for factory, file in zip(there, files, strict=True):
        build_index(factory, vectors).save(file)
    command = [sys.executable, "-c", LOOP, tmp_path / "queries.npy", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for factory, file, grown in zip(there, files, done.stdout.split(), strict=True):
        # twenty loads that stay would be twice that
        assert int(grown) < 10 * file.stat().st_size, factory


@pytest.mark.parametrize("factory", MARKED)
def test_queries_of_other_dimensions_are_refused(
    factory: str, vectors: np.ndarray, tmp_path: Path
) -> None:
    index = loaded(factory, vectors, tmp_path)
    for wrong in (users(1, D // 2), users(3, 2 * D), users(1, D)[0]):
        with pytest.raises((ValueError, AssertionError)):
            index.search(wrong, K)
    wide = users(4, 2 * D)[:, ::2].astype(np.float64)  # neither float32 nor contiguous
    if library(factory) != "faiss":
        same = np.ascontiguousarray(wide, np.float32)
        assert np.array_equal(index.search(wide, K)[1], index.search(same, K)[1])


@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_has_both_names_and_at_most_all_parts(
    name: str, vectors: np.ndarray, queries: np.ndarray
) -> None:
    factory = next(spec for spec in CASES if library(spec) == name)
    index = build_index(factory, vectors)
    part = "leaves" if name == "scann" else "clusters"
    for wrong in ("nprobe=3", f"{part}=3", f"{part}=0,rerank=9", "much"):
        with pytest.raises(SettingError, match=f"{part}=32,rerank=32"):
            index.set(wrong)
    index.set(f"{part}=16,rerank=100")
    expected = index.search(queries, K)[1]
    index.set(f"{part}=99999,rerank=100")
    assert np.array_equal(index.search(queries, K)[1], expected)


@NEEDS["lorann"]
def test_lorann_tells_what_it_cannot_build() -> None:
    for factory, d, told in (
        ("lorann:dims=32", 48, "does not fit 48 dimensions"),
        ("lorann:dims=48", 64, "does not fit 64 dimensions"),
        ("lorann:dims=96", 64, "does not fit 64 dimensions"),
        ("lorann:dims=64,rank=64", 64, "does not fit 64 dimensions"),
    ):
        with pytest.raises(SpecificationError, match=told):
            build_index(factory, clustered(600, d))


class Unsorted:
    """What LoRANN answers from one cluster of exactly k vectors: all of them, in any order."""

    def get_n_samples(self) -> int:
        return 3000

    def get_dim(self) -> int:
        return D

    def get_n_clusters(self) -> int:
        return 16

    def search(self, queries: np.ndarray, k: int, *_: int) -> tuple[np.ndarray, np.ndarray]:
        distances = np.arange(k, dtype=np.float32)[::-1]
        return np.arange(k, dtype=np.int32), distances


def test_an_answer_from_a_cluster_of_exactly_k_vectors_is_sorted() -> None:
    index = LorannIndex(Unsorted())
    index.set("clusters=1,rerank=40")
    scores, items = index.search(np.zeros((1, D), np.float32), K)
    assert items[0].tolist() == list(range(K))[::-1]
    assert (scores[0] == -np.arange(K)).all()


@pytest.mark.parametrize("name", OTHERS)
def test_an_absent_library_is_named_with_the_command_that_installs_it(
    name: str, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = next(spec for spec in CASES if library(spec) == name)
    build_index(factory, vectors).save(tmp_path / "index")
    remove(name, monkeypatch)
    for attempt in (
        lambda: build_index(factory, vectors),
        lambda: load_index(tmp_path / "index"),
    ):
        with pytest.raises(LibraryError, match=name) as caught:
            attempt()
        assert caught.value.remedy == LIBRARIES[name][1]


def test_parts_grow_with_the_catalogue() -> None:
    for name, part in (("scann", "leaves"), ("lorann", "clusters")):
        grown = [specs.options(f"{name}:", n)[part] for n in (1, 9_066, 27_278, 300_000, 3_000_000)]
        assert grown == sorted(grown)
        assert grown[0] == 1
        assert grown[2] == 128
        first = specs.search_settings(f"{name}:", 3, 27_278)
        later = specs.search_settings(f"{name}:", 3, 3_000_000)
        values = [specs.parse_setting(setting)[part] for setting in (*first, later[-1])]
        assert values == sorted(set(values))
