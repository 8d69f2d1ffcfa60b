"""The retriever on a task: fit it, encode users with it, score items for the evaluator."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from nanorecsys.data import Histories
from nanorecsys.evaluation import DotProduct, Task, value
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.serving import encoder as serving
from nanorecsys.training.loop import Trained, TrainingConfig, train


def fit_retriever(
    task: Task,
    items: pd.DataFrame,
    model: RetrieverConfig,
    training: TrainingConfig,
    *,
    validate: bool = False,
    **options: Any,
) -> Trained:
    """Fit a retriever on the known events of a task.

    The rule of the study: a validation task with `validate` chooses the epoch. The test
    task is then fitted with `stop_after` set to that epoch, without a look at its targets.

    Args:
        task: Task from `nanorecsys.evaluation.make_task`.
        items: One row per item, as in `nanorecsys.data.Dataset`.
        model: Sizes of the retriever.
        training: Training schedule.
        validate: Rank the task's targets after each epoch, and keep the weights with the best
            NDCG@10.
        options: Other options of `loop.train`: stop_after, checkpoint_path, progress.

    Raises:
        TrainingError: See `loop.train`.
    """
    known = np.zeros(task.n_items, bool)
    known[task.known.item] = True
    torch.manual_seed(training.seed)
    retriever = Retriever(model, known, item_content(items) if model.content else None)

    def validation(model: Retriever) -> float:
        return value(task.rank(scorer(model, task), k_max=10), "ndcg@10")

    score = validation if validate else None
    return train(retriever, task.seen, training, validate=score, **options)


def encode_users(
    model: Retriever,
    histories: Histories,
    users: np.ndarray | None = None,
    events: int | None = None,
) -> np.ndarray:
    """Unit vectors of users after their histories, float32 (B, d), in full precision.

    Args:
        model: Retriever to encode with.
        histories: Histories of all users; an empty one is allowed.
        users: Users to encode, int (B,); all by default.
        events: Number of last events to read from each history; the model's window by default.
    """
    encoder, device = model.encoder(), next(model.parameters()).device

    @torch.inference_mode()
    def encode(items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        arrays = (torch.from_numpy(array).to(device) for array in (items, lengths))
        return encoder(*arrays).cpu().numpy()

    return serving.encode_users(encode, histories, events or model.config.window, users)


def scorer(model: Retriever, task: Task, events: int | None = None) -> DotProduct:
    """Score all items for the users of a task, each after its known history.

    Args:
        model: Retriever to encode users with.
        task: Task whose targets will be ranked.
        events: Number of last events to read from each history; the model's window by default.
    """
    users = np.zeros((task.n_users, model.config.d), np.float32)
    users[task.asked] = encode_users(model, task.seen, task.asked, events)
    return DotProduct(users, model.item_vectors())
