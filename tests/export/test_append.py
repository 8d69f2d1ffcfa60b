import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.data import Histories
from nanorecsys.export.append import (
    LONGEST,
    Appender,
    State,
    append_drift,
    append_timings,
    state_bytes,
    step_tower,
)
from nanorecsys.export.errors import ExportError
from nanorecsys.models.retriever import Retriever, RetrieverConfig

N_ITEMS, WINDOW = 40, 10
CONFIG = RetrieverConfig(d=16, layers=3, heads=2, hidden=24, window=WINDOW, content=False)


def encoder(config=CONFIG):
    """With weights so large that attention and positions matter as much as they do after training."""
    torch.manual_seed(0)
    model = Retriever(config, np.ones(N_ITEMS, bool)).eval()
    with torch.no_grad():
        for weight in model.tower.parameters():
            weight.mul_(20 if weight.dim() == 2 else 1)
    return model.encoder()


ENCODER = encoder()


def full(items, lengths, encoder=ENCODER):
    with torch.no_grad():
        return encoder(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()


def last_window(items, window=WINDOW, encoder=ENCODER):
    """The full encode of histories (B, L) of which the last window counts."""
    recent = np.ascontiguousarray(items[:, -window:])
    return full(recent, np.full(len(recent), recent.shape[1]), encoder)


def histories(*lengths, seed=0):
    items = np.random.default_rng(seed).integers(N_ITEMS, size=sum(lengths))
    return Histories(np.concatenate([[0], np.cumsum(lengths)]), items.astype(np.int32))


def random_items(batch, length, seed=0):
    return np.random.default_rng(seed).integers(1, N_ITEMS + 1, (batch, length))


@pytest.fixture(scope="module")
def appender():
    return Appender(step_tower(ENCODER).SerializeToString(), WINDOW)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("start", [0, 1, 2, WINDOW - 2, WINDOW - 1])
def test_appending_equals_the_full_encode_until_the_window_is_full(appender, batch, start):
    items = random_items(batch, WINDOW)
    vectors, state = appender.prefill(items[:, :start])
    padding = np.zeros((batch, 1), np.int64)
    before = last_window(items[:, :start]) if start else full(padding, np.ones(batch, np.int64))
    np.testing.assert_allclose(vectors, before, atol=1e-5)
    for length in range(start + 1, WINDOW + 1):
        vectors = appender.append(state, items[:, length - 1])
        np.testing.assert_allclose(vectors, last_window(items[:, :length]), atol=1e-5)
        assert state.position == length


@given(
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    window=st.integers(1, 12),
    length=st.integers(0, 11),
    batch=st.integers(1, 3),
)
@settings(max_examples=15, deadline=None)
def test_appending_equals_the_full_encode_at_any_size(heads, layers, window, length, batch):
    length = min(length, window - 1)
    tower = encoder(replace(CONFIG, heads=heads, layers=layers, window=window))
    appender = Appender(step_tower(tower).SerializeToString(), window)
    items = random_items(batch, length + 1)
    _, state = appender.prefill(items[:, :-1])
    vectors = appender.append(state, items[:, -1])
    np.testing.assert_allclose(vectors, last_window(items, window, tower), atol=1e-5)


def test_of_an_over_long_history_the_last_window_counts(appender):
    items = random_items(2, WINDOW + 7)
    vectors, state = appender.prefill(items)
    np.testing.assert_allclose(vectors, last_window(items), atol=1e-5)
    assert state.keys.shape[3] == WINDOW - 1


def test_one_layer_stays_exact_when_the_window_slides():
    """Its keys and values depend on their own event only: a wrong slot or rotation would show."""
    tower = encoder(replace(CONFIG, layers=1))
    appender = Appender(step_tower(tower).SerializeToString(), WINDOW)
    items = random_items(2, 4 * WINDOW)
    _, state = appender.prefill(items[:, :3])
    for length in range(4, 4 * WINDOW + 1):
        vectors = appender.append(state, items[:, length - 1])
        np.testing.assert_allclose(
            vectors, last_window(items[:, :length], encoder=tower), atol=2e-5
        )
        assert state.keys.shape[3] == min(length, WINDOW - 1)


def test_positions_count_by_their_differences(appender):
    """So that they may grow for as long as there are rotations."""
    items = random_items(1, 5)
    nothing = np.empty((CONFIG.layers, 1, CONFIG.heads, 0, CONFIG.d // CONFIG.heads), np.float32)
    late = State(nothing, nothing, LONGEST - 5)
    for item in items.T:
        vectors = appender.append(late, item)
    np.testing.assert_allclose(vectors, last_window(items), atol=1e-4)
    with pytest.raises(ExportError, match=f"the state is at event {LONGEST}"):
        appender.append(late, items[:, 0])


def test_order_and_past_matter(appender):
    items = random_items(1, 6)
    _, state = appender.prefill(items[:, :-1])
    _, swapped = appender.prefill(items[:, [1, 0, 2, 3, 4]])
    _, shorter = appender.prefill(items[:, 1:-1])
    vector = appender.append(state, items[:, -1])
    for other in (swapped, shorter):
        assert np.abs(appender.append(other, items[:, -1]) - vector).max() > 1e-3


def test_the_same_events_give_the_same_bytes(appender):
    items = random_items(2, 2 * WINDOW)
    answers = set()
    for _ in range(2):
        _, state = appender.prefill(items[:, :4])
        answers.add(b"".join(appender.append(state, item).tobytes() for item in items[:, 4:].T))
    assert len(answers) == 1


def test_an_item_that_is_not_there_is_an_error_and_leaves_the_state(appender):
    items = random_items(1, 3)
    _, state = appender.prefill(items)
    with pytest.raises(Exception, match="out of data bounds"):
        appender.append(state, np.array([N_ITEMS + 1]))
    assert (state.position, state.keys.shape[3]) == (3, 3)


def test_absolute_positions_cannot_slide():
    with pytest.raises(ExportError, match="absolute positions cannot slide"):
        step_tower(encoder(replace(CONFIG, positions="absolute")))


def test_batch_events_and_past_are_symbolic():
    model = step_tower(ENCODER)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes["items"] == shapes["positions"] == ["B", "L"]
    assert shapes["keys_2"] == shapes["values_0"] == ["B", 2, "P", 8]
    assert shapes["new_keys"] == shapes["new_values"] == [3, "B", 2, "L", 8]


@pytest.mark.parametrize("length", [0, 4, WINDOW - 1, WINDOW, WINDOW + 5])
def test_bytes_of_a_state(appender, length):
    _, state = appender.prefill(random_items(1, length))
    assert state.keys.nbytes + state.values.nbytes == state_bytes(CONFIG, length)


def test_drift_is_zero_before_the_window_slides_and_measured_after(appender):
    rows = append_drift(appender, full, histories(35, 8, 40, 60), start=4, at=(0, 3, 6, 7, 20))
    assert rows.columns == ["user", "appended", "forgotten", "cosine"]
    assert rows["user"].unique().to_list() == [0, 2, 3]
    assert rows["appended"].unique(maintain_order=True).to_list() == [0, 3, 6, 7, 20]
    assert rows["forgotten"].unique(maintain_order=True).to_list() == [0, 1, 14]
    exact, drifted = (
        rows.filter(condition)["cosine"]
        for condition in (rows["forgotten"] == 0, rows["forgotten"] > 0)
    )
    assert (1 - exact).abs().max() < 1e-5
    assert (1 - drifted).min() > 1e-5
    assert drifted.min() > -1


def test_drift_starts_with_a_window_and_is_that_of_each_user_alone(appender):
    rows = append_drift(appender, full, histories(35, 40), at=(0, 5))
    alone = append_drift(appender, full, histories(35), at=(0, 5))
    assert rows["forgotten"].to_list() == [0, 0, 5, 5]
    np.testing.assert_allclose(rows.filter(rows["user"] == 0)["cosine"], alone["cosine"], atol=1e-5)


def test_drift_needs_long_histories(appender):
    with pytest.raises(ExportError, match="no user has 30 events, the longest history has 12"):
        append_drift(appender, full, histories(12, 3), at=(0, 20))


def test_timings_of_all_ways(appender):
    seen = []

    def encode(items, lengths):
        seen.append((items.shape, lengths.tolist()))
        return full(items, lengths)

    rows = append_timings(appender, encode, N_ITEMS, (1, 4, WINDOW + 3), repeats=4)
    counts = rows.group_by("variant", "length").len()
    assert len(counts) == 9
    assert counts["len"].unique().to_list() == [4]
    assert set(rows["variant"]) == {"append", "prefill", "full encode"}
    assert (rows["ms"] > 0).all()
    assert seen == [((1, n), [n]) for n in (1, 4, WINDOW) for _ in range(5)]


def test_appending_costs_less_than_half_a_full_encode_of_a_long_history():
    config = RetrieverConfig(d=64, layers=2, heads=2, hidden=256, window=200, content=False)
    appender = Appender(step_tower(encoder(config)).SerializeToString(), config.window)
    rows = append_timings(
        appender, lambda items, lengths: appender.prefill(items), N_ITEMS, (200,), repeats=20
    )
    median = {
        variant: rows.filter(rows["variant"] == variant)["ms"].median()
        for variant in ("append", "full encode")
    }
    assert median["append"] < 0.5 * median["full encode"]


def test_a_state_is_used_without_torch():
    code = "import sys, nanorecsys.export.append; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
