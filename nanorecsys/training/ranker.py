"""Training and use of the ranker: lists mined from the retriever's own candidates.

A list is a place in a user's training history: the item that came next, and items that the
retriever put high there and that the user never took. Whole lists, and single items of others,
lose their item ids at random: content alone then gives their vectors, and their popularity is
unknown. So the ranker learns to place new items.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nanorecsys.data import Histories, expand
from nanorecsys.evaluation import Scorer, Task
from nanorecsys.models.ranker import FittedRanker, ItemSide, Ranker, RankerConfig, item_features
from nanorecsys.models.retriever import Retriever
from nanorecsys.serving.padding import padded_batches
from nanorecsys.training.errors import TrainingError

BLOCK = 4 * 2**20  # scores held at once while candidates are mined
MINED_TOKENS = 8192  # places of a batch of users while candidates are mined


@dataclass(frozen=True)
class RankerTraining:
    """Settings of the ranker's training.

    Args:
        lists: Approximate number of places, the latest of each user first.
        depth: Number of the retriever's best items that mined negatives are drawn from.
        mined: Negatives of a list from the retriever's best items.
        uniform: Negatives of a list from the whole catalogue.
        id_dropout: Probability that a whole list loses its ids, and again that a single item does.
        epochs: Passes over the lists.
        batch_lists: Lists in a step.
        learning_rate: AdamW's rate at the start; it falls linearly to 0.
        weight_decay: AdamW's weight decay.
        seed: Random seed for weights, order and negatives.
    """

    lists: int = 50_000
    depth: int = 200
    mined: int = 16
    uniform: int = 16
    id_dropout: float = 0.2
    epochs: int = 3
    batch_lists: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Lists:
    """Places to learn from.

    Args:
        users: User vectors, float32 (N, D).
        positive: Items that came next, int64 (N,).
        mined: Best items that the user never has, int64 (N, depth), -1 where there are fewer.
    """

    users: Tensor
    positive: Tensor
    mined: Tensor


@torch.inference_mode()
def mine(model: Retriever, histories: Histories, lists: int, depth: int) -> Lists:
    """Mine the latest places of every user, with what the retriever would have recommended there.

    Args:
        model: Trained retriever in evaluation mode.
        histories: Histories that it was trained on.
        lists: Approximate number of places, spread evenly over the users.
        depth: Candidates of a place; items that the user has at any time are left out.

    Raises:
        TrainingError: no user has two events.
    """
    window = model.config.window
    users = np.flatnonzero(histories.lengths > 1)
    latest = max(1, lists // max(len(users), 1))
    table = model.encoder().get_buffer("table")
    device = table.device
    found = []
    for batch, *arrays in padded_batches(histories, users, window + 1, MINED_TOKENS):
        items, lengths = (torch.from_numpy(array).to(device) for array in arrays)
        place = torch.arange(items.shape[1] - 1, device=device)
        end = lengths[:, None] - 1
        row, column = torch.nonzero((place < end) & (place >= end - latest), as_tuple=True)
        everywhere = model.tower.everywhere(table[items[:, :-1]], torch.zeros_like(items[:, :-1]))
        vectors = everywhere[row, column]
        taken = torch.zeros(len(batch), len(table), dtype=torch.bool, device=device)
        own, own_items = events_of(histories, users[batch])
        taken[own, own_items + 1] = True
        taken[:, 0] = True
        for part in torch.arange(len(row), device=device).split(max(1, BLOCK // len(table))):
            scores = (vectors[part] @ table.T).masked_fill_(taken[row[part]], -torch.inf)
            best = scores.topk(min(depth, len(table) - 1))
            candidates = torch.where(best.values > -torch.inf, best.indices - 1, -1)
            positive = items[row[part], column[part] + 1] - 1
            found.append((vectors[part].cpu(), positive.cpu(), candidates.cpu()))
    if not found:
        raise TrainingError("no user has two events to learn from", "Bring longer histories.")
    return Lists(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def fit_ranker(
    model: Retriever, task: Task, items: pd.DataFrame, config: RankerTraining
) -> FittedRanker:
    """Fit a ranker for a retriever that was fitted on the same task.

    The loss is cross entropy over a list: the positive against its negatives.

    Args:
        model: Retriever in evaluation mode.
        task: Task whose known events the ranker learns from.
        items: One row per item, as in `nanorecsys.data.Dataset`.
        config: Training settings.

    Raises:
        TrainingError: no user has two events.
    """
    lists = mine(model, task.seen, config.lists, config.depth)
    counts = np.bincount(task.known.item, minlength=task.n_items)
    side = ItemSide(
        torch.from_numpy(model.item_vectors()),
        torch.from_numpy(model.item_vectors(content_only=True)),
        torch.from_numpy(item_features(items, counts)),
        torch.from_numpy(counts > 0),
    )
    torch.manual_seed(config.seed)
    d, features = side.vectors.shape[1], side.features.shape[1]
    ranker = Ranker(RankerConfig(d=d, features=features, temperature=model.config.temperature))
    optimizer = torch.optim.AdamW(
        ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    n = len(lists.positive)
    steps = -(-n // config.batch_lists) * config.epochs
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    with tqdm(total=steps, desc="ranker", unit="step") as bar:
        for _ in range(config.epochs):
            for part in torch.randperm(n).split(config.batch_lists):
                candidates, missing = draw(lists, part, config, task.n_items)
                masked = torch.rand(len(part), 1) < config.id_dropout
                masked = masked | (torch.rand(candidates.shape) < config.id_dropout)
                scores = ranker(lists.users[part], *side.read(candidates, masked))
                loss = functional.cross_entropy(
                    scores.masked_fill(missing, -torch.inf),
                    torch.zeros(len(part), dtype=torch.int64),
                )
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                bar.update()
    return FittedRanker(ranker.eval(), side)


def draw(lists: Lists, part: Tensor, config: RankerTraining, n_items: int) -> tuple[Tensor, Tensor]:
    """Draw the candidates of some lists, the positive first.

    Returns:
        items int64 (B, 1 + mined + uniform); bool of the same shape, True where there is no
        negative.
    """
    positive, mined = lists.positive[part, None], lists.mined[part]
    chosen = torch.randint(mined.shape[1], (len(part), config.mined))
    uniform = torch.randint(n_items, (len(part), config.uniform))
    candidates = torch.cat([positive, mined.gather(1, chosen), uniform], 1)
    missing = candidates < 0
    missing[:, 1:] |= candidates[:, 1:] == positive
    return candidates.clamp_min(0), missing


def reranker(
    fitted: FittedRanker, user_vectors: np.ndarray, seen: Histories, depth: int = 100
) -> Scorer:
    """Put the retriever's `depth` best unseen items in the ranker's order, above all other items.

    Args:
        fitted: Ranker and its inputs.
        user_vectors: User vectors of the retriever, float32 (n_users, D).
        seen: Items of each user that are no candidates.
        depth: Number of items to rank.
    """
    items = fitted.items

    @torch.inference_mode()
    def score(users: np.ndarray) -> np.ndarray:
        vectors = torch.from_numpy(user_vectors[users])
        scores = vectors @ items.vectors.T  # (B, n_items), within [-1, 1]
        unseen = scores.index_put(events_of(seen, users), torch.tensor(-torch.inf))
        best = unseen.topk(min(depth, scores.shape[1])).indices  # (B, depth)
        ranked = fitted.ranker(vectors, *items.read(best))
        # Places instead of scores: they stay apart in float32 whatever the ranker's scale.
        places = ranked.argsort(1).argsort(1).float()
        return scores.scatter_(1, best, 2 + places).numpy()

    return score


def events_of(histories: Histories, users: np.ndarray) -> tuple[Tensor, Tensor]:
    """All events of some users: position in `users` and item, two int64 (n,)."""
    row, event = expand(histories.offsets[users], histories.offsets[users + 1])
    return torch.from_numpy(row), torch.from_numpy(histories.items[event].astype(np.int64))
