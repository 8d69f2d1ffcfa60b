"""The held-out test catches what it has to catch. About 20 s."""

import msgspec
import numpy as np
import pytest

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.data import Histories
from nanorecsys.scaleup import GENERATORS, VectorsError, fidelity
from nanorecsys.scaleup.analysis import gap, kept_promise
from nanorecsys.scaleup.curves import Curve, mean_curve, recall_curves, work_at
from nanorecsys.scaleup.descriptors import (
    copy_share,
    describe,
    hubness,
    nearest_law,
    two_nn,
    two_sample_auc,
)
from nanorecsys.scaleup.fidelity import (
    REAL,
    Settings,
    _run_or_read,
    _take,
    _Task,
    choose,
    held_out,
    subset,
)
from nanorecsys.scaleup.generators.base import normalised
from nanorecsys.scaleup.generators.neighbours import nearest
from nanorecsys.scaleup.shards import generate


@pytest.fixture(scope="module")
def catalogue() -> np.ndarray:
    """2,400 items in 6 overlapping clusters of 64 dimensions with a decaying spectrum, unit float32."""
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

    version = 1
    neighbours = 2

    def fit(self, vectors, total):
        self.vectors = vectors
        return self

    def sample(self, n, rng):
        base = self.vectors[rng.integers(len(self.vectors), size=n)]
        return normalised(base + 0.02 * rng.standard_normal(base.shape, np.float32))


@pytest.fixture(scope="module")
def held(catalogue, users, seen):
    settings = Settings(subsets=2, trainings=1, kept=0.5, bound=0.05, seed=3, workers=2)
    return held_out(catalogue, users, seen, ["independent", "recombined"], settings)


def test_the_better_generator_is_recommended(held):
    independent, recombined = held.judged
    assert independent.worst > 1.5 * recombined.worst
    assert not independent.believable
    assert choose(held.judged).generator == "recombined"
    assert recombined.copies < 0.05


def test_a_copier_is_taken_only_if_all_copy(held):
    copier = msgspec.structs.replace(
        held.judged[1], generator="copier", worst=0.001, copies=0.4, believable=False
    )
    independent = held.judged[0]
    assert choose([copier, independent]).generator == "independent"
    assert choose([copier]).generator == "copier"


def test_rows_are_kept_for_every_training(held):
    counts = dict(held.rows.group_by("generator").len().rows())
    assert counts["independent"] == counts["recombined"] == counts[REAL]
    real = held.rows.filter(generator=REAL, family="IVF")
    by_setting = real.group_by("setting").agg(mean=real["recall"].mean()).height
    assert by_setting == len(held.real["IVF"].settings)


def test_a_copying_generator_is_caught_by_codes_graphs_and_the_share_of_copies(
    catalogue, users, nothing, monkeypatch
):
    monkeypatch.setitem(GENERATORS, "copier", Copier())
    kept, hidden = subset(catalogue, Settings(kept=0.2, seed=3), 0)
    made = generate(catalogue[kept], len(catalogue), "copier", threads=1)
    curves = recall_curves(made, users, nothing, 0)
    real = recall_curves(catalogue, users, nothing, 0)
    difference = {f: np.abs(np.subtract(curves[f].recall, real[f].recall)).max() for f in curves}
    assert max(difference["PQ"], difference["HNSW"]) > 0.05
    usual = float(np.median(nearest(catalogue, 2)[1][:, 1]))
    assert copy_share(made[len(kept) :], catalogue[kept], usual) > 0.9
    assert copy_share(catalogue[hidden], catalogue[kept], usual) < 0.05
    assert two_sample_auc(made[len(kept) :], catalogue[hidden], 0) > 0.65


@pytest.mark.parametrize("family", ["IVF", "HNSW", "SQ"])
def test_what_users_have_seen_is_neither_asked_for_nor_found(catalogue, users, family):
    """At the dearest setting an index finds nearly all; were the seen ones in the way, it would be two of ten."""
    nearest_eight = exact_neighbours(catalogue, users, 8).items.ravel()
    seen = Histories(np.arange(0, 641, 8), nearest_eight)
    curve = recall_curves(catalogue, users, seen, 0, [family])[family]
    assert curve.recall[-1] > 0.9
    assert curve.recall_all[-1] > 0.9
    assert curve.recall[0] < curve.recall_all[0]  # deeper neighbours are harder to find


def test_a_made_up_catalogue_has_of_the_seen_items_those_that_were_kept(
    catalogue, users, seen, monkeypatch
):
    settings = Settings(subsets=1, trainings=1, kept=0.2, seed=3)
    _take(catalogue, users, seen, settings)
    asked = []
    monkeypatch.setattr(fidelity, "recall_curves", lambda *arguments: asked.append(arguments) or {})
    _run_or_read(_Task("independent", 0, 1, 100))
    _run_or_read(_Task(REAL, 0, 1, 100))
    (made, _, there, _), (_, _, everything, _) = asked
    kept = set(subset(catalogue, settings, 0)[0].tolist())
    for user in range(len(users)):
        mine = seen.take(np.array([user])).items
        left = [item for item in mine if item in kept]
        np.testing.assert_array_equal(made[there.take(np.array([user])).items], catalogue[left])
    assert everything is seen


def test_the_difference_with_the_seen_is_reported_beside(held):
    for j in held.judged:
        by_family = [
            np.subtract(gap(j, f).curve.recall_all, held.real[f].recall_all)
            for f in ("IVF", "HNSW", "PQ")
        ]
        assert j.worst_all == pytest.approx(max(np.abs(d).max() for d in by_family))
    assert held.rows["recall_all"].to_list() != held.rows["recall"].to_list()


def test_a_test_that_is_taken_up_again_reads_what_is_done(
    catalogue, users, seen, tmp_path, monkeypatch
):
    settings = Settings(subsets=1, trainings=1, kept=0.2, seed=3, folder=str(tmp_path))
    _take(catalogue, users, seen, settings)
    task = _Task("independent", 0, 0, 100)
    first = _run_or_read(task)
    monkeypatch.setattr("nanorecsys.scaleup.fidelity._run", None)
    assert _run_or_read(task) == first
    assert [p.name for p in tmp_path.iterdir()] == ["independent-0-0.json"]


def test_subsets_part_the_items_and_differ(catalogue):
    settings = Settings(kept=0.1, seed=5)
    first, second = subset(catalogue, settings, 0), subset(catalogue, settings, 1)
    assert sorted(np.concatenate(first)) == list(range(len(catalogue)))
    assert len(first[0]) == 240
    assert set(first[0]) != set(second[0])


def test_too_few_items_are_refused(catalogue, users, nothing):
    with pytest.raises(VectorsError, match="fewer than the 50"):
        held_out(catalogue[:100], users, nothing, ["independent"], Settings())


def test_the_order_of_the_rows_does_not_matter_to_exact_codes(catalogue, users, nothing):
    """Rows are shuffled by seed before anything is built."""
    one = recall_curves(catalogue, users, nothing, 0, ["SQ"])["SQ"]
    other = recall_curves(catalogue[::-1].copy(), users, nothing, 1, ["SQ"])["SQ"]
    assert one.recall == pytest.approx(other.recall, abs=0.02)
    assert one.recall[-1] > 0.9


def test_curves_rise_and_cost_more(catalogue, users, nothing):
    for family, curve in recall_curves(catalogue, users, nothing, 0).items():
        assert curve.recall_all == curve.recall, family
        assert len(curve.settings) == len(curve.recall) == len(curve.work), family
        assert curve.work == sorted(curve.work), family
        assert curve.recall[-1] > curve.recall[0], family


def test_curve_arithmetic():
    one, two = Curve([1, 2], [0.2, 0.4], [1.0, 3.0]), Curve([1, 2], [0.4, 1.0], [3.0, 5.0])
    assert mean_curve([one, two]).recall == pytest.approx([0.3, 0.7])
    assert work_at(one, 0.95) is None
    assert work_at(two, 0.3) == 3.0
    assert kept_promise(one, two) == (0.4, 1.0)  # never reached: the last setting


def test_descriptors_of_known_clouds(users, nothing):
    rng = np.random.default_rng(2)
    flat = np.zeros((1500, 64), np.float32)
    flat[:, :3] = rng.standard_normal((1500, 3))
    sphere = normalised(flat)  # two dimensions
    found = describe(sphere, users, nothing, 0)
    assert 1.5 < found.lid_mle < 2.5
    assert 1.5 < found.lid_two_nn < 2.5
    assert -0.65 < found.nn_power < -0.35  # distances shrink as n ** (-1 / 2)
    assert found.spectrum[1] == pytest.approx(1, abs=1e-3)
    assert found.score_gaps == sorted(found.score_gaps)
    assert found.auc is None
    full = normalised(rng.standard_normal((1500, 32)).astype("f4"))
    assert two_nn(nearest(full, 3)[1]) > 10
    assert abs(nearest_law(full, 0)[1]) < 0.15


def test_hubs_show_in_the_skewness():
    even = np.roll(np.arange(50), 1)[:, None]
    hub = np.zeros((50, 1), int)
    assert hubness(even, 50) == 0
    assert hubness(hub, 50) > 5


def test_the_classifier_cannot_tell_the_same_from_the_same(catalogue):
    assert two_sample_auc(catalogue[::2], catalogue[1::2], 0) == pytest.approx(0.5, abs=0.06)


def test_gap_of_a_family(held):
    found = gap(held.judged[0], "PQ")
    assert found.low <= found.largest <= found.high
    assert found.largest == pytest.approx(np.mean(found.by_subset))
