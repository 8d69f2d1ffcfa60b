"""Bootstrap intervals against scipy and against known coverage (3 s)."""

import numpy as np
import pytest
import scipy.stats

from nanorecsys.evaluation import bootstrap, mean_interval


def test_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=400)
    ours = mean_interval(values, resamples=5000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_nine_intervals_in_ten_contain_the_truth():
    rng = np.random.default_rng(0)
    holds = 0
    for seed in range(200):
        found = mean_interval(rng.random(80) < 0.3, level=0.9, resamples=400, seed=seed)
        holds += found.low <= 0.3 <= found.high
    assert 165 <= holds <= 195  # 180 expected


def test_same_seed_same_interval_whatever_the_chunks(monkeypatch):
    values = np.random.default_rng(0).random(50)
    one = mean_interval(values, seed=3)
    assert one == mean_interval(values, seed=3)
    assert one != mean_interval(values, seed=4)
    monkeypatch.setattr(bootstrap, "CHUNK_ELEMENTS", 50 * 7)
    other = mean_interval(values, seed=3)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_seeds_are_resampled_with_the_users():
    rng = np.random.default_rng(0)
    values = rng.random((1, 300)) + np.array([[-0.2], [0.0], [0.2]])
    found, alone = mean_interval(values), mean_interval(values.mean(axis=0))
    assert found.estimate == pytest.approx(alone.estimate) == pytest.approx(values.mean())
    # The variance of the mean over three drawn seeds, and of the users as for one seed.
    width = np.sqrt(values.mean(axis=1).var() / 3 + values.mean(axis=0).var() / 300)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * width, rel=0.1)
    assert found.high - found.low > 3 * (alone.high - alone.low)
    assert mean_interval(values[:1]) == mean_interval(values[0])


def test_few_users_get_an_interval_as_wide_as_students():
    for m, tolerance in ((12, 0.08), (400, 0.05)):
        values = np.random.default_rng(1).normal(size=m)
        found = mean_interval(values, resamples=20_000)
        half = scipy.stats.t.ppf(0.975, m - 1) * values.std(ddof=1) / np.sqrt(m)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=tolerance)
