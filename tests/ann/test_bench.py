"""The bench, its child processes and the corpus on small vectors. 10 s.

A process takes a second to start. So most tests call in this one what the bench calls in a child.
"""

import gc
import os
from itertools import groupby

import numpy as np
import pytest

from nanorecsys import evaluation
from nanorecsys.ann import analysis, bench, corpus, specs
from nanorecsys.ann.bench import (
    BenchSettings,
    build,
    in_child,
    measure_served,
    measure_table,
    time_in_turns,
)
from nanorecsys.ann.errors import AnnError, CrashError, VectorsError
from nanorecsys.ann.exact import Queries, exact_neighbours
from nanorecsys.ann.limits import measure_limits
from nanorecsys.ann.result import Finalist, to_records
from nanorecsys.data import Histories, Interactions
from nanorecsys.evaluation import Task
from nanorecsys.system.blas import faiss
from tests.ann.children import die, look_around
from tests.ann.vectors import clustered, users
from tests.libraries import NEEDS, remove
from tests.orphans import child_ends

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
    return Task(known, seen, targets, USERS, N)


@pytest.fixture(scope="module")
def queries(task):
    return corpus.user_queries(
        task, np.arange(USERS, dtype=np.int32), lambda h: users(len(h.lengths), D)
    )


@pytest.fixture(scope="module")
def workload(queries):
    """Queries and their exact neighbours, as the bench takes them."""
    return queries.vectors, exact_neighbours(clustered(N, D), queries.vectors, K)


@pytest.fixture(scope="module")
def searched():
    return clustered(N, D)


@pytest.fixture(scope="module", autouse=True)
def here():
    """Call functions in this process in place of `bench.in_child`."""
    threads = faiss.omp_get_max_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "in_child", lambda work, *arguments, threads: work(*arguments))
        yield
    gc.enable()
    faiss.omp_set_num_threads(threads)


SETTINGS = BenchSettings(k=K, points=2, rounds=2, queries=30, threads=1)
ONE_ROUND = BenchSettings(k=K, points=1, rounds=1, queries=5, threads=1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, searched, workload):
    given = ["IVF8,SQ8", "PQ7np", "Nope", "IVF900,Flat", "HNSW8", "Users8,PQ8x4fs,RFlat"]
    folder = tmp_path_factory.mktemp("bench")
    chosen = specs.choose("core", given)
    return folder, measure_table(folder, chosen, searched, *workload, SETTINGS)


@pytest.fixture(scope="module")
def points(measured):
    return analysis.operating_points(measured[1], USERS // 2)


def test_bad_specifications_are_recorded_by_name_and_the_rest_goes_on(measured):
    found = measured[1]
    assert found.points["factory"].unique().tolist() == ["Flat", "IVF8,SQ8", "HNSW8"]
    assert [(f.factory, f.error) for f in found.failures] == [
        ("PQ7np", "SpecificationError"),
        ("Nope", "SpecificationError"),
        ("IVF900,Flat", "SpecificationError"),
        ("Users8,PQ8x4fs,RFlat", "SpecificationError"),
    ]
    assert all(f.message for f in found.failures)


def test_a_library_that_is_absent_is_recorded_with_the_command_that_installs_it(
    tmp_path, searched, workload, monkeypatch
):
    for name in ("scann", "lorann"):
        remove(name, monkeypatch)
    chosen = specs.choose("core", ["IVF8,SQ8", "scann:leaves=8", "lorann:clusters=8"])
    found = measure_table(tmp_path, chosen, searched, *workload, ONE_ROUND)
    assert found.points["factory"].unique().tolist() == ["Flat", "IVF8,SQ8"]
    assert [(f.error, f.message) for f in found.failures] == [
        ("LibraryError", "the library scann is not installed here: pip install scann"),
        (
            "LibraryError",
            "the library lorann is not installed here: pip install -e '.[lorann]'",
        ),
    ]


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param("scann:leaves=8", marks=NEEDS["scann"]),
        pytest.param("lorann:clusters=8,dims=32", marks=NEEDS["lorann"]),
    ],
)
def test_other_libraries_pass_the_same_bench(factory, tmp_path, monkeypatch):
    """Memory is told apart in a process that measures alone."""

    def alone(work, *arguments, threads):
        return in_child(work, *arguments, threads=threads) if work is measure else work(*arguments)

    measure = bench._measure
    monkeypatch.setattr(bench, "in_child", alone)
    vectors, queries = clustered(N, 64), users(40, 64)
    exact = exact_neighbours(vectors, queries, K)
    found = measure_table(
        tmp_path, specs.choose("core", [factory]), vectors, queries, exact, SETTINGS
    )
    assert not found.failures
    points = analysis.operating_points(found, 20).set_index("factory")
    own = points.loc[factory]
    assert len(own) == SETTINGS.points
    assert own["recall_k"].iloc[-1] > 0.95
    columns = ["build_s", "save_s", "load_ms", "bytes_a_vector", "p50_ms", "queries_per_s"]
    assert (own[columns] > 0).all(axis=None)
    assert (own["bytes_a_vector"] > 4 * 64).all()
    assert (own["rss_mib"] > 0.5 * N * own["bytes_a_vector"] / 2**20).all()


def test_every_point_has_its_raw_rows(measured, queries):
    found = measured[1]
    assert found.points["point"].tolist() == [0, 1, 2, 3, 4]
    assert found.points["search"].tolist() == [
        "",
        "nprobe=1",
        "nprobe=8",
        "efSearch=100",
        "efSearch=512",
    ]
    rows = found.rows
    assert len(rows["accuracy"]) == 5 * len(queries.vectors)
    assert len(rows["latency"]) == 5 * 2 * 30
    assert rows["latency"].groupby(["point", "round"])["query"].nunique().unique() == [30]
    assert (found.points["bytes_a_vector"] > D).all()


def test_flat_is_exact_and_more_probes_find_more(points):
    assert (points["recall_k"][0], points["sure"][0]) == (1, 1)
    assert points["recall_k"][1] < points["recall_k"][2]
    assert points["sure"][1] < points["sure"][2]


def test_a_served_index_is_ranked_like_the_studys_evaluation(queries, task, searched):
    given = (searched, queries, K)
    rows = measure_served("IVF8,SQ8", "nprobe=1", *given)
    assert rows["user"].tolist() == queries.users.tolist()
    assert 0 < rows["recall"].mean() < 0.9
    assert measure_served("IVF8,SQ8", "nprobe=8", *given)["recall"].mean() > 0.9
    scorer = evaluation.DotProduct(queries.vectors, searched)
    expected = evaluation.evaluate(scorer, task.targets, task.seen, N, k_max=20)
    of_user = evaluation.values(expected, "ndcg@10")
    np.testing.assert_allclose(analysis.ndcg(rows["exact_rank"].to_numpy()), of_user)
    flat = measure_served("Flat", "", *given)
    assert (flat["rank"] == flat["exact_rank"]).all()
    assert (flat["recall"] == 1).all()


def count_turns(of):
    """Count the series of equal values."""
    return sum(1 for _ in groupby(of))


def test_settings_take_turns_by_rounds(measured):
    latency = measured[1].rows["latency"]
    for _, own in latency[latency["point"] > 0].groupby(latency["point"] > 2):
        assert own["round"].is_monotonic_increasing
        assert count_turns(own["point"]) > 2
    assert measured[1].points["load_ms"].notna().all()


def test_finalists_are_timed_again_in_turns(measured, points, queries):
    chosen = points[points["factory"] != "IVF8,SQ8"]
    given = (measured[0], chosen, queries.vectors, SETTINGS, 2, 45)
    latencies = time_in_turns(*given)
    assert latencies.groupby("point").size().to_dict() == dict.fromkeys((0, 3, 4), 90)
    repeats = latencies.groupby(["point", "round", "query"]).size()
    assert set(repeats) == {1, 2}  # each query once before any comes again
    assert count_turns(latencies["point"]) > 2 * 3  # more often than once per round
    found = analysis.confirmed(chosen, latencies)
    assert found["factory"].tolist() == ["Flat", "HNSW8", "HNSW8"]
    assert found["times_flat"].iloc[0] == 1
    records = to_records(found, Finalist)
    assert [r.p50_ms.middle for r in records] == found["p50_ms"].tolist()


def test_a_built_index_is_not_built_again(measured, searched, workload):
    folder, found = measured
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    chosen = specs.choose("core", ["IVF8,SQ8"])
    second = measure_table(folder, chosen, searched, *workload, SETTINGS)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert second.points["build_s"].tolist() == found.points["build_s"][:3].tolist()
    recall, before = (
        of.rows["accuracy"].set_index(["point", "query"])["recall_k"] for of in (second, found)
    )
    assert recall.to_dict() == before[recall.index].to_dict()


def test_an_index_of_other_vectors_is_built_anew(measured, workload):
    folder = measured[0]
    before = set(folder.glob("*.index"))
    other = clustered(N, D, seed=5)
    measure_table(folder, specs.choose("core", ["SQ8"])[:1], other, *workload, ONE_ROUND)
    assert len(set(folder.glob("*.index")) - before) == 1


def test_a_child_ends_when_its_parent_is_killed():
    assert child_ends(
        "from nanorecsys.ann.bench import in_child\n"
        "from tests.ann.children import tell_pid_and_wait\n"
        "in_child(tell_pid_and_wait, threads=1)"
    )


def test_a_child_that_dies_is_a_named_failure_and_leaves_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "in_child", in_child)
    with pytest.raises(CrashError, match="_build died in its process"):
        build(tmp_path / "0.index", die, threads=1)
    assert not list(tmp_path.iterdir())


def failing(monkeypatch, factory, name):
    """Let the builds of an index or its searches die."""
    whole, tried = getattr(bench, name), []

    def die(path, *arguments, **options):
        tried.append(path.name)
        if path.name.startswith(factory):
            raise CrashError("it died", "Try again.")
        return whole(path, *arguments, **options)

    monkeypatch.setattr(bench, name, die)
    return tried


@pytest.mark.parametrize("step", ["build", "_measure"])
def test_a_crash_is_recorded_and_the_sweep_goes_on(step, tmp_path, searched, workload, monkeypatch):
    failing(monkeypatch, "SQ8", step)
    chosen = specs.choose("core", ["SQ8", "SQ4"])
    found = measure_table(tmp_path, chosen, searched, *workload, ONE_ROUND)
    assert [(f.factory, f.error) for f in found.failures] == [("SQ8", "CrashError")]
    assert found.points["factory"].tolist() == ["Flat", "SQ4"]
    for frame in found.rows.values():
        assert set(frame["point"]) == set(found.points["point"]) == {0, 1}


def test_without_flat_nothing_else_is_tried(tmp_path, searched, workload, monkeypatch):
    tried = failing(monkeypatch, "Flat", "build")
    with pytest.raises(AnnError, match="the baseline Flat was not measured: it died"):
        measure_table(tmp_path, specs.choose("core", ["SQ8"]), searched, *workload, SETTINGS)
    assert len(tried) == 1


def test_users_are_split_into_three_groups_without_a_common_user(task):
    groups = corpus.split_users(task, seed=1)
    assert [len(group) for group in groups] == [6, 12, 12]
    assert sorted(np.concatenate(groups)) == list(range(USERS))
    assert corpus.split_users(task, seed=2)[0].tolist() != groups[0].tolist()


def test_projections_are_fitted_on_other_users(tmp_path, searched, workload):
    chosen = specs.choose("core", ["Users8,PQ8x4fs,RFlat"])
    found = measure_table(
        tmp_path, chosen, searched, *workload, ONE_ROUND, users=users(80, D, seed=5)
    )
    assert not found.failures
    recall = found.rows["accuracy"].groupby("point")["recall_k"].mean()
    assert 0.3 < recall[1] < 1 == recall[0]


def test_limits_are_read_as_the_smallest_working_set_that_holds_them():
    limits = measure_limits((1.0, 2.0), 1)
    assert [b.working_set_mib for b in limits.bandwidth] == [1.0, 2.0]
    first, second = (b.gb_per_s for b in limits.bandwidth)
    assert limits.read_ms(2**20) == pytest.approx(2**20 / first / 1e6)
    assert limits.read_ms(2**22) == pytest.approx(2**22 / second / 1e6)


def test_a_child_has_the_threads_it_is_given_and_does_not_load_torch():
    modules, environment = in_child(look_around, threads=3)
    assert {"faiss", "nanorecsys.ann.bundle"} <= set(modules)
    assert not {"torch", "pytest"} & set(modules)  # pytest: nothing is inherited
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert os.environ.get("OMP_WAIT_POLICY") != "PASSIVE"


def test_each_user_has_one_query_after_the_whole_history(task):
    asked = np.array([7, 0, 29], np.int32)
    encoded = []

    def encode(histories):
        encoded.append(histories)
        return users(len(histories.lengths), D)

    found = corpus.user_queries(task, asked, encode)
    assert found.vectors.shape == (3, D)
    for row, user in enumerate(asked):
        for histories in (found.seen, encoded[0]):
            own = histories.items[histories.offsets[row] : histories.offsets[row + 1]]
            assert own.tolist() == task.seen.items[8 * user : 8 * user + 8].tolist()
    assert found.targets.tolist() == task.targets.items[asked].tolist()
    with pytest.raises(VectorsError, match="norm 2"):
        corpus.user_queries(task, asked, lambda h: 2 * users(len(h.lengths), D))


@pytest.mark.parametrize("factory", ["IVF256,SQ8", "IVF256,PQ32np", "PQ8np", "HNSW16"])
def test_a_small_catalogue_is_served_by_an_index_that_fits_it(factory):
    """The recommended index was measured on more items, and with more neighbours."""
    real, queries = clustered(60, D), clustered(10, D, seed=1)
    nobody = Histories(np.zeros(11, np.int64), np.empty(0, np.int32))
    asked = Queries(np.arange(10), queries, nobody, np.arange(10))
    rows = bench.measure_served(factory, specs.search_settings(factory, 8)[-1], real, asked, k=100)
    assert rows["recall"].min() > 0.8


def test_a_corpus_says_what_of_it_is_synthetic():
    vectors = clustered(80, D)
    assert corpus.described(vectors, 50, "local").endswith("30 of them synthetic (local)")
    assert corpus.described(vectors, 80, "local").endswith("all of them real")
