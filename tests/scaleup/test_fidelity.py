"""The held-out test catches what it has to catch. About 15 s."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest

from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.data import Histories
from nanorecsys.scaleup import GENERATORS, fidelity
from nanorecsys.scaleup.curves import ladder, user_recalls
from nanorecsys.scaleup.datasets import RealCatalogue
from nanorecsys.scaleup.fidelity import (
    REAL,
    HeldOutTest,
    Training,
    Verdicts,
    choose,
    combined,
    copy_share,
    differences,
    judge_generators,
    train,
    verdict,
)
from nanorecsys.scaleup.generators import nearest, normalised
from nanorecsys.scaleup.result import Fidelity
from nanorecsys.scaleup.specs import ORIGINAL, parse_specification
from nanorecsys.study.spread import Interval

CODED = "Users32,IVF(PQ16x4fs,RFlat),PQ16x4fsr,Refine(SQ8)"
OTHER = "scann:leaves=32,block=2"
INDEXES = ("IVF,SQ8", OTHER, CODED)


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
    return normalised((rng.standard_normal((200, 64)) * 0.98 ** np.arange(64)).astype("f4"))


@pytest.fixture(scope="module")
def seen() -> Histories:
    """Five random items of each user."""
    return Histories(np.arange(0, 401, 5), np.random.default_rng(2).integers(2400, size=400))


@pytest.fixture(scope="module")
def nothing() -> Histories:
    return Histories(np.zeros(81, np.int64), np.empty(0, np.int64))


@pytest.fixture(scope="module")
def real(catalogue, users, seen) -> RealCatalogue:
    return RealCatalogue("films", catalogue, users[:80], seen, users[80:])


class Copier:
    """A generator whose items are the real ones with a little noise."""

    def __init__(self, vectors, total):
        self.vectors = vectors

    def sample(self, n, rng):
        base = self.vectors[rng.integers(len(self.vectors), size=n)]
        return normalised(base + 0.02 * rng.standard_normal(base.shape, np.float32))


@pytest.fixture(scope="module")
def held_out(real):
    return HeldOutTest(real, INDEXES, subsets=2, trainings=1, kept=0.5, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("held_out")


@pytest.fixture(scope="module")
def verdicts(held_out, folder):
    return judge_generators(held_out, ["independent", "recombined"], folder)


def test_the_better_generator_is_recommended(verdicts):
    independent, recombined = combined({"films": verdicts})
    assert independent.worst > 1.5 * recombined.worst
    assert independent.verdict == "not believable"
    assert choose([independent, recombined]).generator == "recombined"
    assert recombined.by_set["films"].copies < 0.05


def test_every_family_is_judged_by_both_metrics(verdicts):
    families = [parse_specification(s, 2400).family for s in INDEXES]
    for judged in verdicts.judged.values():
        found = [(own.family, own.metric) for own in judged.largest]
        assert found == [(family, metric) for family in families for metric in ("unseen", "all")]
    worst = verdicts.judged["independent"]
    assert worst.worst.estimate == max(abs(own.interval.estimate) for own in worst.largest)
    assert fidelity.worst_case(worst).interval.estimate in (
        worst.worst.estimate,
        -worst.worst.estimate,
    )


def test_rows_are_kept_for_every_training_and_user(verdicts):
    counts = verdicts.rows.groupby("generator").size()
    assert counts["independent"] == counts["recombined"] == counts[REAL]
    own = verdicts.rows.query("generator == @REAL and family == 'ScaNN' and metric == 'all'")
    settings = [f"leaves={c},rerank=400" for c in (1, 2, 4, 8, 16, 32)]
    assert own["setting"].unique().tolist() == settings
    np.testing.assert_allclose(verdicts.recalls.mean(axis=2).ravel(), verdicts.rows["recall"])
    assert verdicts.recalls.shape[2] == 80


# Recalls of 3 cases: (repeats, cases, users), all alike unless a test changes them.
CASES = [("IVF", "nprobe=1", "unseen"), ("IVF", "nprobe=1", "all"), ("HNSW", "efSearch=10", "all")]


def alike(repeats):
    rng = np.random.default_rng(0)
    by_user = rng.choice([0.8, 0.9, 1.0], (1, 3, 400))
    return np.repeat(by_user, repeats, axis=0).astype(np.float32)


@pytest.mark.parametrize("case", range(3))
def test_one_case_that_is_off_decides(case):
    made, real = alike(3), alike(4)
    assert differences(CASES, made, real)[0].high < 1e-6
    made[:, case] -= 0.05
    worst, largest = differences(CASES, made, real)
    np.testing.assert_allclose((worst.estimate, worst.low, worst.high), 0.05, atol=1e-5)
    assert [own.metric for own in largest] == ["unseen", "all", "all"]
    assert largest[case].interval.estimate == pytest.approx(-0.05)
    assert verdict(worst, 0.0, 0.03) == "not believable"


def test_users_and_subsets_are_in_the_interval():
    quiet = differences(CASES, alike(3), alike(4))[0]
    noisy_users, noisy_subsets = alike(3), alike(3)
    noisy_users[:, 0, ::2] -= 0.2
    noisy_users[:, 0, 1::2] += 0.2
    noisy_subsets[0, 0] += 0.1
    noisy_subsets[1, 0] -= 0.1
    for made in (noisy_users, noisy_subsets):
        worst = differences(CASES, made, alike(4))[0]
        assert quiet.high < 1e-6
        assert worst.estimate < 0.001
        assert worst.low == 0
        assert worst.high > 0.015


def test_users_are_paired():
    """What makes a user hard in both catalogues does not widen the interval."""
    made, real = alike(3), alike(4)
    made[:, :, ::2] *= 0.3
    real[:, :, ::2] *= 0.3
    assert differences(CASES, made + np.float32(0.02), real)[0].high < 0.021


def test_one_noisy_case_of_many_does_not_refute():
    """Forty cases without any difference: the largest has a lower end of zero."""
    rng = np.random.default_rng(4)
    cases = [(f"family {i}", "nprobe=1", "all") for i in range(40)]
    made, real = (rng.normal(0.9, 0.1, (1, 40, 200)).astype("f4") for _ in range(2))
    worst, largest = differences(cases, made, real)
    assert (
        max(own.interval.low for own in largest) > 0
        or min(own.interval.high for own in largest) < 0
    )
    assert worst.low == 0


def test_an_interval_across_the_bound_leaves_the_verdict_open():
    assert verdict(Interval(0.02, 0.01, 0.029), 0.0, 0.03) == "believable"
    assert verdict(Interval(0.02, 0.01, 0.031), 0.0, 0.03) == "undecided"
    assert verdict(Interval(0.05, 0.029, 0.07), 0.0, 0.03) == "undecided"
    assert verdict(Interval(0.05, 0.031, 0.07), 0.0, 0.03) == "not believable"
    assert verdict(Interval(0.0, 0.0, 0.0), 0.06, 0.03) == "not believable"


def of_set(**verdicts_by_generator):
    """A data set's verdicts: the estimate and the verdict of each generator."""
    judged = {
        name: Fidelity(
            worst=Interval(worst, 0.0, 1.0),
            largest=[],
            copies=0.0,
            verdict=said,
        )
        for name, (worst, said) in verdicts_by_generator.items()
    }
    return Verdicts(judged, pd.DataFrame(), np.empty(0))


def test_the_second_data_set_can_refute_but_not_choose():
    first = of_set(a=(0.01, "believable"), b=(0.02, "believable"))
    second = of_set(a=(0.05, "undecided"), b=(0.001, "believable"))
    a, b = combined({"first": first, "second": second})
    assert (a.verdict, b.verdict) == ("undecided", "believable")
    assert a.worst == 0.01
    assert list(a.by_set) == ["first", "second"]
    assert choose([a, b]) is a
    refuted = of_set(a=(0.05, "not believable"), b=(0.001, "believable"))
    assert combined({"first": second, "second": refuted})[0].verdict == "not believable"


def test_a_copier_is_taken_only_if_all_copy(verdicts):
    independent, recombined = combined({"films": verdicts})
    copies = msgspec.structs.replace(recombined.by_set["films"], copies=0.4)
    copier = msgspec.structs.replace(recombined, worst=0.001, by_set={"films": copies})
    assert choose([copier, independent]) is independent
    assert choose([copier]) is copier


def test_a_second_call_reads_the_results_of_the_first(verdicts, held_out, folder, monkeypatch):
    monkeypatch.setattr(fidelity, "ProcessPoolExecutor", lambda n, *_: ThreadPoolExecutor(n))
    monkeypatch.setattr(fidelity, "user_recalls", None)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/*")}
    assert len(before) == 2 + 2 * 2  # trainings on the real catalogue, and of the generators
    second = judge_generators(held_out, ["independent", "recombined"], folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*")} == before
    assert second.rows.equals(verdicts.rows)
    assert second.judged == verdicts.judged


def test_a_copying_generator_is_caught_by_codes_and_the_share_of_copies(
    catalogue, users, nothing, real, monkeypatch
):
    monkeypatch.setitem(GENERATORS, "copier", Copier)
    test = HeldOutTest(real, INDEXES, kept=0.2, seed=3)
    kept, made = test.expanded("copier", 0)
    copied, true = (
        user_recalls(items, users[:80], nothing, users[80:], ["IVF,PQ16np"], seed=0)
        for items in (made, catalogue)
    )
    assert max(abs(copied[case].mean() - true[case].mean()) for case in true) > 0.05
    assert test.copies("copier") > 0.9
    usual = float(np.median(nearest(catalogue, 2)[1][:, 1]))
    assert copy_share(np.delete(catalogue, kept, axis=0), catalogue[kept], usual) < 0.05


@pytest.mark.parametrize("index", INDEXES)
def test_what_users_have_seen_is_neither_asked_for_nor_found(catalogue, users, index):
    """The most expensive setting finds as much with it as without; otherwise two of ten."""
    own = users[:80]
    nearest_eight = exact_neighbours(catalogue, own, 8).items.ravel()
    seen = Histories(np.arange(0, 641, 8), nearest_eight)
    found = user_recalls(catalogue, own, seen, users[80:], [index], seed=0)
    by_metric = {
        m: [r.mean() for (*_, own), r in found.items() if own == m] for m in ("unseen", "all")
    }
    for recalls in by_metric.values():
        assert recalls[-1] > 0.8
    if index != OTHER:  # it re-ranks so many that both are found alike
        assert by_metric["unseen"][0] < by_metric["all"][0]  # deeper neighbours are harder to find


@pytest.mark.parametrize("specification", [*ORIGINAL, OTHER, "scann:vectors=8", CODED])
def test_every_family_has_the_same_ladder_at_every_size(specification):
    small, large = (parse_specification(specification, n) for n in (9066, 3_000_000))
    assert len(ladder(small)) == 6
    assert ladder(small) == ladder(large)


def test_a_made_up_catalogue_has_of_the_seen_items_those_that_were_kept(
    catalogue, seen, real, monkeypatch
):
    test = HeldOutTest(real, INDEXES, subsets=1, trainings=1, kept=0.2, seed=3)
    asked = []
    monkeypatch.setattr(
        fidelity, "user_recalls", lambda *given, seed: asked.append((*given, seed)) or {}
    )
    train(test, Training("independent", 0, 1, 100))
    train(test, Training(REAL, 0, 1, 100))
    (made, _, there, *rest), (_, _, everything, *_) = asked
    kept = set(test.expanded("independent", 0)[0].tolist())
    for user in range(80):
        mine = seen.take(np.array([user])).items
        left = [item for item in mine if item in kept]
        np.testing.assert_array_equal(made[there.take(np.array([user])).items], catalogue[left])
    assert everything is seen
    assert rest[1:] == [INDEXES, 100]


def test_subsets_differ_and_come_first_in_what_is_made_of_them(real):
    test = HeldOutTest(real, INDEXES, kept=0.1, seed=5)
    (first, made), (second, _) = (test.expanded("independent", subset) for subset in (0, 1))
    assert len(set(first.tolist())) == 240
    assert set(first.tolist()) != set(second.tolist())
    assert made.shape == real.vectors.shape
    np.testing.assert_array_equal(made[:240], real.vectors[first])


@pytest.mark.parametrize(("items", "wanted"), [(2400, 240), (300, 50), (60, 30)])
def test_a_generator_sees_more_of_a_small_catalogue(items, wanted, real):
    few = HeldOutTest(replace(real, vectors=real.vectors[:items]), INDEXES)
    assert len(few.expanded("independent", 0)[0]) == wanted


def test_without_seen_items_both_metrics_agree_and_curves_rise(catalogue, users, nothing):
    found = user_recalls(catalogue, users[:80], nothing, users[80:], INDEXES, seed=0)
    curves = pd.Series({case: recall.mean() for case, recall in found.items()})
    pd.testing.assert_series_equal(
        curves.xs("unseen", level=2), curves.xs("all", level=2), atol=0.002
    )
    for _, curve in curves.groupby(level=0, sort=False):
        assert curve.iloc[-1] > curve.iloc[0]
