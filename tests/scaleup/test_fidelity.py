"""The held-out test catches what it has to catch. About 20 s."""

import pickle
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.data import Histories
from nanorecsys.scaleup import GENERATORS, GeneratorInputError, fidelity, generate
from nanorecsys.scaleup.analysis import kept_promise
from nanorecsys.scaleup.curves import recall_curves
from nanorecsys.scaleup.descriptors import copy_share, describe, hubness, two_sample_auc
from nanorecsys.scaleup.fidelity import (
    REAL,
    HeldOutTest,
    Training,
    choose,
    judge_generators,
    train,
)
from nanorecsys.scaleup.generators.distributions import normalised
from nanorecsys.scaleup.generators.neighbourhoods import nearest


@pytest.fixture(scope="module")
def catalogue() -> np.ndarray:
    """2,400 items in 6 overlapping clusters of 64 dimensions with a decaying spectrum."""
    rng = np.random.default_rng(0)
    scale = 0.98 ** np.arange(64)
    centres = rng.standard_normal((6, 64)) * scale
    items = centres[rng.integers(6, size=2400)] + 0.6 * scale * rng.standard_normal((2400, 64))
    return normalised(items.astype("f4"))


@pytest.fixture(scope="module")
def users() -> np.ndarray:
    rng = np.random.default_rng(1)
    return normalised((rng.standard_normal((80, 64)) * 0.98 ** np.arange(64)).astype("f4"))


@pytest.fixture(scope="module")
def seen() -> Histories:
    """Five random items of each user."""
    return Histories(np.arange(0, 401, 5), np.random.default_rng(2).integers(2400, size=400))


@pytest.fixture(scope="module")
def nothing(users) -> Histories:
    """Users who have seen nothing."""
    return Histories(np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int64))


class Copier:
    """Real items with a little noise."""

    def __init__(self, vectors, total):
        self.vectors = vectors

    def sample(self, n, rng):
        base = self.vectors[rng.integers(len(self.vectors), size=n)]
        return normalised(base + 0.02 * rng.standard_normal(base.shape, np.float32))


@pytest.fixture(scope="module")
def held_out(catalogue, users, seen):
    return HeldOutTest(catalogue, users, seen, subsets=2, trainings=1, kept=0.5, bound=0.05, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("held_out")


@pytest.fixture(scope="module")
def verdicts(held_out, folder):
    return judge_generators(held_out, ["independent", "recombined"], folder)


def test_the_better_generator_is_recommended(verdicts):
    independent, recombined = verdicts.judged
    assert independent.worst > 1.5 * recombined.worst
    assert not independent.believable
    assert choose(verdicts.judged).generator == "recombined"
    assert recombined.copies < 0.05


def test_a_copier_is_taken_only_if_all_copy(verdicts):
    copier = msgspec.structs.replace(
        verdicts.judged[1], generator="copier", worst=0.001, copies=0.4, believable=False
    )
    independent = verdicts.judged[0]
    assert choose([copier, independent]).generator == "independent"
    assert choose([copier]).generator == "copier"


def test_rows_are_kept_for_every_training(verdicts):
    counts = verdicts.rows.groupby("generator").size()
    assert counts["independent"] == counts["recombined"] == counts[REAL]
    real = verdicts.rows.query("generator == @REAL and family == 'IVF'")
    assert sorted(real["setting"].unique()) == [1, 2, 4, 8, 16, 32]


def test_a_second_call_reads_the_results_of_the_first(verdicts, held_out, folder):
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*")}
    assert len(before) == 2 + 2 * 2  # trainings on the real catalogue, and of the generators
    (path,) = folder.glob("*/recombined-0-0")
    outcome = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(replace(outcome, copies=0.9)))
    before[path] = path.stat().st_mtime_ns
    second = judge_generators(held_out, ["independent", "recombined"], folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*")} == before
    assert second.rows.equals(verdicts.rows)
    assert [j.copies for j in second.judged] == [verdicts.judged[0].copies, 0.9]


def test_a_copying_generator_is_caught_by_codes_graphs_and_the_share_of_copies(
    catalogue, users, nothing, monkeypatch
):
    monkeypatch.setitem(GENERATORS, "copier", Copier)
    kept, hidden = HeldOutTest(catalogue, users, nothing, kept=0.2, seed=3).split(0)
    made = generate(catalogue[kept], len(catalogue), "copier", threads=1)
    curves, real = (
        recall_curves(items, users, nothing, 0).set_index(["family", "setting"])["recall"]
        for items in (made, catalogue)
    )
    assert (curves - real).abs()[["PQ", "HNSW"]].max() > 0.05
    usual = float(np.median(nearest(catalogue, 2)[1][:, 1]))
    assert copy_share(made[len(kept) :], catalogue[kept], usual) > 0.9
    assert copy_share(catalogue[hidden], catalogue[kept], usual) < 0.05
    assert two_sample_auc(made[len(kept) :], catalogue[hidden], 0) > 0.65


@pytest.mark.parametrize("family", ["IVF", "HNSW"])
def test_what_users_have_seen_is_neither_asked_for_nor_found(catalogue, users, family):
    """The most expensive setting finds nearly all; with seen items it would be two of ten."""
    nearest_eight = exact_neighbours(catalogue, users, 8).items.ravel()
    seen = Histories(np.arange(0, 641, 8), nearest_eight)
    curve = recall_curves(catalogue, users, seen, 0, [family])
    assert curve["recall"].iloc[-1] > 0.9
    assert curve["recall_all"].iloc[-1] > 0.9
    assert curve["recall"][0] < curve["recall_all"][0]  # deeper neighbours are harder to find


def test_a_made_up_catalogue_has_of_the_seen_items_those_that_were_kept(
    catalogue, users, seen, monkeypatch
):
    test = HeldOutTest(catalogue, users, seen, subsets=1, trainings=1, kept=0.2, seed=3)
    asked = []
    monkeypatch.setattr(fidelity, "recall_curves", lambda *arguments: asked.append(arguments) or {})
    train(test, Training("independent", 0, 1, 100))
    train(test, Training(REAL, 0, 1, 100))
    (made, _, there, _), (_, _, everything, _) = asked
    kept = set(test.split(0)[0].tolist())
    for user in range(len(users)):
        mine = seen.take(np.array([user])).items
        left = [item for item in mine if item in kept]
        np.testing.assert_array_equal(made[there.take(np.array([user])).items], catalogue[left])
    assert everything is seen


def test_the_difference_with_the_seen_is_reported_beside(verdicts):
    mean = verdicts.rows.groupby(["generator", "family", "setting"])["recall_all"].mean()
    for judged in verdicts.judged:
        largest = (mean[judged.generator] - mean[REAL]).abs().max()
        assert judged.worst_all == pytest.approx(largest)
    assert verdicts.rows["recall_all"].tolist() != verdicts.rows["recall"].tolist()


def test_subsets_part_the_items_and_differ(catalogue, users, nothing):
    test = HeldOutTest(catalogue, users, nothing, kept=0.1, seed=5)
    first, second = test.split(0), test.split(1)
    assert sorted(np.concatenate(first)) == list(range(len(catalogue)))
    assert len(first[0]) == 240
    assert set(first[0]) != set(second[0])


def test_too_few_items_are_refused(catalogue, users, nothing, tmp_path):
    with pytest.raises(GeneratorInputError, match="the test needs 50"):
        judge_generators(HeldOutTest(catalogue[:100], users, nothing), ["independent"], tmp_path)


def test_curves_rise(catalogue, users, nothing):
    curves = recall_curves(catalogue, users, nothing, 0)
    assert curves["recall"].tolist() == curves["recall_all"].tolist()
    for _, curve in curves.groupby("family"):
        assert curve["recall"].iloc[-1] > curve["recall"].iloc[0]


def test_a_promise_that_is_never_reached_takes_the_last_setting():
    made, real = pd.Series({1: 0.2, 2: 0.4}), pd.Series({1: 0.4, 2: 1.0})
    assert kept_promise(made, real) == (0.4, 1.0)
    assert kept_promise(real, made, 0.3) == (0.4, 0.2)


def test_descriptors_of_known_clouds():
    rng = np.random.default_rng(2)
    flat = np.zeros((1500, 64), np.float32)
    flat[:, :3] = rng.standard_normal((1500, 3))
    found = describe(normalised(flat))  # a sphere, of two dimensions
    assert 1.5 < found.dimension < 2.5
    assert found.auc is None
    full = describe(normalised(rng.standard_normal((1500, 32)).astype("f4")))
    assert full.dimension > 10
    assert full.contrast < 2 < found.contrast
    assert full.nn_distance > 10 * found.nn_distance


def test_hubs_show_in_the_skewness():
    even = np.roll(np.arange(50), 1)[:, None]
    hub = np.zeros((50, 1), int)
    assert hubness(even, 50) == 0
    assert hubness(hub, 50) > 5


def test_the_classifier_cannot_tell_the_same_from_the_same(catalogue):
    assert two_sample_auc(catalogue[::2], catalogue[1::2], 0) == pytest.approx(0.5, abs=0.06)


def test_a_gap_is_the_mean_over_subsets_with_its_interval(verdicts):
    gap = verdicts.judged[0].gaps[2]
    assert gap.family == "PQ"
    assert gap.low <= gap.largest <= gap.high
    assert gap.largest == pytest.approx(np.mean(gap.by_subset))
