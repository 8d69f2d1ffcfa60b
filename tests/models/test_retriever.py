from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanorecsys.models.errors import ModelError
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import (
    Retriever,
    RetrieverConfig,
    dropout,
    load_retriever,
    save_retriever,
)

N_ITEMS = 12
SMALL = RetrieverConfig(d=16, layers=3, heads=2, hidden=24, window=10, dropout=0.2, content=False)


def retriever(config=SMALL):
    torch.manual_seed(0)
    items = pd.DataFrame(
        {
            "title": [f"word{i // 2}" for i in range(N_ITEMS)],
            "year": [1990 + i for i in range(N_ITEMS)],
            "genres": [["a"]] * N_ITEMS,
        }
    )
    return Retriever(
        config, np.ones(N_ITEMS, bool), item_content(items) if config.content else None
    ).eval()


def with_large_weights(model):
    """So that attention and positions matter as much as they do after training."""
    with torch.no_grad():
        for weight in model.tower.parameters():
            weight.mul_(20 if weight.dim() == 2 else 1)
    return model


MODEL = with_large_weights(retriever())


@given(
    histories=st.lists(
        st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=10), min_size=1, max_size=4
    )
)
@settings(max_examples=20, deadline=None)
def test_encoder_equals_packed_rows_whatever_else_is_in_the_batch(histories):
    items = torch.zeros(len(histories), 10, dtype=torch.int64)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
    lengths = torch.tensor([len(history) for history in histories])
    with torch.no_grad():
        encoded = MODEL.encoder()(items, lengths)
        # Each at the end of a separate row, after another user's history.
        packed, segments = torch.full_like(items, 7), torch.zeros_like(items)
        for row, history in enumerate(histories):
            packed[row, 10 - len(history) :] = torch.tensor(history)
            segments[row, 10 - len(history) :] = 1
        everywhere, _ = MODEL(packed, segments)
    torch.testing.assert_close(encoded, everywhere[:, -1], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.norm(dim=1), torch.ones(len(histories)))


def test_a_position_does_not_attend_to_later_ones():
    items = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        before = MODEL(items, torch.zeros_like(items))[0]
        items[0, 3] = 9
        after = MODEL(items, torch.zeros_like(items))[0]
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 0.01


def test_order_matters():
    with torch.no_grad():
        forward, backward = MODEL.encoder()(
            torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]]), torch.tensor([4, 4])
        )
    assert (forward - backward).abs().max() > 0.01


def test_attention_for_training_equals_the_fused_one():
    model = with_large_weights(retriever(replace(SMALL, dropout=0.0)))
    items = torch.randint(1, N_ITEMS, (3, 10))
    segments = torch.tensor([[0] * 4 + [1] * 6, [0] * 10, [0] + [1] * 9])
    with torch.no_grad():
        fused, _ = model(items, segments)
        training, _ = model.train()(items, segments)
    torch.testing.assert_close(training, fused, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient():
    model = retriever(replace(SMALL, content=True))
    users, table = model(torch.tensor([[0, 3, 4]]), torch.tensor([[0, 1, 1]]))
    (users[0] @ table[5]).sum().backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


def test_dropout_acts_in_training_only():
    model = retriever()
    items = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(*(model(items, items * 0)[0] for _ in range(2)))
        model.train()
        assert not torch.equal(*(model(items, items * 0)[0] for _ in range(2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(301, 1001, dtype=dtype, requires_grad=True)
    y = dropout(x, p, training=True)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert y.float().mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y)
    # No element, row or column stands out, and none depends on its neighbour.
    dropped = (y == 0).double()
    for neighbour in (dropped[:, 1:], dropped[1:]):
        mine = dropped[: len(neighbour), : neighbour.shape[1]]
        assert (mine * neighbour).mean().item() == pytest.approx(
            dropped.mean().item() ** 2, abs=0.005
        )
    assert dropped.mean(0).sub(p).abs().max() < 0.15
    assert torch.equal(dropout(x, p, training=False), x)


def test_item_vectors_leave_padding_out_and_keep_the_mode():
    model = retriever(replace(SMALL, content=True, id_dropout=1.0)).train()
    vectors = model.item_vectors()
    assert (vectors.shape, vectors.dtype) == ((N_ITEMS, 16), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert model.items.training
    assert np.abs(vectors - model.item_vectors(content_only=True)).max() > 1e-3


@pytest.mark.parametrize("content", [True, False])
def test_saved_and_loaded_is_the_same(tmp_path, content):
    model = retriever(replace(SMALL, content=content))
    save_retriever(tmp_path / "retriever.pt", model)
    loaded = load_retriever(tmp_path / "retriever.pt")
    assert loaded.config == model.config
    np.testing.assert_array_equal(loaded.item_vectors(), model.item_vectors())
    np.testing.assert_array_equal(
        loaded.item_vectors(content_only=True), model.item_vectors(content_only=True)
    )
    items, lengths = torch.tensor([[1, 5]]), torch.tensor([2])
    assert torch.equal(loaded.encoder()(items, lengths), model.encoder()(items, lengths))


def test_a_damaged_or_missing_file_is_a_named_error(tmp_path):
    path = tmp_path / "retriever.pt"
    with pytest.raises(ModelError, match=r"retriever\.pt"):
        load_retriever(path)
    save_retriever(path, retriever())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="not a saved retriever"):
        load_retriever(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "cannot be cut"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_impossible_shapes_are_named_errors(change, message):
    with pytest.raises(ModelError, match=message):
        replace(SMALL, **change)
