"""Training and use of the ranker: lists mined from the retriever's own candidates.

A list is a place in a user's training history: the item that came next, and items that the
retriever put high there, of which the user never took any. Whole lists, and single items of others,
lose their item ids at random: their vectors are then what content alone gives, and their popularity
is unknown. So the ranker learns to place an item that nobody has met.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nanorecsys.data import Histories
from nanorecsys.evaluation import Scorer, Task
from nanorecsys.models.ranker import FittedRanker, ItemSide, Ranker, RankerConfig, item_features
from nanorecsys.models.retriever import Retriever
from nanorecsys.serving.padding import alike, padded
from nanorecsys.training.errors import TrainingError

# Scores that exist at once while candidates are mined, float32 elements.
BLOCK = 4 * 2**20


@dataclass(frozen=True)
class RankerTraining:
    """How the ranker is trained.

    Args:
        lists: at most that many places, the latest of each user first.
        depth: negatives are drawn from that many of the retriever's best.
        mined, uniform: negatives of a list: from the best, and from the catalogue.
        id_dropout: probability that a whole list loses its ids, and again that a single item does.
        epochs, batch_lists, learning_rate, weight_decay, seed: of AdamW, the rate falls to 0 on a
        line.
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
        users: float32 (N, D).
        positive: int64 (N,), the item that came next.
        mined: int64 (N, depth), the best of the items that the user never has, -1 where there are
            fewer.
    """

    users: Tensor
    positive: Tensor
    mined: Tensor


@torch.inference_mode()
def mine(
    model: Retriever, histories: Histories, lists: int, depth: int, *, batch_tokens: int = 8192
) -> Lists:
    """The latest places of every user, with what the retriever would have recommended there.

    Args:
        model: trained, in evaluation mode.
        histories: what it was trained on.
        lists: about how many places, spread evenly over the users.
        depth: candidates of a place; items that the user has at any time are left out.
    """
    window = model.config.window
    users = np.flatnonzero(histories.lengths > 1)
    latest = max(1, lists // max(len(users), 1))
    table = model.encoder().table
    found = []
    for batch in alike(np.minimum(histories.lengths[users], window + 1), batch_tokens):
        items, lengths = (
            torch.from_numpy(a).to(table.device)
            for a in padded(histories, users[batch], window + 1)
        )
        place = torch.arange(items.shape[1] - 1, device=table.device)
        end = lengths[:, None] - 1
        row, column = torch.nonzero((place < end) & (place >= end - latest), as_tuple=True)
        vectors = model.tower.everywhere(table[items[:, :-1]], torch.zeros_like(items[:, :-1]))[
            row, column
        ]
        own, own_items = _flatten(histories, users[batch])
        taken = torch.zeros(len(batch), len(table), dtype=torch.bool, device=table.device)
        taken[own, own_items + 1] = True
        taken[:, 0] = True
        for part in torch.arange(len(row), device=table.device).split(max(1, BLOCK // len(table))):
            scores = (vectors[part] @ table.T).masked_fill_(taken[row[part]], -torch.inf)
            best = scores.topk(min(depth, len(table) - 1))
            candidates = torch.where(best.values > -torch.inf, best.indices - 1, -1)
            places = vectors[part], items[row[part], column[part] + 1] - 1, candidates
            found.append(tuple(tensor.cpu() for tensor in places))
    if not found:
        raise TrainingError(
            "no user has two events: the ranker has nothing to learn from",
            "Bring longer histories.",
        )
    return Lists(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def item_side(
    model: Retriever, items: pl.DataFrame, counts: np.ndarray, genres: Sequence[str]
) -> ItemSide:
    """The item side of a retriever; `counts` int (n_items,) are events of training."""
    return ItemSide(
        torch.from_numpy(model.item_vectors()),
        torch.from_numpy(model.item_vectors(content_only=True)),
        torch.from_numpy(item_features(items, counts, genres)),
        torch.from_numpy(counts > 0),
    )


def fit_ranker(
    model: Retriever,
    task: Task,
    items: pl.DataFrame,
    config: RankerTraining,
    *,
    progress: bool = True,
) -> FittedRanker:
    """A ranker for a retriever that was fitted on the same task.

    The loss is cross entropy over a list: the positive against its negatives.

    Args:
        model: in evaluation mode.
        items: one row an item, as in `nanorecsys.data.Dataset`.

    Raises:
        TrainingError: no user has two events.
    """
    lists = mine(model, task.seen, config.lists, config.depth)
    genres = tuple(items["genres"].explode().drop_nulls().unique().sort())
    side = item_side(model, items, np.bincount(task.known.item, minlength=task.n_items), genres)
    torch.manual_seed(config.seed)
    d, features = side.vectors.shape[1], side.features.shape[1]
    ranker = Ranker(RankerConfig(d=d, features=features, temperature=model.config.temperature))
    optimizer = torch.optim.AdamW(
        ranker.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    n = len(lists.positive)
    steps = -(-n // config.batch_lists) * config.epochs
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    curve = []
    with tqdm(total=steps, desc="ranker", unit="step", disable=not progress) as bar:
        for epoch in range(config.epochs):
            total = 0.0
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
                total += loss.item() * len(part)
                bar.update()
            curve.append({"epoch": epoch + 1, "loss": total / n})
    return FittedRanker(ranker.eval(), side, genres, pl.DataFrame(curve))


def draw(lists: Lists, part: Tensor, config: RankerTraining, n_items: int) -> tuple[Tensor, Tensor]:
    """Candidates of some lists, the positive first.

    Returns:
        items int64 (B, 1 + mined + uniform); bool of the same shape, true where there is no
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
    """The retriever's `depth` best unseen items in the ranker's order, above all others in the retriever's.

    Args:
        user_vectors: float32 (n_users, D).
        seen: what is no candidate.
    """
    items = fitted.items

    @torch.inference_mode()
    def score(users: np.ndarray) -> np.ndarray:
        vectors = torch.from_numpy(user_vectors[users])
        scores = vectors @ items.vectors.T  # (B, n_items), within [-1, 1]
        row, item = _flatten(seen, users)
        open_scores = scores.clone()
        open_scores[row, item] = -torch.inf
        best = open_scores.topk(min(depth, scores.shape[1])).indices  # (B, depth)
        ranked = fitted.ranker(vectors, *items.read(best, torch.zeros_like(best, dtype=torch.bool)))
        # Places rather than scores: they stay apart in float32 whatever the ranker's scale.
        places = ranked.argsort(1).argsort(1).float()
        return scores.scatter_(1, best, 2 + places).numpy()

    return score


def cold_scorer(fitted: FittedRanker, user_vectors: np.ndarray) -> Scorer:
    """The ranker over the whole catalogue, with every item as if training had never met it."""
    everything = torch.arange(len(fitted.items.vectors))[None]
    inputs = fitted.items.read(
        everything, torch.ones_like(everything, dtype=torch.bool)
    )  # (1, n_items, ...)

    @torch.inference_mode()
    def score(users: np.ndarray) -> np.ndarray:
        return torch.cat(
            [
                fitted.ranker(user, *inputs)
                for user in torch.from_numpy(user_vectors[users]).split(1)
            ]
        ).numpy()

    return score


def _flatten(histories: Histories, users: np.ndarray) -> tuple[Tensor, Tensor]:
    """(row, item) of every event of some users, two int64 (n,)."""
    lengths = histories.lengths[users]
    row = np.repeat(np.arange(len(users)), lengths)
    within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = histories.items[np.repeat(histories.offsets[users], lengths) + within]
    return torch.from_numpy(row), torch.from_numpy(items.astype(np.int64))
