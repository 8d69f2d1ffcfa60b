"""A whole sweep in its processes, at a size of seconds: rows, bad specifications, no torch; the export. 12 s."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from nanorecsys import evaluation
from nanorecsys.ann import analysis, corpus, figures, specs
from nanorecsys.ann.errors import AnnError, NeighboursError, VectorsError
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.hdf5 import export_hdf5
from nanorecsys.ann.sweep import Settings, Sweep
from nanorecsys.data import Histories, Interactions
from nanorecsys.evaluation import Task
from tests.ann.vectors import clustered, few_directions, users

N, D, K, USERS = 800, 32, 10, 30


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    items = (
        np.concatenate([rng.permutation(N)[:9] for _ in range(USERS)])
        .astype(np.int32)
        .reshape(USERS, 9)
    )
    seen = Histories(np.arange(USERS + 1) * 8, items[:, :8].ravel())
    targets = Histories(np.arange(USERS + 1), items[:, 8].copy())
    user = np.repeat(np.arange(USERS, dtype=np.int32), 8)
    known = Interactions(
        user, seen.items, np.ones(len(user), np.float32), np.tile(np.arange(8), USERS)
    )
    return Task("leave_one_out/test", known, seen, targets, USERS, N)


@pytest.fixture(scope="module")
def queries(task):
    histories, who = corpus.user_prefixes(task, 2)
    return corpus.user_queries(histories, who, lambda h: users(len(h.lengths), D))


@pytest.fixture(scope="module")
def swept(tmp_path_factory, task, queries):
    searched = corpus.Corpus(clustered(N, D), N, "")
    settings = Settings(k=K, points=2, rounds=2, queries=30, threads=1)
    sweep = Sweep(tmp_path_factory.mktemp("sweep"), searched, queries, task, settings)
    given = ["IVF8,SQ8", "PQ7np", "Nope", "IVF900,Flat", "usearch:M8", "Users8,PQ8x4fs,RFlat"]
    built, failures = sweep.build(specs.choose("core", given))
    return searched, sweep, built, failures, sweep.measure(built)


def test_bad_specifications_are_written_down_by_name_and_the_rest_goes_on(swept):
    _, _, built, failures, measured = swept
    assert list(built) == ["Flat", "IVF8,SQ8", "usearch:M8"]
    assert [(f.factory, f.error) for f in failures] == [
        ("PQ7np", "DivisibilityError"),
        ("Nope", "FactoryError"),
        ("IVF900,Flat", "ListsError"),
        ("Users8,PQ8x4fs,RFlat", "DirectionsError"),
    ]
    assert all(f.message for f in failures)
    assert not measured.failures


def test_every_point_has_its_raw_rows(swept, queries):
    _, _, built, _, measured = swept
    assert measured.points["factory"].to_list() == [
        "Flat",
        "IVF8,SQ8",
        "IVF8,SQ8",
        "usearch:M8",
        "usearch:M8",
    ]
    rows, points = measured.rows, 5
    assert len(rows["accuracy"]) == points * len(queries.vectors)
    assert len(rows["ranks"]) == points * USERS
    assert len(rows["latency"]) == points * 2 * 30
    assert len(rows["loads"]) == len(built) * 2
    assert rows["latency"]["ns"].min() > 0
    assert set(rows["reads"]["point"]) == {0, 1, 2}
    assert all(b.peak_bytes >= 0 and b.index_bytes > N for b in built.values())


def test_flat_is_exact_and_ranks_like_the_studys_evaluation(swept, queries, task):
    searched, _, built, _, measured = swept
    points = analysis.operating_points(measured, built, queries, task, searched, K)
    assert (points[0].recall_k, points[0].worst_decile) == (1.0, 1.0)
    assert points[1].recall_k < points[2].recall_k
    assert points[1].worst_decile < points[1].recall_k
    scorer = evaluation.DotProduct(queries.whole, searched.vectors)
    expected = evaluation.evaluate(scorer, task.targets, task.seen, N, k_max=20)
    for metric in ("hitrate@10", "ndcg@10"):
        own = analysis.evaluation(measured.rows["ranks"], 0, task, N)
        assert evaluation.value(own, metric) == pytest.approx(evaluation.value(expected, metric))
    assert points[0].hitrate == pytest.approx(evaluation.value(expected, "hitrate@10"))


def test_finalists_are_measured_again_taking_turns(swept, queries, task):
    searched, sweep, built, _, measured = swept
    points = analysis.operating_points(measured, built, queries, task, searched, K)
    chosen = measured.points.filter(measured.points["factory"] != "IVF8,SQ8")
    again = sweep.confirm(built, chosen, rounds=2)
    confirmed = analysis.confirmed_points(again, points)
    assert [p.factory for p in confirmed] == ["Flat", "usearch:M8", "usearch:M8"]
    assert confirmed[0].times_flat == 1
    assert set(again.rows["latency"]["point"]) == {-1, 0, 3, 4}
    assert not any(p.parts_ms for p in confirmed)


def test_a_finalist_with_lists_is_taken_apart_by_as_many_queries_as_the_whole(swept, queries, task):
    searched, sweep, built, _, measured = swept
    points = analysis.operating_points(measured, built, queries, task, searched, K)
    chosen = measured.points.filter(measured.points["factory"] != "usearch:M8")
    again = sweep.confirm(built, chosen, rounds=2)
    flat, narrow, wide = analysis.confirmed_points(again, points)
    assert not flat.parts_ms
    assert (
        list(narrow.parts_ms)
        == list(wide.parts_ms)
        == ["further lists", "tables and one list", "centroids"]
    )
    rows = again.rows["layers"]
    assert rows.group_by("point", "adds").len()["len"].unique().to_list() == [2 * 30]
    whole = (
        rows.filter((rows["point"] == 2) & (rows["adds"] == "further lists"))["ns"].median() / 1e6
    )
    assert sum(wide.parts_ms.values()) == pytest.approx(whole)


def test_without_flat_or_with_too_few_vectors_nothing_is_measured(tmp_path, queries):
    sweep = Sweep(
        tmp_path, corpus.Corpus(clustered(50, D), 50, ""), queries, None, Settings(k=K, threads=1)
    )
    with pytest.raises(AnnError, match="the baseline Flat was not built"):
        sweep.build([specs.Specification("Nope", "none")])
    with pytest.raises(NeighboursError):
        Sweep(tmp_path, corpus.Corpus(clustered(50, D), 50, ""), queries, None, Settings(k=51))


def test_energy_is_a_share_by_direction_and_the_page_says_how_much_is_kept():
    measured, items = few_directions(300, D), clustered(N, D)
    own, taken = corpus.principal(items), corpus.principal(few_directions(80, D, seed=3))
    curves = {"users": corpus.energy(measured, taken), "items": corpus.energy(items, taken)}
    assert all(c[-1] == pytest.approx(1) and (np.diff(c) >= 0).all() for c in curves.values())
    assert curves["users"][5] > 0.9 > 0.6 > curves["items"][5]
    assert corpus.energy(items, own)[5] > curves["items"][5]
    told = analysis.energy_sentence(curves, [6, 8, 32])
    assert told.startswith(
        f"The first 6 and 32 of 32 directions hold {curves['users'][5]:.0%} and 100% of the length"
    )
    assert "The first 2 and 16 of" in analysis.energy_sentence(curves, [])
    (axis,) = figures.energy(curves, [6, 8], "title").axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["users", "items"]


def test_users_set_apart_are_fitted_on_by_file_and_none_of_them_is_measured(tmp_path, task):
    apart, measured = corpus.set_apart(task, 0.2, seed=1)
    assert (len(apart), len(measured)) == (6, 24)
    assert sorted([*apart, *measured]) == list(range(USERS))
    assert corpus.set_apart(task, 0.2, seed=2)[0].tolist() != apart.tolist()
    assert not len(corpus.set_apart(task, 0)[0])
    for share in (1.0, -0.1):
        with pytest.raises(AnnError, match="training_users is"):
            corpus.set_apart(task, share)

    histories, who = corpus.user_prefixes(task, 2, apart)
    first = histories.items[: histories.offsets[1]]
    assert first.tolist() == task.seen.items[8 * apart[0] : 8 * apart[0] + 4].tolist()
    training, queries = (
        corpus.user_queries(
            *corpus.user_prefixes(task, 2, whom), lambda h: users(len(h.lengths), D)
        )
        for whom in (who, measured)
    )
    searched, settings = (
        corpus.Corpus(clustered(N, D), N, ""),
        Settings(k=K, points=1, rounds=1, queries=5, threads=1),
    )
    sweep = Sweep(tmp_path / "sweep", searched, queries, task, settings, training)
    built, failures = sweep.build(specs.choose("core", ["Users8,PQ8x4fs,RFlat"]))
    assert not failures
    points = analysis.operating_points(sweep.measure(built), built, queries, task, searched, K)
    assert [p.factory for p in points] == ["Flat", "Users8,PQ8x4fs,RFlat"]
    assert 0.3 < points[1].recall_k < 1 == points[0].recall_k
    with pytest.raises(AnnError, match="24 users are both fitted on and measured"):
        Sweep(tmp_path / "other", searched, queries, task, settings, queries)


def test_nothing_of_the_package_brings_torch_along():
    names = "analysis chapter command corpus exact figures hdf5 indexes limits measure_worker build_worker sweep"
    code = f"import sys; {'; '.join(f'import nanorecsys.ann.{n}' for n in names.split())}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_prefixes_are_the_beginnings_of_each_history(task):
    histories, who = corpus.user_prefixes(task, 3)
    assert who.tolist() == list(range(USERS))
    for p, share in enumerate((3, 6, 8)):
        for u in (0, 7, USERS - 1):
            row = p * USERS + u
            own = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            assert own.tolist() == task.seen.items[8 * u : 8 * u + share].tolist()
    with pytest.raises(AnnError, match="prefixes is 0"):
        corpus.user_prefixes(task, 0)


def test_a_corpus_says_what_of_it_is_synthetic():
    real = clustered(50, D)

    def generate(vectors, n, *, generator, seed):
        return np.concatenate([vectors, clustered(n - len(vectors), D, seed + 1)])

    grown = corpus.expand_corpus(real, 80, "local", generate)
    assert np.array_equal(grown.vectors[:50], real)
    assert "80 vectors of 32 dimensions, 30 of them synthetic (local)" in str(grown)
    for same in (0, 50):
        assert str(corpus.expand_corpus(real, same, "local", generate)).endswith("all of them real")
    with pytest.raises(AnnError, match="n_items is 40"):
        corpus.expand_corpus(real, 40, "local", generate)
    with pytest.raises(VectorsError, match="norm 2"):
        corpus.expand_corpus(2 * real, 80, "local", generate)


def test_the_exported_file_has_the_layout_of_ann_benchmarks(tmp_path):
    vectors, queries = clustered(300, D), users(12, D)
    path = tmp_path / "out" / "vectors.hdf5"
    export_hdf5(path, vectors, queries, k=20)
    with h5py.File(path) as file:
        assert set(file) == {"train", "test", "neighbors", "distances"}
        assert (file.attrs["distance"], file.attrs["dimension"], file.attrs["type"]) == (
            "angular",
            D,
            "dense",
        )
        assert (file["train"].dtype, file["neighbors"].dtype, file["distances"].dtype) == (
            "f4",
            "i4",
            "f4",
        )
        assert np.array_equal(file["train"], vectors)
        assert np.array_equal(file["test"], queries)
        neighbors, distances = file["neighbors"][:], file["distances"][:]
    assert neighbors.shape == distances.shape == (12, 20)
    assert (np.diff(distances, axis=1) >= 0).all()
    cosine = 1 - np.einsum("qkd,qd->qk", vectors[neighbors], queries)
    assert distances == pytest.approx(cosine, abs=1e-6)
    assert np.array_equal(neighbors, exact_neighbours(vectors, queries, 20).items)


def test_an_export_that_cannot_be_leaves_no_file(tmp_path):
    path = tmp_path / "vectors.hdf5"
    for vectors, queries, error in (
        (clustered(30, D), users(3, 16), AnnError),
        (clustered(30, D), 2 * users(3, D), VectorsError),
        (clustered(5, D), users(3, D), NeighboursError),
    ):
        with pytest.raises(error):
            export_hdf5(path, vectors, queries, k=20)
    assert not list(tmp_path.iterdir())
