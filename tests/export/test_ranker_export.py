import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.export.ranker import export_ranker
from nanorecsys.models.ranker import FittedRanker, ItemSide, Ranker, RankerConfig
from nanorecsys.serving.encoder import session

N_ITEMS, D, F = 150, 16, 5


def fitted(n_items=N_ITEMS, d=D, features=F, hidden=(12, 8), seed=0):
    """Weights as large as training leaves them: scores reach about 15, and every input matters."""
    torch.manual_seed(seed)
    ranker = Ranker(RankerConfig(d=d, features=features, hidden=hidden, temperature=0.07)).eval()
    with torch.no_grad():
        ranker.out.weight.normal_()
        ranker.out.bias.fill_(0.5)
    vectors, content = (
        torch.nn.functional.normalize(torch.randn(n_items, d), dim=-1) for _ in range(2)
    )
    return FittedRanker(
        ranker,
        ItemSide(vectors, content, torch.rand(n_items, features), torch.rand(n_items) < 0.8),
    )


def requests(n_items, d, batch, candidates, seed=0):
    rng = np.random.default_rng(seed)
    users = rng.standard_normal((batch, d)).astype(np.float32)
    return users / np.linalg.norm(users, axis=1, keepdims=True), rng.integers(
        n_items, size=(batch, candidates)
    )


@torch.no_grad()
def by_torch(ranker, users, items):
    items = torch.from_numpy(items)
    return ranker.ranker(torch.from_numpy(users), *ranker.items.read(items)).numpy()


@pytest.fixture(scope="module")
def ranker():
    return fitted()


@pytest.fixture(scope="module")
def folder(ranker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker")
    export_ranker(ranker, folder / "inside.onnx")
    return folder


@pytest.fixture(scope="module")
def runner(folder):
    return session(folder / "inside.onnx")


@pytest.mark.parametrize("candidates", [1, 2, 100])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_torch(ranker, runner, batch, candidates):
    users, items = requests(N_ITEMS, D, batch, candidates)
    expected = by_torch(ranker, users, items)
    scores = runner.run(None, {"users": users, "items": items})[0]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=1e-6)


def test_every_part_of_the_input_matters(ranker, runner):
    """Or a graph without it would pass for equal."""
    users, items = requests(N_ITEMS, D, 2, 100)
    whole = runner.run(None, {"users": users, "items": items})[0]
    assert np.abs(whole).max() > 5
    for part in ("user", "item", "product", "features"):
        without = fitted()
        with torch.no_grad():
            getattr(without.ranker, part).weight.zero_()
        assert np.abs(by_torch(without, users, items) - whole).max() > 0.1


def test_unknown_items_are_read_from_their_content(ranker, runner):
    side = ranker.items
    unknown = np.flatnonzero(~side.known.numpy())
    assert 0 < len(unknown) < N_ITEMS
    users, _ = requests(N_ITEMS, D, 1, 1)
    scores = runner.run(None, {"users": users, "items": unknown[None]})[0]
    np.testing.assert_allclose(scores, by_torch(ranker, users, unknown[None]), atol=1e-5, rtol=1e-6)
    everything_known = FittedRanker(
        ranker.ranker,
        ItemSide(side.vectors, side.content_vectors, side.features, side.known | True),
    )
    assert (np.abs(scores - by_torch(everything_known, users, unknown[None])) > 1e-3).all()


def test_a_candidate_has_one_score_however_often_and_wherever_it_comes(runner):
    users, items = requests(N_ITEMS, D, 1, 20)
    once = runner.run(None, {"users": users, "items": items})[0]
    both = np.concatenate([items, items[:, ::-1]], 1)
    twice = runner.run(None, {"users": users, "items": both})[0]
    np.testing.assert_allclose(twice[:, :20], twice[:, :19:-1], atol=1e-6)
    np.testing.assert_allclose(twice[:, :20], once, atol=1e-6)


def test_the_same_request_gives_the_same_bytes(folder, runner):
    users, items = requests(N_ITEMS, D, 3, 100)
    inputs = {"users": users, "items": items}
    answers = {
        s.run(None, inputs)[0].tobytes() for s in (runner, runner, session(folder / "inside.onnx"))
    }
    assert len(answers) == 1


@pytest.mark.parametrize("item", [N_ITEMS, 2**40])
def test_an_item_beyond_the_catalogue_is_an_error(runner, item):
    users, items = requests(N_ITEMS, D, 1, 3)
    items[0, 1] = item
    with pytest.raises(Exception, match="out of data bounds"):
        runner.run(None, {"users": users, "items": items})


def test_batch_and_candidates_are_symbolic(folder):
    graph = onnx.load(folder / "inside.onnx").graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert shapes == {"users": ["B", D], "items": ["B", "C"], "scores": ["B", "C"]}


@given(
    n_items=st.integers(1, 30),
    d=st.integers(1, 24),
    features=st.integers(3, 6),
    hidden=st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple),
    batch=st.integers(1, 4),
    candidates=st.integers(0, 40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=15, deadline=None)
def test_equals_torch_at_any_shape(
    tmp_path_factory, n_items, d, features, hidden, batch, candidates, seed
):
    path = tmp_path_factory.mktemp("any") / "ranker.onnx"
    ranker = fitted(n_items, d, features, hidden, seed)
    export_ranker(ranker, path)
    users, items = requests(n_items, d, batch, candidates, seed)
    scores = session(path).run(None, {"users": users, "items": items})[0]
    np.testing.assert_allclose(scores, by_torch(ranker, users, items), atol=2e-5, rtol=2e-6)
