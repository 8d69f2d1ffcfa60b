"""The training loop: losses learn, seeds repeat, killed runs continue, bad input is named."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanorecsys.data import Histories, histories, leave_one_out
from nanorecsys.evaluation import evaluate, make_task, value
from nanorecsys.models.retriever import Retriever
from nanorecsys.training import loop
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.fit import encode_users, fit_retriever, scorer
from nanorecsys.training.loop import TrainingConfig, TrainingRun, train
from nanorecsys.training.losses import LOSSES
from tests.training.sequences import SHORT, SMALL, titles, walks

EVENTS = walks()
HISTORIES = histories(EVENTS)


def fresh(config=SMALL, n_items=30, seed=0):
    torch.manual_seed(seed)
    return Retriever(config, np.ones(n_items, bool))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_the_walk(loss):
    task = make_task(EVENTS, leave_one_out(EVENTS), "test")
    fitted = fit_retriever(
        task, titles(), SMALL, replace(SHORT, epochs=12, loss=loss), progress=False
    )
    result = evaluate(scorer(fitted.model, task), task.targets, task.seen, task.n_items)
    # Chance is 1 in 17 unseen items.
    assert value(result, "hitrate@1") > 0.7


def test_content_learns_it_too():
    task = make_task(EVENTS, leave_one_out(EVENTS), "test")
    model = replace(SMALL, content=True, id_dropout=0.1)
    fitted = fit_retriever(task, titles(), model, replace(SHORT, epochs=12), progress=False)
    result = evaluate(scorer(fitted.model, task), task.targets, task.seen, task.n_items)
    assert value(result, "hitrate@1") > 0.5


def test_bf16_learns_it_too():
    task = make_task(EVENTS, leave_one_out(EVENTS), "test")
    fitted = fit_retriever(
        task, titles(), SMALL, replace(SHORT, epochs=12, precision="bf16"), progress=False
    )
    result = evaluate(scorer(fitted.model, task), task.targets, task.seen, task.n_items)
    assert value(result, "hitrate@1") > 0.7
    assert all(p.dtype == torch.float32 for p in fitted.model.parameters())


def test_same_seed_same_weights_and_another_seed_others():
    models = []
    for seed in (1, 1, 2):
        model = fresh(seed=0)
        train(model, HISTORIES, replace(SHORT, seed=seed), progress=False)
        models.append(weights(model))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_a_target_competes_with_earlier_items_only_if_configured():
    twice = Histories(np.array([0, 4], np.int64), np.array([7, 3, 7, 5], np.int32))
    events = torch.arange(4)
    had = TrainingRun(fresh(), twice, SHORT).excluded(events)
    assert [row.nonzero().flatten().tolist() for row in had] == [[], [8], [4], [4, 8]]
    assert (
        not TrainingRun(fresh(), twice, replace(SHORT, seen_negatives=True)).excluded(events).any()
    )

    def losses(config):
        return train(fresh(), HISTORIES, config, progress=False).curve["loss"].tolist()

    apart, together = losses(SHORT), losses(replace(SHORT, seen_negatives=True))
    assert apart[0] < together[0]


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_a_run_killed_within_an_epoch_continues_to_the_same_result(tmp_path, monkeypatch, loss):
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 7)
    config = replace(SHORT, loss=loss)
    whole = fresh()
    expected = train(whole, HISTORIES, config, validate=count_up(), progress=False)

    class KilledError(Exception):
        pass

    validate = count_up()

    def die_in_epoch_2(model):
        if validate.calls:
            raise KilledError
        return validate(model)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KilledError):
        # The last checkpoint lies in the middle of the second epoch, of 9 steps.
        train(
            fresh(),
            HISTORIES,
            config,
            validate=die_in_epoch_2,
            checkpoint_path=path,
            progress=False,
        )
    resumed = fresh(seed=5)
    got = train(
        resumed,
        HISTORIES,
        config,
        validate=validate,
        checkpoint_path=path,
        progress=False,
    )
    assert torch.equal(weights(resumed), weights(whole))
    assert got.curve.drop(columns="seconds").equals(expected.curve.drop(columns="seconds"))
    assert got.best_epoch == expected.best_epoch


def count_up():
    """A validation that gets better with every call."""

    def validate(model):
        validate.calls += 1
        return validate.calls

    validate.calls = 0
    return validate


KILLED = """
import sys
from pathlib import Path
from tests.training.test_loop import long_run
long_run(Path(sys.argv[1]))
"""


def long_run(path):
    """Train on one thread with many checkpoints; losses and the sum of the weights."""
    torch.set_num_threads(1)
    loop.CHECKPOINT_STEPS = 4
    model = fresh()
    config = replace(SHORT, epochs=12)
    trained = train(model, HISTORIES, config, checkpoint_path=path, progress=False)
    return trained.curve["loss"].tolist(), weights(model).sum().item()


def test_a_run_after_kill_9_ends_like_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 4)  # put back after the test
    path, threads = tmp_path / "killed.pt", torch.get_num_threads()
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    try:
        assert long_run(path) == long_run(tmp_path / "whole.pt")
    finally:
        torch.set_num_threads(threads)


def test_a_finished_run_is_not_trained_again(tmp_path):
    path = tmp_path / "checkpoint.pt"
    first, second = fresh(), fresh(seed=5)
    expected = train(first, HISTORIES, SHORT, checkpoint_path=path, progress=False)
    got = train(second, HISTORIES, SHORT, checkpoint_path=path, progress=False)
    assert got.curve.equals(expected.curve)
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize(
    ("histories", "config"),
    [(HISTORIES, replace(SHORT, learning_rate=1e-3)), (histories(walks(seed=1)), SHORT)],
    ids=["other settings", "other data"],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, histories, config):
    path = tmp_path / "checkpoint.pt"
    train(fresh(), HISTORIES, SHORT, stop_after=1, checkpoint_path=path, progress=False)
    with pytest.raises(TrainingError, match="other settings or other data"):
        train(fresh(), histories, config, checkpoint_path=path, progress=False)


def test_validation_keeps_the_best_weights():
    scores = iter([0.1, 0.3, 0.2])
    seen = []

    def validate(model):
        assert not model.training
        seen.append(weights(model))
        return next(scores)

    model = fresh()
    trained = train(model, HISTORIES, SHORT, validate=validate, progress=False)
    assert trained.best_epoch == 2
    assert trained.curve["validation"].tolist() == [0.1, 0.3, 0.2]
    assert torch.equal(weights(model), seen[1])


def test_a_refit_follows_the_schedule_as_far_as_it_goes():
    scores = iter([0.1, 0.3, 0.2])
    chosen, refitted = fresh(), fresh()
    best = train(
        chosen, HISTORIES, SHORT, validate=lambda model: next(scores), progress=False
    ).best_epoch
    train(refitted, HISTORIES, SHORT, stop_after=best, progress=False)
    assert torch.equal(weights(chosen), weights(refitted))


def test_a_loss_that_is_not_finite_stops_with_the_step_and_a_remedy():
    model = fresh()
    with torch.no_grad():
        model.tower.norm.weight[0] = torch.nan
    with pytest.raises(TrainingError, match=r"step 1 \(epoch 1\) has loss nan") as error:
        train(model, HISTORIES, SHORT, progress=False)
    assert "learning_rate" in error.value.remedy


def test_progress_shows_the_time_left(capsys):
    train(fresh(), HISTORIES, SHORT)
    shown = capsys.readouterr().err
    assert "27/27" in shown
    assert "<00:0" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "no loss 'hinge'"),
        ({"precision": "fp16"}, r"(?s)no precision 'fp16'.*auto, bf16, fp32"),
        ({"epochs": 0}, "at least 1"),
    ],
)
def test_impossible_settings_are_named_errors(change, message):
    with pytest.raises(TrainingError, match=message):
        TrainingConfig(**change)


def test_a_history_longer_than_the_window_counts_by_its_last_items():
    model = fresh().eval()
    long, short = (
        Histories(np.array([0, n]), np.arange(30 - n, 30, dtype=np.int32)) for n in (25, 8)
    )
    np.testing.assert_array_equal(encode_users(model, long), encode_users(model, short))


def test_users_without_and_with_one_event_and_items_of_the_test_part_only():
    model = fresh()
    # User 1 has nothing, user 2 one event, and no event has the items 5 to 29.
    few = Histories(np.array([0, 4, 4, 5]), np.array([0, 1, 2, 3, 4], np.int32))
    train(model, few, SHORT, progress=False)
    vectors = encode_users(model.eval(), few)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert np.isfinite(vectors @ model.item_vectors().T).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_data_set_of_one_item(loss):
    model = fresh(n_items=1)
    one = Histories(np.array([0, 2, 3]), np.zeros(3, np.int32))
    trained = train(model, one, replace(SHORT, loss=loss), progress=False)
    assert trained.curve["loss"].map(np.isfinite).all()
    assert encode_users(model.eval(), one).shape == (2, 16)


def test_a_users_vector_does_not_depend_on_the_batch():
    model = fresh().eval()
    lengths = np.array([0, 3, 14, 1, 9])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    uneven = Histories(
        offsets, np.random.default_rng(0).integers(0, 30, offsets[-1]).astype(np.int32)
    )
    apart = np.concatenate([encode_users(model, uneven, np.array([user])) for user in range(5)])
    np.testing.assert_allclose(encode_users(model, uneven), apart, atol=1e-6)
    np.testing.assert_allclose(
        encode_users(model, uneven, np.array([4, 1])), apart[[4, 1]], atol=1e-6
    )
