"""Catalogues: the same bytes in memory and in a file, with any number of threads. 4 s."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.scaleup import GENERATORS, catalogue, generate, write_catalogue
from nanorecsys.scaleup.catalogue import CatalogueFile, exact_prefixes
from nanorecsys.serving.errors import SpecificationError

N, D = 5000, 16


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 500 rows: 9 of them in 5,000 items of which 600 are real."""
    monkeypatch.setattr(catalogue, "SHARD_ROWS", 500)


@pytest.fixture(scope="module")
def file(tmp_path_factory, curved) -> Path:
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.npy"
    write_catalogue(path, curved, N, "recombined")
    return path


@pytest.mark.parametrize("name", GENERATORS)
def test_bytes_do_not_depend_on_threads(name: str, curved: np.ndarray) -> None:
    one = generate(curved, N, name, seed=1, threads=1)
    np.testing.assert_array_equal(one, generate(curved, N, name, seed=1, threads=4))
    assert not np.array_equal(one, generate(curved, N, name, seed=2))


def test_real_items_come_first(curved: np.ndarray) -> None:
    np.testing.assert_array_equal(generate(curved, N)[:600], curved)
    np.testing.assert_array_equal(generate(curved, 600), curved)


def test_shards_differ(curved: np.ndarray) -> None:
    made = generate(curved, N)[600:]
    assert len(np.unique(made, axis=0)) == len(made)


def test_a_file_holds_what_memory_holds(curved: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "catalogue.npy"
    written = write_catalogue(path, curved, N, seed=3)
    np.testing.assert_array_equal(written, generate(curved, N, seed=3))
    assert not written.flags.writeable
    assert [p.name for p in path.parent.iterdir()] == ["catalogue.npy"]


def test_a_write_that_fails_leaves_an_older_file(
    curved: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.npy"
    write_catalogue(path, curved, 700)
    before = path.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(path, curved, N)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["catalogue.npy"]


@pytest.mark.parametrize("name", ["independent", "recombined"])
def test_memory_does_not_grow_with_the_catalogue(
    name: str, curved: np.ndarray, tmp_path: Path
) -> None:
    peaks = []
    for n in (5_000, 50_000):
        tracemalloc.start()
        write_catalogue(tmp_path / f"{n}.npy", curved, n, name, threads=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000  # the larger catalogue is 3.2 MB
    assert os.path.getsize(tmp_path / "50000.npy") == 128 + 4 * D * 50_000


def test_rows_are_those_of_the_file(file):
    vectors = np.load(file)
    rows = CatalogueFile(file, 3000)
    np.testing.assert_array_equal(rows.read(10, 20), vectors[10:20])
    assert rows.blocks(1024) == [(0, 1024), (1024, 2048), (2048, 3000)]
    half = np.eye(D, dtype="f4")[:5]
    projected = CatalogueFile(file, 3000, half)
    np.testing.assert_array_equal(projected.read(10, 20), vectors[10:20, :5])
    sample = rows.sample(500, 0, 1024)
    np.testing.assert_array_equal(projected.sample(500, 0, 1024), sample[:, :5])
    np.testing.assert_array_equal(sample, rows.sample(500, 0, 3000))
    assert len(np.unique(sample, axis=0)) == 500
    np.testing.assert_array_equal(rows.sample(9999, 0, 1024), vectors[:3000])


def test_exact_neighbours_of_prefixes(file, curved, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "BLOCK", 700)
    # No sum of these is rounded, so that both find the same ties.
    vectors, queries = (np.round(256 * rows) / 256 for rows in (np.load(file), curved[:40]))
    np.save(tmp_path / "rounded.npy", vectors)
    found = exact_prefixes(tmp_path / "rounded.npy", queries, 10, [900, 1400, N])
    for n, exact in found.items():
        wanted = exact_neighbours(vectors[:n], queries, 10)
        np.testing.assert_array_equal(exact.items, wanted.items)
        np.testing.assert_array_equal(exact.hits, wanted.hits)
        assert exact.recall(wanted.items).mean() == 1


def test_exact_neighbours_count_ties(tmp_path):
    vectors = np.tile(np.eye(4, dtype="f4"), (5, 1))
    np.save(tmp_path / "v.npy", vectors)
    exact = exact_prefixes(tmp_path / "v.npy", vectors[:1], 2, [20])[20]
    assert exact.recall(np.array([[8, 16]])).tolist() == [1.0]
    assert exact.recall(np.array([[8, 17]])).tolist() == [0.5]


def test_more_neighbours_than_items_is_a_named_error(file, curved):
    with pytest.raises(SpecificationError):
        exact_prefixes(file, curved[:40], 50, [40])
