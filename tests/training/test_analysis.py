"""Quality over seeds, margins, the number of events to read, ties, variants."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nanorecsys.data import Histories, Interactions, leave_one_out
from nanorecsys.evaluation import Change, DotProduct, evaluate, make_task, value
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.training import analysis
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.fit import encode_users, fit_retriever
from nanorecsys.training.loop import Trained
from nanorecsys.training.result import NdcgDifference, Read
from tests.training.sequences import SHORT, SMALL, titles, walks


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    users, items = 40, 30
    rows = [
        (u, i, t) for u in range(users) for t, i in enumerate(rng.choice(items, 8, replace=False))
    ]
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    interactions = Interactions(
        user.astype(np.int32),
        item.astype(np.int32),
        np.ones(len(user), np.float32),
        time.astype(np.int64),
    )
    return make_task(interactions, leave_one_out(interactions), "test")


def run(task, seed):
    rng = np.random.default_rng(seed)
    users, items = (
        rng.normal(size=(n, 4)).astype(np.float32) for n in (task.n_users, task.n_items)
    )
    return evaluate(DotProduct(users, items), task.targets, task.seen, task.n_items)


def test_quality_is_the_mean_over_the_seeds(task):
    runs = [run(task, seed) for seed in range(3)]
    found = analysis.quality(runs)
    assert found.ndcg == pytest.approx(np.mean([value(r, "ndcg@10") for r in runs]))
    assert found.hitrate == pytest.approx(np.mean([value(r, "hitrate@10") for r in runs]))
    assert found.ndcg_low < found.ndcg < found.ndcg_high
    assert (found.users, found.seeds) == (40, 3)


def test_a_difference_is_paired(task):
    one, other = run(task, 0), run(task, 1)
    assert analysis.difference([one], [one], "itself") == NdcgDifference(
        against="itself", ndcg=0.0, low=0.0, high=0.0
    )
    found = analysis.difference([one], [other], "other")
    assert found.ndcg == pytest.approx(value(one, "ndcg@10") - value(other, "ndcg@10"))
    assert found.low < found.ndcg < found.high


def test_fewer_events_are_the_last_ones_and_the_seen_stay_left_out(task):
    torch.manual_seed(0)
    config = RetrieverConfig(d=8, layers=1, heads=2, hidden=8, window=6, dropout=0.0, content=False)
    model = Retriever(config, np.ones(task.n_items, bool)).eval()
    reads = analysis.read_fewer(model, task, analysis.rank(model, task), [2, 4, 6, 9, 0])
    assert [r.events for r in reads] == [6, 4, 2]
    assert [r.mean for r in reads] == [6, 4, 2]  # every history has seven
    assert reads[0].ndcg_100.change == reads[0].ndcg_100.low == reads[0].ndcg_100.high == 0
    last_two = task.seen.offsets[1:, None] - np.array([2, 1])
    short = Histories(2 * np.arange(task.n_users + 1), task.seen.items[last_two.ravel()])
    scores = DotProduct(encode_users(model, short), model.item_vectors())
    by_hand = evaluate(scores, task.targets, task.seen, task.n_items)
    assert reads[2].ndcg_100.base == reads[0].ndcg_100.base
    assert reads[2].ndcg_100.change == pytest.approx(
        value(by_hand, "ndcg@100") - reads[0].ndcg_100.base
    )
    assert reads[2].hitrate_100.base + reads[2].hitrate_100.change == 1  # 100 covers all 30 items


def read(events, low=0.0, low_100=0.0):
    ndcg, hits = (
        Change(base=v, change=0.0, low=low, high=0.01) for v, low in ((0.1, low), (0.4, low_100))
    )
    return Read(events=events, mean=events, ndcg_100=ndcg, hitrate_100=hits)


def test_enough_events_are_the_fewest_down_to_which_both_metrics_hold():
    whole, good = read(200), read(100, low=-0.004)
    assert analysis.enough_events([whole, good, read(50, low=-0.0049), read(20, low=-0.006)]) == 50
    assert (
        analysis.enough_events([whole, good, read(50, low_100=-0.021), read(20)]) == 100
    )  # none beyond the first
    assert analysis.enough_events([whole, read(100, low=-0.0051)]) == 200
    assert analysis.enough_events([whole]) == 200


def test_the_other_tie_rule_changes_tied_targets_only():
    events = Interactions(
        user=np.array([0, 0, 0, 0, 1, 1, 1, 1], np.int32),
        item=np.array([0, 1, 2, 3, 0, 1, 2, 3], np.int32),
        rating=np.ones(8, np.float32),
        timestamp=np.array([1, 2, 3, 3, 1, 2, 3, 4]),
    )
    other = analysis.ties_reversed(events)
    assert other.item.tolist() == [0, 1, 3, 2, 0, 1, 2, 3]
    tasks = [make_task(x, leave_one_out(x), "test") for x in (events, other)]
    assert analysis.changed_targets(*tasks) == 0.5
    assert analysis.changed_targets(tasks[0], tasks[0]) == 0.0


def test_raw_rows_name_task_model_and_run(task):
    rows = analysis.rank_frame({"t": {"m": [run(task, 0), run(task, 1)], "n": [run(task, 2)]}})
    assert rows.columns.tolist() == ["task", "model", "run", "user", "item", "rank"]
    assert rows.groupby("model").size().to_dict() == {"m": 80, "n": 40}


def test_a_variant_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(TrainingError, match=r"(?s)no variant 'gbc'.*half_window"):
        analysis.variants(SMALL, SHORT, ["gbc"])


def test_variants_change_one_configuration_each():
    found = analysis.variants(SMALL, SHORT, ["gbce", "half_window"])
    assert found == {
        analysis.BASE: (SMALL, SHORT),
        "gbce": (SMALL, replace(SHORT, loss="gbce")),
        "half_window": (replace(SMALL, window=4), SHORT),
    }
    assert len(analysis.variants(SMALL, SHORT, [])) == 11


def test_an_item_choice_also_judges_rare_targets_alone(monkeypatch, task):
    monkeypatch.setattr(analysis, "RARE", 9)
    ranks = run(task, 0)
    model = Retriever(
        RetrieverConfig(d=8, layers=1, heads=2, hidden=8, content=False), np.ones(30, bool)
    )
    curve = pd.DataFrame({"seconds": [2.0, 3.0]})
    found = analysis.item_choice(Trained(model, curve, best_epoch=1), ranks, task)
    counts = np.bincount(task.known.item, minlength=30)
    rare = ranks.restricted(counts[ranks.target_item] < analysis.RARE)
    assert found.ndcg == value(ranks, "ndcg@10")
    assert (found.rare_targets, found.ndcg_rare) == (len(rare.rank), value(rare, "ndcg@10"))
    assert (found.best_epoch, found.seconds) == (1, 5.0)


@pytest.mark.parametrize("ways", [[], ["id and context"]])
def test_an_unknown_way_to_represent_items_is_named_with_those_that_exist(ways):
    with pytest.raises(TrainingError, match=r"(?s)items_by.*id and content, id alone"):
        analysis.item_inputs(ways)


def test_a_variant_is_fitted_with_every_seed():
    events = walks()
    task = make_task(events, leave_one_out(events), "validation")
    variants = analysis.variants(SMALL, replace(SHORT, epochs=1), ["one_layer"])
    found = analysis.ablate(task, titles(), variants, seeds=[0, 1])
    assert found["variant"].tolist() == ["base", "base", "one_layer", "one_layer"]
    assert found["seed"].tolist() == [0, 1, 0, 1]
    one_layer = fit_retriever(
        task, titles(), replace(SMALL, layers=1), replace(SHORT, epochs=1, seed=1)
    )
    assert found["ndcg"].iloc[3] == value(analysis.rank(one_layer.model, task), "ndcg@10")
