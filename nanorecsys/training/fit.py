"""The retriever on a task: fitted, validated, turned into a scorer for the evaluator."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from nanorecsys.evaluation import DotProduct, Task, evaluate, value
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.training.encode import encode_users
from nanorecsys.training.loop import Trained, TrainingConfig, train

METRIC = "ndcg@10"


@dataclass(frozen=True)
class Fitted:
    """A trained retriever in evaluation mode, and how it got there."""

    model: Retriever
    trained: Trained


def fit_retriever(
    task: Task,
    items: pl.DataFrame,
    model: RetrieverConfig,
    training: TrainingConfig,
    *,
    validate: bool = False,
    stop_after: int | None = None,
    checkpoint_path: Path | None = None,
    progress: bool = True,
) -> Fitted:
    """A retriever fitted on what the task lets be known.

    The rule of the study: a validation task with `validate` chooses the epoch; the test task is
    then fitted anew with `stop_after=chosen.trained.best_epoch` and without a look at its targets.

    Args:
        task: see `nanorecsys.evaluation.make_task`.
        items: one row an item, as in `nanorecsys.data.Dataset`.
        validate: rank the task's targets after each epoch, and keep the weights of the best by
            NDCG@10.
        stop_after, checkpoint_path, progress: see `loop.train`.

    Raises:
        TrainingError: see `loop.train`.
    """
    known = np.zeros(task.n_items, bool)
    known[task.known.item] = True
    torch.manual_seed(training.seed)
    retriever = Retriever(model, known, item_content(items) if model.content else None)
    trained = train(
        retriever,
        task.seen,
        training,
        validate=(
            lambda m: value(
                evaluate(scorer(m, task), task.targets, task.seen, task.n_items, k_max=10), METRIC
            )
        )
        if validate
        else None,
        stop_after=stop_after,
        checkpoint_path=checkpoint_path,
        progress=progress,
    )
    return Fitted(retriever.eval(), trained)


def scorer(model: Retriever, task: Task, events: int | None = None) -> DotProduct:
    """Scores of all items for the users that the task asks for, each after all that is known of it.

    Where `events` is given, only so many of a history are read, the last ones.
    """
    asked = np.flatnonzero(task.targets.lengths)
    users = np.zeros((task.n_users, model.config.d), np.float32)
    users[asked] = encode_users(model, task.seen, asked, events=events)
    return DotProduct(users, model.item_vectors())
