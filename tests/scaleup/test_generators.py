"""What each generator promises of its samples. About 2 s."""

import numpy as np
import pytest

from nanorecsys.ann.errors import VectorsError
from nanorecsys.scaleup import GENERATORS, generate
from nanorecsys.scaleup.generators import (
    GeneratorError,
    generator_of,
    intrinsic_dimension,
    nearest,
)


def sample(name: str, vectors: np.ndarray, n: int = 4000, total: int | None = None) -> np.ndarray:
    fitted = generator_of(name)(vectors, total or 10 * len(vectors))
    return fitted.sample(n, np.random.default_rng(0))


def nearest_distance(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    nearest_real = real[(made @ real.T).argmax(axis=1)]
    return np.linalg.norm(
        made - nearest_real, axis=1
    )  # 2 - 2 cos would lose small distances in float32


@pytest.mark.parametrize("name", GENERATORS)
def test_samples_are_unit_float32_and_differ(name: str, curved: np.ndarray) -> None:
    made = sample(name, curved)
    assert made.dtype == np.float32
    assert made.shape == (4000, curved.shape[1])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert len(np.unique(made, axis=0)) == len(made)


def test_the_independent_generator_keeps_mean_and_variance_alone(correlated: np.ndarray) -> None:
    made = sample("independent", correlated)
    np.testing.assert_allclose(made.mean(axis=0), correlated.mean(axis=0), atol=0.005)
    np.testing.assert_allclose(made.std(axis=0), correlated.std(axis=0), rtol=0.1)
    assert np.corrcoef(correlated, rowvar=False)[0, 1] > 0.95
    assert abs(np.corrcoef(made, rowvar=False)[0, 1]) < 0.1


def test_new_items_lie_near_the_surface(curved: np.ndarray) -> None:
    spacing = np.median(nearest(curved, 2)[1][:, 1])
    made, global_ones = (
        np.median(nearest_distance(sample(n, curved), curved)) for n in ("local", "independent")
    )
    assert made < 3 * spacing < global_ones


def test_new_items_are_no_copies(curved: np.ndarray) -> None:
    spacing = np.median(nearest(curved, 2)[1][:, 1])
    jittered = curved + np.float32(1e-3 * spacing)
    assert (
        np.mean(nearest_distance(jittered, curved) < 0.1 * spacing) > 0.9
    )  # the measure sees copies
    assert np.mean(nearest_distance(sample("local", curved), curved) < 0.1 * spacing) < 0.1


def test_noise_shrinks_with_the_size_of_the_catalogue(curved: np.ndarray) -> None:
    small, large = (generator_of("local")(curved, total).noise for total in (6000, 600_000))
    # of intrinsic dimension 2, so a hundred times as many lie ten times as dense; on a curved
    # surface roughly
    assert 4 < small / large < 20


def test_intrinsic_dimension_of_a_surface(curved: np.ndarray) -> None:
    assert 1.6 < intrinsic_dimension(nearest(curved, 16)[1]) < 2.6


def test_nearest_puts_the_item_first_also_among_copies() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0)
    ids, distances = nearest(vectors, 3)
    assert ids[:, 0].tolist() == list(range(8))
    assert ids[:, 1].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    np.testing.assert_allclose(
        distances, np.tile(np.array([0, 0, np.sqrt(2)], np.float32), (8, 1)), atol=1e-6
    )


def test_copies_among_the_items_are_taken(curved: np.ndarray) -> None:
    doubled = np.repeat(curved[:100], 20, axis=0)
    for name in GENERATORS:
        assert np.isfinite(sample(name, doubled, 500)).all()


def test_unknown_generator_lists_the_known(curved: np.ndarray) -> None:
    with pytest.raises(GeneratorError, match=r"'locla'.*\n.*independent, local"):
        generate(curved, 1000, "locla")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: v.astype(np.float64), "float64"),
        (lambda v: v[0], r"\(16,\)"),
        (lambda v: v * np.float32(1.1), "norm 1.1, not 1"),
        (
            lambda v: np.where(np.arange(len(v))[:, None] == 7, np.float32(np.nan), v),
            "vector 7 has norm nan",
        ),
    ],
)
def test_unfit_vectors_are_refused(change, says: str, curved: np.ndarray) -> None:
    with pytest.raises(VectorsError, match=says):
        generate(change(curved), 1000, "local")


def test_recombined_items_keep_their_distance(curved: np.ndarray) -> None:
    far, near = (
        np.median(nearest_distance(sample(name, curved), curved))
        for name in ("recombined", "local")
    )
    usual = np.median(nearest(curved, 2)[1][:, 1])
    assert far > usual > 0.5 * near


def test_recombined_coordinates_are_those_of_real_items(
    clustered: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanorecsys.scaleup.generators.normalised", lambda vectors: vectors)
    fitted = generator_of("recombined")(clustered, 10_000)
    made = (fitted.sample(300, np.random.default_rng(0)) - fitted.mean) @ fitted.axes.T
    away = np.abs(made[:, None] - fitted.scores)  # (made, items, d)
    assert away.min(axis=1).max() < 1e-5
    own = (away < 1e-5).mean(axis=2).max(axis=1)  # share that comes from one item
    assert 0.55 < own.mean() < 0.75
    np.testing.assert_allclose(fitted.scores @ fitted.axes + fitted.mean, clustered, atol=1e-5)


def test_recombined_shards_do_not_depend_on_how_many_follow(
    curved: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanorecsys.scaleup.catalogue.SHARD_ROWS", 1000)
    few = generate(curved, 2600, "recombined", seed=4)
    np.testing.assert_array_equal(few, generate(curved, 6000, "recombined", seed=4)[:2600])


def test_recombined_takes_fewer_neighbours_where_there_are_few(curved: np.ndarray) -> None:
    assert generator_of("recombined")(curved[:10], 100).neighbours.shape == (10, 10)
