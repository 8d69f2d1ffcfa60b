"""Every specification builds, searches and is saved; every mistake has its named error. 15 s."""

import re

import numpy as np
import pytest

from nanorecsys.ann import specs
from nanorecsys.ann.errors import AnnError, VectorsError
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.indexes import (
    build_index,
    check_neighbours,
    users_projection,
)
from nanorecsys.serving.errors import SettingError, SpecificationError
from nanorecsys.serving.retrieval import library, load_index
from nanorecsys.system.blas import faiss
from tests.ann.vectors import clustered, few_directions, users

D, K = 32, 10


def small(factory):
    """A specification of the table with lists and parts that fit 1,200 vectors of 32 dimensions."""
    factory = re.sub(r"IVF\d+", "IVF64", re.sub(r"(Users|Items)\d+", r"\g<1>32", factory))
    factory = re.sub(r"PQ\d+x4", "PQ16x4", factory)
    return re.sub(r"PQ\d+np", "PQ8x4np", factory)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def vectors():
    return clustered(1200, D)


@pytest.fixture(scope="module")
def exact(vectors):
    return exact_neighbours(vectors, users(40, D), K)


# LoRANN takes 64 dimensions: tests/serving/test_retrieval.py builds its indexes.
SMALL = [small(s.factory) for s in specs.TABLE if s.family != "LoRANN"]


@pytest.mark.parametrize("factory", dict.fromkeys(SMALL))
def test_every_specification_builds_finds_more_with_its_dearest_setting_and_survives_saving(
    factory, vectors, exact, tmp_path
):
    index = build_index(factory, vectors, users(50, D, seed=9))
    grid, queries = specs.search_settings(factory, 8), users(40, D)
    recalls = []
    for search in (grid[0], grid[-1]):
        index.set(search)
        scores, items = index.search(queries, K)
        assert items.shape == scores.shape == (40, K)
        recalls.append(exact.recall(items).mean())
    assert recalls[1] >= recalls[0]
    assert recalls[1] > 0.35  # chance is below 0.01; PQ of 8 parts, the coarsest, finds 0.44
    index.save(tmp_path / "index")
    again = load_index(tmp_path / "index")
    again.set(grid[-1])
    assert np.array_equal(again.search(queries, K)[1], items)


def test_the_table_has_what_the_study_promises():
    factories = {s.factory for s in specs.TABLE}
    assert {"Flat", "SQfp16", "SQ8", "IVF256,Flat", "IVF256,SQ8", "HNSW32"} <= factories
    assert {library(factory) for factory in factories} == {"faiss", *specs.OPTIONS}
    assert len(factories) == len(specs.TABLE)
    assert {s.family for s in specs.choose("core")} == {s.family for s in specs.TABLE}
    assert specs.grid("IVF256,SQ8") == [f"nprobe={2**i}" for i in range(8)]


def test_given_specifications_replace_the_table_and_flat_is_always_first():
    chosen = specs.choose("core", ["IVF256,SQ8", "IVF9,Flat"])
    assert [(s.factory, s.family) for s in chosen] == [
        ("Flat", "Flat"),
        ("IVF256,SQ8", "IVF-SQ8"),
        ("IVF9,Flat", specs.OTHER),
    ]
    with pytest.raises(AnnError, match="no table 'most'"):
        specs.choose("most")
    assert specs.choose("core", [3])[1].factory == "3"  # it is recorded as one that cannot be built


@pytest.mark.parametrize("factory", [s.factory for s in specs.TABLE])
@pytest.mark.parametrize("points", [1, 3, 5, 8, 50])
def test_no_specification_gets_more_settings_than_the_budget(factory, points):
    grid = specs.search_settings(factory, points)
    assert 1 <= len(grid) <= points
    assert len(set(grid)) == len(grid)


@pytest.mark.parametrize(
    ("factory", "error", "told"),
    [
        ("Nope", SpecificationError, "does not make an index 'Nope'"),
        ("", SpecificationError, "does not make an index ''"),
        ("PQ7np", SpecificationError, "'PQ7np' for 32 dimensions"),
        ("IVF16,PQ12x4fs,RFlat", SpecificationError, "should be a multiple of"),
        ("OPQ8_16,IVF16,PQ32x4np", SpecificationError, "should be a multiple of"),
        ("OPQ5,PQ5np", SpecificationError, "should be a multiple of"),
        ("IVF5000,Flat", SpecificationError, "as large as number of clusters (5000)"),
        ("Users0,PQ8x4fs", SpecificationError, "does not make an index"),
        ("Items0,PQ8x4fs", SpecificationError, "does not make an index"),
        ("Users33,PQ33x4fs", SpecificationError, "keeps 33 directions of 32"),
        ("Users16,PQ32x4fs", SpecificationError, "should be a multiple of"),
        ("Users16,Flat", SpecificationError, "fitted on users' vectors, and there are none"),
        ("Users16,Nope", SpecificationError, "does not make an index 'Users16,Nope'"),
        ("IVF16,Users16,Flat", SpecificationError, "does not make an index"),
        ("annoy:trees=3", SpecificationError, "no library 'annoy'"),
        ("scann:trees=3", SpecificationError, "unknown field `trees`"),
        ("scann:leaves=many", SettingError, "is not a search setting"),
        ("scann:vectors=4", SpecificationError, "Invalid enum value 4"),
        ("scann:leaves=5000", SpecificationError, "5000 parts for 1200 vectors"),
        ("lorann:clusters=5000", SpecificationError, "5000 parts for 1200 vectors"),
    ],
)
def test_a_specification_that_does_not_fit_has_a_named_error(factory, error, told, vectors):
    with pytest.raises(error, match=re.escape(told)):
        build_index(factory, vectors)


def test_a_projection_is_orthonormal_and_keeps_most_of_what_users_have(vectors):
    training, measured = few_directions(80, D), few_directions(200, D, seed=3)
    kept = users_projection("Users6,", vectors, training)
    assert kept @ kept.T == pytest.approx(np.eye(6), abs=1e-5)
    share = ((measured @ kept.T) ** 2).sum(axis=1).mean()
    assert share == pytest.approx((measured[:, -6:] ** 2).sum(axis=1).mean(), abs=0.02)
    assert share > 0.9
    everything = users_projection(f"Users{D},", vectors, training)
    scores = (measured @ everything.T) @ (vectors @ everything.T).T
    np.testing.assert_allclose(scores, measured @ vectors.T, atol=1e-5)
    alike = ((measured @ kept.T) ** 2).mean(axis=0)
    assert alike.max() < 4 * alike.min()


def test_directions_that_no_user_takes_come_in_the_order_of_the_items(vectors):
    """Two users span two directions; the third one is the items' longest of the rest."""
    two = few_directions(2, D)
    kept = users_projection("Users3,", vectors, two)
    basis = np.linalg.qr(two.T.astype(np.float64))[0]
    rest = vectors - vectors @ basis @ basis.T
    longest = np.linalg.eigvalsh(rest.T @ rest)[-1] / len(vectors)
    third = ((rest @ kept.T) ** 2).sum() / len(vectors)
    assert third == pytest.approx(longest, rel=0.05)


@pytest.mark.parametrize("factory", ["Users6,Flat", "Users6,Flat,RFlat", "Users6,PQ6x4fs,RFlat"])
def test_directions_of_users_find_more_than_as_many_of_items(factory, vectors):
    measured = few_directions(100, D, seed=3)
    exact = exact_neighbours(vectors, measured, K)
    recalls = []
    for fitted_on in (few_directions(80, D), vectors):
        index = build_index(factory, vectors, users=fitted_on)
        index.set("k_factor_rf=2" if "RFlat" in factory else "")
        recalls.append(exact.recall(found := index.search(measured, K)[1]).mean())
    assert recalls[0] > recalls[1] + 0.2
    control = build_index(factory.replace("Users", "Items"), vectors)
    control.set("k_factor_rf=2" if "RFlat" in factory else "")
    assert np.array_equal(control.search(measured, K)[1], found)


def test_a_projected_index_is_one_index_that_answers_whole_vectors_and_refines_with_them(
    vectors, tmp_path
):
    measured = few_directions(30, D, seed=3)
    index = build_index("Users8,IVF16,PQ8x4fs,RFlat", vectors, users=few_directions(80, D))
    index.save(tmp_path / "index")
    again = faiss.read_index(str(tmp_path / "index"))
    assert (again.d, again.ntotal) == (D, len(vectors))
    faiss.ParameterSpace().set_index_parameters(again, "nprobe=16,k_factor_rf=120")
    scores, items = again.search(measured, K)
    exact = exact_neighbours(vectors, measured, K)
    assert exact.recall(items).mean() == 1
    expected = np.take_along_axis(measured @ vectors.T, exact.items, axis=1)
    assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        (np.empty((0, D), np.float32), SpecificationError, "there are none"),
        (2 * users(5, D), VectorsError, "norm 2"),
    ],
)
def test_users_vectors_that_cannot_be_fitted_on_have_a_named_error(wrong, error, told, vectors):
    with pytest.raises(error, match=re.escape(told)):
        build_index("Users8,Flat", vectors, users=wrong)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda v: np.where(np.arange(len(v))[:, None] == 7, np.nan, v).astype(np.float32),
            "vector 7 has norm nan",
        ),
        (
            lambda v: (v * np.where(np.arange(len(v)) == 3, 2, 1)[:, None]).astype(np.float32),
            "vector 3 has norm 2",
        ),
        (lambda v: v.astype(np.float64), "got float64"),
        (lambda v: v[0], r"got float32 \(32,\)"),
        (lambda v: v[:0], r"got float32 \(0, 32\)"),
    ],
)
def test_vectors_that_are_not_finite_unit_and_float32_have_a_named_error(change, told, vectors):
    with pytest.raises(VectorsError, match=told):
        build_index("Flat", change(vectors))


def test_neighbours_beyond_the_vectors_have_a_named_error():
    check_neighbours(5, 5)
    with pytest.raises(SpecificationError):
        check_neighbours(6, 5)
    with pytest.raises(SpecificationError):
        check_neighbours(0, 5)


def test_a_setting_that_the_index_lacks_has_a_named_error(vectors):
    with pytest.raises(SettingError, match="does not fit"):
        build_index("Flat", vectors).set("nprobe=4")
    with pytest.raises(SettingError, match="not a search setting"):
        specs.parse_setting("nprobe:4")


def test_an_index_of_another_library_becomes_flat_in_a_catalogue_with_too_few_items():
    for factory in ("scann:leaves=128", "lorann:clusters=128,dims=96"):
        assert specs.fitted(factory, "set", 128 * specs.FEWEST_PER_LIST) == (factory, "set")
        assert specs.fitted(factory, "set", 127 * specs.FEWEST_PER_LIST) == ("Flat", "")
