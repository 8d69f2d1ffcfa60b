"""Quality over seeds, margins, choices of layers and events, the served order, ties, variants."""

from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch

from nanorecsys.data import TEST, Dataset, Histories, Interactions, Split, leave_one_out
from nanorecsys.data.prepared import Prepared
from nanorecsys.evaluation import Change, DotProduct, evaluate, make_task, mean_interval, value
from nanorecsys.evaluation.metrics import example
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.training import analysis
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.fit import encode_users, fit_retriever, scorer
from nanorecsys.training.loop import Trained
from nanorecsys.training.ranker import RankerTraining, fit_ranker, reranker
from nanorecsys.training.result import RETRIEVER, SERVED, LayerChoice, Read
from tests.training.sequences import SHORT, SMALL, titles, walks

TINY = RetrieverConfig(d=8, layers=1, heads=2, hidden=8, window=6, dropout=0.0, content=False)


def events_of(users=40, items=30, length=8):
    rng = np.random.default_rng(0)
    item = np.concatenate([rng.choice(items, length, replace=False) for _ in range(users)])
    return Interactions(
        np.repeat(np.arange(users, dtype=np.int32), length),
        item.astype(np.int32),
        np.ones(users * length, np.float32),
        np.tile(np.arange(length), users),
    )


@pytest.fixture(scope="module")
def task():
    interactions = events_of()
    return make_task(interactions, leave_one_out(interactions), "test")


def run(task, seed):
    rng = np.random.default_rng(seed)
    users, items = (
        rng.normal(size=(n, 4)).astype(np.float32) for n in (task.n_users, task.n_items)
    )
    return evaluate(DotProduct(users, items), task.targets, task.seen, task.n_items)


def model_of(task, seed=0):
    torch.manual_seed(seed)
    return Retriever(TINY, np.ones(task.n_items, bool)).eval()


def test_quality_is_the_mean_over_the_seeds(task):
    runs = [run(task, seed) for seed in range(3)]
    found = analysis.quality(runs)
    assert found.ndcg.estimate == pytest.approx(np.mean([value(r, "ndcg@10") for r in runs]))
    assert found.hitrate.estimate == pytest.approx(np.mean([value(r, "hitrate@10") for r in runs]))
    assert found.ndcg.low < found.ndcg.estimate < found.ndcg.high
    assert (found.users, found.seeds) == (40, 3)


def test_a_change_is_paired_by_user_and_seed(task):
    one, other = run(task, 0), run(task, 1)
    base = value(one, "ndcg@10")
    assert analysis.change([one], [one]) == Change(base=base, change=0.0, low=0.0, high=0.0)
    found = analysis.change([one, other], [one, other])
    assert (found.change, found.low, found.high) == (0, 0, 0)
    crossed = analysis.change([one, other], [other, one])
    assert crossed.change == pytest.approx(0)
    assert crossed.low < 0 < crossed.high


def test_ten_targets_of_a_user_are_one_draw():
    found, missed = list(range(1, 11)), list(range(101, 111))
    one, other = example(*[found] * 5, *[missed] * 15), example(*[missed] * 20)
    change = analysis.change([one], [other])
    by_user = mean_interval(np.repeat([1.0, 0.0], [5, 15]))
    assert (change.change, change.low, change.high) == msgspec.structs.astuple(by_user)


def test_the_margin_is_against_the_best_baseline_and_no_model_of_ours(task):
    runs = {name: [run(task, seed)] for seed, name in enumerate("abc")}
    best = max(runs, key=lambda name: value(runs[name][0], "ndcg@10"))
    worst = min(runs, key=lambda name: value(runs[name][0], "ndcg@10"))
    ours = {SERVED: runs[worst], RETRIEVER: runs[best]}
    found = analysis.margin({**ours, **runs})
    assert found.against == best
    expected = value(runs[worst][0], "ndcg@10") - value(runs[best][0], "ndcg@10")
    assert found.ndcg.estimate == pytest.approx(expected)
    assert found.ndcg.low < expected < found.ndcg.high


def test_a_user_without_a_history_is_served_the_popular_items():
    events = events_of()
    part = leave_one_out(events).part
    part[events.user == 3] = TEST  # nothing of this user is known
    task = make_task(events, Split("a new user", part, ""), "test")
    model = model_of(task)
    served = analysis.rank_served(model, task, events=2)
    counts = np.bincount(task.known.item, minlength=task.n_items)
    assert served.top[3].tolist() == np.argsort(-counts, kind="stable").tolist()
    retrieved = analysis.rank(model, task, 2)
    others = served.users != 3
    np.testing.assert_array_equal(served.top[others], retrieved.top[others])
    assert served.top[3].tolist() != retrieved.top[3].tolist()


def test_the_served_order_is_the_rankers_after_the_events_that_are_read():
    events = walks(n_users=60)
    task = make_task(events, leave_one_out(events), "test")
    short = replace(SHORT, epochs=1, learning_rate=3e-4)  # leaves something to improve
    model = fit_retriever(task, titles(), replace(SMALL, content=True), short).model
    ranked = fit_ranker(
        model,
        task,
        titles(),
        RankerTraining(depth=10, mined=6, uniform=4, epochs=2, batch_lists=64),
    )
    served = analysis.rank_served(model, task, 4, ranked)
    by_hand = reranker(ranked, scorer(model, task, 4).user_vectors, task.seen)
    expected = evaluate(by_hand, task.targets, task.seen, task.n_items)
    np.testing.assert_array_equal(served.rank, expected.rank)
    assert not np.array_equal(served.rank, analysis.rank_served(model, task, 4).rank)


def test_splits_begin_with_leave_one_out_and_know_the_last_ten():
    events = events_of(users=3, items=60, length=30)
    dataset = Dataset("some", events, pd.DataFrame(), pd.DataFrame())
    prepared = Prepared(dataset, {"leave_one_out": leave_one_out(events)})
    found = analysis.splits_of({"some": prepared}, ["last_10"])
    assert list(found["some"]) == ["leave_one_out", "last_10"]
    with pytest.raises(TrainingError, match=r"(?s)no split 'last_20'.*leave_one_out, last_10"):
        analysis.splits_of({"some": prepared}, ["last_20"])


def test_a_split_that_one_data_set_is_too_short_for_is_left_out_of_all(capsys):
    sets = {}
    for name, length in (("long", 30), ("short", 22)):
        events = events_of(users=3, items=60, length=length)
        dataset = Dataset(name, events, pd.DataFrame(), pd.DataFrame())
        sets[name] = Prepared(dataset, {"leave_one_out": leave_one_out(events)})
    found = analysis.splits_of(sets, ["last_10"])
    assert [list(splits) for splits in found.values()] == [["leave_one_out"]] * 2
    assert "last_10 is left out: no user has the 23 events" in capsys.readouterr().out


def test_a_split_that_asks_nobody_with_a_history_is_left_out(capsys):
    events = events_of(users=6, items=60, length=5)
    later = np.repeat(np.arange(6), 5)  # one user after the other
    part = (later >= 3).astype(np.int8) + (later >= 5)
    splits = {"leave_one_out": leave_one_out(events), "global_temporal": Split("t", part, "")}
    dataset = Dataset("some", events, pd.DataFrame(), pd.DataFrame())
    found = analysis.splits_of({"some": Prepared(dataset, splits)}, ["global_temporal"])
    assert list(found["some"]) == ["leave_one_out"]
    assert "no user of the validation part has an earlier event" in capsys.readouterr().out


def test_fewer_events_are_the_last_ones_and_the_seen_stay_left_out(task):
    models = [model_of(task, seed) for seed in range(2)]
    whole = [analysis.rank(model, task) for model in models]
    reads = analysis.read_fewer(models, task, whole, [2, 4, 6, 9, 0])
    assert [r.events for r in reads] == [6, 4, 2]
    assert [r.mean for r in reads] == [6, 4, 2]  # every history has seven
    assert reads[0].ndcg.change == reads[0].ndcg.low == reads[0].ndcg.high == 0
    last_two = task.seen.offsets[1:, None] - np.array([2, 1])
    short = Histories(2 * np.arange(task.n_users + 1), task.seen.items[last_two.ravel()])
    by_hand = []
    for model in models:
        scores = DotProduct(encode_users(model, short), model.item_vectors())
        by_hand.append(evaluate(scores, task.targets, task.seen, task.n_items))
    for found, metric in ((reads[2].ndcg, "ndcg@10"), (reads[2].ndcg_100, "ndcg@100")):
        assert found.base == pytest.approx(np.mean([value(w, metric) for w in whole]))
        assert found.base + found.change == pytest.approx(
            np.mean([value(e, metric) for e in by_hand])
        )


def read(events, low=0.0, low_100=0.0):
    ndcg, ndcg_100 = (
        Change(base=v, change=0.0, low=low, high=0.01) for v, low in ((0.1, low), (0.2, low_100))
    )
    return Read(events=events, mean=events, ndcg=ndcg, ndcg_100=ndcg_100)


def test_enough_events_are_the_fewest_down_to_which_ndcg_at_10_holds():
    whole, good = read(200), read(100, low=-0.004)
    assert analysis.enough_events([whole, good, read(50, low=-0.0049), read(20, low=-0.006)]) == 50
    assert analysis.enough_events([whole, read(100, low=-0.0051), read(50)]) == 200  # none beyond
    assert analysis.enough_events([whole, read(100, low_100=-0.2)]) == 100  # for information only
    assert analysis.enough_events([whole]) == 200


def layers(count, change, low=-1.0):
    ndcg = Change(base=0.1, change=change, low=low, high=1.0)
    return LayerChoice(layers=count, ndcg=ndcg, best_epoch=3, seconds=1.0)


def test_enough_layers_are_the_fewest_within_two_percent_of_the_best():
    best, close, far = layers(4, 0.0), layers(2, -0.0019), layers(1, -0.0021)
    assert analysis.enough_layers([far, close, best]).layers == 2
    assert analysis.enough_layers([far, best]).layers == 4
    assert analysis.enough_layers([layers(1, 0.0), layers(4, -0.001)]).layers == 1


def test_layers_are_compared_over_all_seeds_and_stop_at_the_mean_curves_best_epoch(task):
    ranks = {1: [run(task, 0), run(task, 1)], 2: [run(task, 2), run(task, 3)]}
    model = model_of(task)

    def trained(*validation):
        curve = pd.DataFrame({"epoch": [1, 2], "seconds": [2.0, 4.0], "validation": validation})
        return Trained(model, curve, best_epoch=int(np.argmax(validation)) + 1)

    fitted = {1: [trained(0.3, 0.1), trained(0.1, 0.2)], 2: [trained(0.1, 0.2)] * 2}
    found = {c.layers: c for c in analysis.layer_choices(fitted, ranks)}
    mean = {n: np.mean([value(r, "ndcg@10") for r in runs]) for n, runs in ranks.items()}
    best = max(mean, key=lambda n: mean[n])
    for n, choice in found.items():
        assert choice.ndcg.base == pytest.approx(mean[best])
        assert choice.ndcg.base + choice.ndcg.change == pytest.approx(mean[n])
    assert (found[best].ndcg.low, found[best].ndcg.high) == (0, 0)
    assert [found[n].best_epoch for n in (1, 2)] == [1, 2]
    assert found[1].seconds == 6.0


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
    with pytest.raises(TrainingError, match=r"(?s)no variant 'bc'.*half_window"):
        analysis.variants(SMALL, SHORT, ["bc"])


def test_variants_change_one_configuration_each():
    found = analysis.variants(SMALL, SHORT, ["bce", "half_window"])
    assert found == {
        analysis.BASE: (SMALL, SHORT),
        "bce": (SMALL, replace(SHORT, loss="bce")),
        "half_window": (replace(SMALL, window=4), SHORT),
    }
    assert len(analysis.variants(SMALL, SHORT, [])) == 7


def test_an_item_choice_also_judges_rare_targets_alone_if_there_are_enough(monkeypatch, task):
    monkeypatch.setattr(analysis, "RARE", 9)
    ranks = run(task, 0)
    trained = Trained(model_of(task), pd.DataFrame(), best_epoch=1)
    counts = np.bincount(task.known.item, minlength=30)
    rare = ranks.restricted(counts[ranks.target_item] < analysis.RARE)
    monkeypatch.setattr(analysis, "MIN_TARGETS", len(rare.rank))
    found = analysis.item_choice(trained, ranks, task)
    assert found.ndcg == analysis.quality([ranks]).ndcg
    assert (found.rare_targets, found.ndcg_rare) == (len(rare.rank), analysis.quality([rare]).ndcg)
    assert found.best_epoch == 1
    monkeypatch.setattr(analysis, "MIN_TARGETS", len(rare.rank) + 1)
    assert analysis.item_choice(trained, ranks, task).ndcg_rare is None


def test_an_unknown_way_to_represent_items_is_named_with_those_that_exist():
    assert analysis.item_inputs([]) == analysis.ITEMS_BY
    with pytest.raises(TrainingError, match=r"(?s)'id and context'.*id and content, id alone"):
        analysis.item_inputs(["id and context"])


def test_a_variant_is_fitted_with_every_seed():
    events = walks()
    task = make_task(events, leave_one_out(events), "validation")
    variants = analysis.variants(SMALL, replace(SHORT, epochs=1), ["half_window"])
    found = analysis.ablate(task, titles(), variants, seeds=[0, 1])
    assert found["variant"].tolist() == ["base", "base", "half_window", "half_window"]
    assert found["seed"].tolist() == [0, 1, 0, 1]
    half_window = fit_retriever(
        task, titles(), replace(SMALL, window=4), replace(SHORT, epochs=1, seed=1)
    )
    assert found["ndcg"].iloc[3] == value(analysis.rank(half_window.model, task), "ndcg@10")
