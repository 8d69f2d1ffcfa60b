"""A reader's own data of four shapes: what the chapters size by the data.

All chapters take two minutes on each shape: `python tests/tiers.py --long` runs them, as does CI
every week. In every run of the tests, chapter 01 runs on one shape, and the functions that
divide a data set among samples, splits, indexes and users get all four, with random vectors in
place of a model's.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nanorecsys import data
from nanorecsys.ann import bench, corpus, specs
from nanorecsys.ann.exact import Queries
from nanorecsys.evaluation import make_task
from nanorecsys.loadtest.population import Workload, bootstrap_histories
from nanorecsys.scaleup import fidelity, generate
from nanorecsys.scaleup import specs as large
from nanorecsys.scaleup.datasets import RealCatalogue
from nanorecsys.study.layout import Layout, layout
from nanorecsys.training import analysis
from nanorecsys.training.baselines.tuning import tune_and_test

FOLDERS = layout()
D = 32
COLUMNS = "user=uid,item=sku,timestamp=t"
# Users, items, and the shortest and longest history.
SHAPES = {
    "tiny": (300, 60, 8, 8),
    "short": (1500, 400, 3, 5),
    "wide": (1500, 30_000, 30, 30),
    "text": (300, 200, 3, 60),
}
TASKS = ("leave_one_out", "last_10", "global_temporal")


def write_events(path: Path, shape: str) -> None:
    """A csv of events in which every item occurs, half of them of popular items."""
    users, items, shortest, longest = SHAPES[shape]
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest + 1, users)
    user = np.repeat(np.arange(users), lengths)
    count = len(user)
    popular = (items * rng.random(count) ** 4).astype(int)
    item = np.where(rng.random(count) < 0.5, popular, rng.permutation(np.arange(count) % items))
    table = pd.DataFrame({"uid": user, "sku": item}).drop_duplicates()
    table["t"] = 1_300_000_000 + rng.permutation(len(table)) * 600
    if shape == "text":
        table["uid"] = "customer-" + table["uid"].astype(str)
        table["sku"] = "shelf/" + table["sku"].astype(str) + "/é"
    table.to_csv(path, index=False)


def run_smoke(root: Path, shape: str, *arguments: str) -> Layout:
    """Run smoke on a shape by the command line, in a folder that has the clone's code."""
    folders = Layout(root)
    code = ("nanorecsys", "notebooks", "book", "server", "constraints.txt")
    for name in (*code, "_config.yml", "_toc.yml"):
        (folders.root / name).symlink_to(FOLDERS.root / name)
    path = folders.root / f"{shape}.csv"
    write_events(path, shape)
    own = ["-p", f"dataset={path}", "-p", f"columns={COLUMNS}"]
    own += ["-p", "sample_users=0", "-p", "second_dataset="]
    done = command(folders, "run", "smoke", *own, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return folders


def command(folders: Layout, *arguments: str) -> subprocess.CompletedProcess:
    """Run `nanorecsys` with arguments in its own process."""
    words = [sys.executable, "-c", "from nanorecsys.cli import main; main()", *arguments]
    variables = {"NANORECSYS_ROOT": str(folders.root), "PYTHONPATH": str(FOLDERS.root)}
    return subprocess.run(words, env=os.environ | variables, capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_every_chapter_runs_and_the_book_is_built(shape, tmp_path):
    folders = run_smoke(tmp_path, shape)
    chapters = [source.stem for source in sorted(FOLDERS.notebooks.glob("*.ipynb"))]
    left = [c for c in chapters if not (folders.run("smoke") / c / "result.json").is_file()]
    assert len(chapters) == 7
    assert left == []
    done = command(folders, "book", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = folders.build / "smoke" / "html" / "book" / "results"
    assert [c for c in chapters if not (pages / f"{c}.html").is_file()] == []


@pytest.fixture(scope="module", params=SHAPES)
def prepared(request, tmp_path_factory) -> data.prepared.Prepared:
    """The data set and its splits."""
    return prepare(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def vectors(prepared) -> np.ndarray:
    """A unit vector for each item."""
    return unit(len(prepared.dataset.items), seed=1)


@pytest.fixture(scope="module")
def task(prepared):
    split = prepared.splits["leave_one_out"]
    return make_task(prepared.dataset.interactions, split, "test")


def prepare(folder: Path, shape: str) -> data.prepared.Prepared:
    """Write and read a data set, and split it as chapter 01 does."""
    path = folder / f"{shape}.csv"
    write_events(path, shape)
    dataset = data.load_dataset(path, COLUMNS)
    events = dataset.interactions
    splits = (data.leave_one_out(events, 3), data.global_temporal(events, 0.1, 0.1))
    return data.prepared.Prepared(dataset, {split.name: split for split in splits})


def unit(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_first_chapter_leaves_the_data_set_and_its_splits(tmp_path):
    folders = run_smoke(tmp_path, "text", "--only", "01_data")
    left = data.load_prepared(folders.run("smoke") / "01_data")
    own = prepare(tmp_path, "text")
    assert left.dataset.interactions.ids_sha256 == own.dataset.interactions.ids_sha256
    assert {name: split.sha256 for name, split in left.splits.items()} == {
        name: split.sha256 for name, split in own.splits.items()
    }


def test_splits_too_short_for_the_data_are_left_out_of_all_data_sets(prepared, capsys):
    name, longest = prepared.dataset.name, SHAPES[prepared.dataset.name][3]
    found = analysis.splits_of({name: prepared, "same": prepared}, TASKS)
    expected = TASKS if longest >= 23 else ("leave_one_out", "global_temporal")
    assert [*found[name]] == [*found["same"]] == [*expected]
    assert ("last_10 is left out: no user has the 23 events" in capsys.readouterr().out) == (
        longest < 23
    )


def test_every_baseline_is_fitted(prepared):
    if len(prepared.dataset.items) > 1000:
        pytest.skip("a minute on a wide catalogue; EASE is refused by its own test")
    dataset = prepared.dataset
    split = prepared.splits["leave_one_out"]
    tuned = tune_and_test(dataset.interactions, split, 1, dataset.items)
    assert all(len(found.evaluation.rank) for found in tuned.values())


def test_the_catalogue_of_the_index_chapter_grows_with_the_data(vectors):
    made = generate(vectors, max(7000, len(vectors)), "local")
    assert np.array_equal(made[: len(vectors)], vectors)


@pytest.mark.parametrize(
    ("factory", "search"),
    [("IVF256,SQ8", "nprobe=64"), ("IVF256,PQ16np", "nprobe=8")],
)
def test_the_recommended_index_serves_the_catalogue(factory, search, vectors, task):
    users = np.flatnonzero(task.targets.lengths)[:40].astype(np.int32)
    targets = task.targets.items[task.targets.offsets[users]]
    asked = Queries(users, unit(len(users), seed=2), task.seen.take(users), targets)
    rows = bench.measure_served(factory, search, vectors, asked, k=100)
    assert len(rows) == len(users)
    if specs.fitted(factory, search, len(vectors)) == ("Flat", ""):
        assert (rows["recall"] == 1).all()


def test_the_users_are_enough_to_fit_choose_and_report(task):
    assert min(map(len, corpus.split_users(task))) >= 30


def test_the_held_out_test_runs_every_family_that_the_catalogue_can_train(vectors, task):
    listed = ["IVF(PQ16x4fs,RFlat),PQ16x4fsr,Refine(SQ8)", "IVF4096,PQ16np", "IVF64,SQ8"]
    families = large.families(listed, max(8000, len(vectors)), len(vectors))
    assert len(families) == (3 if len(vectors) >= 256 else 2)
    users = np.flatnonzero(task.targets.lengths)[:10]
    real = RealCatalogue("own", vectors, unit(10, seed=3), task.seen.take(users), unit(20, seed=4))
    test = fidelity.HeldOutTest(real, tuple(families.values()), 1, 1)
    kept, made = test.expanded("independent", 0)
    assert len(kept) >= min(50, len(vectors) // 2)
    assert len(made) == len(vectors)
    recalls = fidelity.train(test, fidelity.Training("independent", 0, 0, seed=0))
    assert {family for family, *_ in recalls} == families.keys()


def test_the_load_test_has_as_many_users_as_it_asks_for(prepared):
    own = data.histories(prepared.dataset.interactions)
    many = bootstrap_histories(own, 20_000, seed=0)
    assert len(many.lengths) == 20_000
    assert 0.9 < many.lengths.mean() / own.lengths.mean() < 1.1
    users, hot = Workload(len(many.lengths), 1000, cold_share=0.3).draw(500)
    assert 0 < hot.sum() < 500
    assert len(set(users[~hot].tolist())) == (~hot).sum()


@pytest.mark.parametrize(("users", "items"), [(40, 60), (60, 40)])
def test_a_data_set_that_is_too_small_is_refused_by_the_first_chapter(users, items, tmp_path):
    pairs = [(u, (u + step) % items) for u in range(users) for step in range(4)]
    table = pd.DataFrame(pairs, columns=["user", "item"]).assign(timestamp=range(4 * users))
    table.to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(data.DataError, match="the study needs 50 items and 50 such users"):
        data.check_size(data.load_dataset(tmp_path / "own.csv"), 3)


def test_a_run_on_a_data_set_that_is_too_small_ends_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(SHAPES, "few users", (40, 60, 8, 8))
    with pytest.raises(AssertionError, match="the study needs 50 items and 50 such users"):
        run_smoke(tmp_path, "few users")
    assert not list(tmp_path.rglob("02_training"))
