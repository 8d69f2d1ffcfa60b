"""A sample has the whole history of its users; the second data set is another one. 2 s."""

import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import (
    SECOND_DATASET,
    DataError,
    load_dataset,
    load_second,
    registry,
    sample_users,
)


def raw(dataset):
    events = dataset.interactions
    numbers = pd.DataFrame(
        {"user": events.user, "item": events.item, "t": events.timestamp, "rating": events.rating}
    )
    titled = numbers.merge(dataset.users, on="user").merge(dataset.items, on="item")
    columns = ["user_id", "item_id", "title", "t", "rating"]
    return titled[columns].sort_values(["user_id", "t", "item_id"], ignore_index=True)


def test_sampled_users_keep_their_events_and_are_renumbered():
    whole = load_dataset()
    small = sample_users(whole, 50, seed=1)
    events = small.interactions
    drawn = raw(whole).query("user_id in @small.users.user_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(raw(small), drawn)
    assert (events.n_users, len(small.users), events.n_items) == (50, 50, len(small.items))
    assert (np.bincount(events.item) > 0).all()
    assert small.items.dtypes.equals(whole.items.dtypes)
    assert small.users.dtypes.equals(whole.users.dtypes)
    assert [a.dtype for a in (events.user, events.item)] == [np.int32, np.int32]
    order = np.lexsort((events.item, events.timestamp, events.user))
    assert (order == np.arange(len(events))).all()
    assert events.ids_sha256 != whole.interactions.ids_sha256


def test_the_seed_determines_the_sample_and_its_name_says_so():
    whole = load_dataset()
    drawn = [sample_users(whole, 50, seed) for seed in (1, 1, 2)]
    assert drawn[0].users.equals(drawn[1].users)
    assert not drawn[0].users.equals(drawn[2].users)
    assert drawn[0].name == f"{whole.name}, 50 users"


@pytest.mark.parametrize("users", [-1, 1])
def test_an_impossible_sample_is_refused(users):
    with pytest.raises(DataError, match=f"sample_users is {users}"):
        sample_users(load_dataset(), users)


@pytest.mark.parametrize("users", [671, 1000])
def test_a_data_set_without_so_many_users_stays_whole(users):
    whole = load_dataset()
    assert sample_users(whole, users) is whole


def test_the_second_data_set_is_whole_or_sampled_like_the_first(folder):
    own = load_dataset(folder)  # two users
    assert load_second("", own) is None
    assert load_second(SECOND_DATASET, own).interactions.n_users == 2148
    assert load_second(SECOND_DATASET, own, 250, 1).name == f"{SECOND_DATASET}, 250 users"
    small = load_second(str(folder), load_dataset(), 250)
    assert (small.name, small.interactions.n_users) == (folder.name, 2)


def test_the_first_data_set_again_is_refused():
    first = load_dataset()
    path = str(registry.fetch(first.name))
    for name, sample in ((first.name, 0), (path, 0), (path, 50)):
        one = sample_users(first, sample) if sample else first
        with pytest.raises(DataError, match="the first data set is ml-latest-small-2016") as error:
            load_second(name, one, sample)
        assert "second_dataset=''" in error.value.remedy
    with pytest.raises(DataError, match="no data set, folder or file 'ml-2023'"):
        load_second("ml-2023", first)
