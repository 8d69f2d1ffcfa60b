import numpy as np
import pandas as pd
import torch

from nanorecsys.models.ranker import Ranker, RankerConfig, item_features

B, C, D, F = 3, 5, 8, 4


def inputs():
    torch.manual_seed(0)
    users = torch.nn.functional.normalize(torch.randn(B, D), dim=-1)
    items = torch.nn.functional.normalize(torch.randn(B, C, D), dim=-1)
    return users, items, torch.randn(B, C, F), torch.randint(2, (B, C)).float()


def trained():
    """A ranker whose last layer is not zero, as after training."""
    ranker = Ranker(RankerConfig(d=D, features=F, hidden=(6, 4))).eval()
    torch.nn.init.normal_(ranker.out.weight)
    return ranker


def test_an_untrained_ranker_keeps_the_retrievers_order():
    users, items, features, unknown = inputs()
    scores = Ranker(RankerConfig(d=D, features=F, temperature=0.2)).eval()(
        users, items, features, unknown
    )
    torch.testing.assert_close(scores, torch.einsum("bd,bcd->bc", users, items) / 0.2)


def test_the_split_first_layer_is_one_matrix_over_the_concatenation():
    users, items, features, unknown = inputs()
    ranker = trained()
    wide = users[:, None].expand(-1, C, -1)
    whole = torch.cat(
        [wide * D**0.5, items * D**0.5, wide * items * D, features, unknown[..., None]], -1
    )
    weight = torch.cat(
        [part.weight for part in (ranker.user, ranker.item, ranker.product, ranker.features)], 1
    )
    h = torch.relu(whole @ weight.T + ranker.user.bias)
    h = torch.relu(ranker.hidden[0](h))
    expected = (wide * items).sum(-1) / 0.1 + ranker.out(h)[..., 0]
    torch.testing.assert_close(ranker(users, items, features, unknown), expected)


def test_the_score_of_a_candidate_does_not_depend_on_the_others():
    users, items, features, unknown = inputs()
    ranker = trained()
    order = torch.randperm(C)
    scores = ranker(users, items, features, unknown)
    torch.testing.assert_close(
        ranker(users, items[:, order], features[:, order], unknown[:, order]), scores[:, order]
    )


def test_item_features():
    items = pd.DataFrame(
        {"year": pd.array([2000, None], dtype="Int16"), "genres": [["a", "b"], []]}
    )
    features = item_features(items, np.array([7, 0]))
    np.testing.assert_allclose(features, [[1, 1, 0, 1, 1], [0, 0, 1, 0, 0]])
    assert features.dtype == np.float32
    assert not item_features(items, np.array([0, 0]))[:, 0].any()
