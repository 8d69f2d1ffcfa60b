import numpy as np
import pandas as pd
import pytest
import torch

from nanorecsys.models.items import ItemTable, item_content

ITEMS = pd.DataFrame(
    {
        "title": ["Toy Story (1995)", "Toy Story 2 (1999)", "Heat (1995)", ""],
        "year": pd.array([1995, 1999, 1995, None], dtype="Int16"),
        "genres": [["Comedy", "Animation"], ["Comedy"], ["Crime"], []],
    }
)
KNOWN = np.array([True, True, False, False])


def features_of(content, item):
    return {
        content.names[f]
        for f in content.features[content.offsets[item] : content.offsets[item + 1]]
    }


def test_content_holds_genres_year_bins_and_shared_words():
    content = item_content(ITEMS)
    assert features_of(content, 0) == {
        "genre:Comedy",
        "genre:Animation",
        "year:1995",
        "word:toy",
        "word:story",
    }
    assert features_of(content, 1) == {"genre:Comedy", "year:1995", "word:toy", "word:story"}
    assert features_of(content, 2) == {"genre:Crime", "year:1995"}
    assert features_of(content, 3) == set()


def test_content_of_items_without_any_feature():
    content = item_content(
        pd.DataFrame({"title": ["a"], "year": [None], "genres": [[]]}).astype(ITEMS.dtypes)
    )
    assert (len(content.offsets), content.names) == (2, ())
    assert ItemTable(np.array([True]), 4, content)(0.5).shape == (2, 4)


def table():
    torch.manual_seed(0)
    return ItemTable(KNOWN, 8, item_content(ITEMS))


def test_rows_are_unit_vectors():
    for items in (table(), ItemTable(KNOWN, 8, None)):
        torch.testing.assert_close(items().norm(dim=1), torch.ones(5))


def test_an_unknown_item_is_its_content_and_one_without_content_its_id():
    items = table()
    torch.testing.assert_close(items()[3], items.content_only()[3])
    assert not torch.allclose(items()[1], items.content_only()[1])
    torch.testing.assert_close(items()[4], torch.nn.functional.normalize(items.ids[4], dim=0))
    assert not items.content_only()[4].any()


def test_id_dropout_leaves_the_content():
    items = table()
    torch.testing.assert_close(items(1.0)[1:4], items.content_only()[1:4])
    assert not torch.allclose(items()[1], items.content_only()[1])


def test_content_is_the_scaled_sum_of_the_features():
    items, content = table(), item_content(ITEMS)
    mine = items.features[content.features[: content.offsets[1]]].sum(0) / content.offsets[1] ** 0.5
    torch.testing.assert_close(items.content_only()[1], torch.nn.functional.normalize(mine, dim=0))


@pytest.mark.parametrize("content", [True, False])
def test_gradients_reach_ids_and_content(content):
    items = table() if content else ItemTable(KNOWN, 8, None)
    items()[1:, 0].sum().backward()
    assert items.ids.grad[1].any()
    # Unknown: content alone.
    assert items.ids.grad[3].any() != content
    assert not content or items.features.grad.any()
