"""How far a variant is from the model that was trained: in vectors, in lists, in quality."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import torch

from nanorecsys.evaluation import (
    DotProduct,
    Evaluation,
    Task,
    evaluate,
    paired_change,
    some_users,
    values,
)
from nanorecsys.export.result import Closeness
from nanorecsys.models.ranker import FittedRanker
from nanorecsys.serving.encoder import Encode, encode_users, session

BATCH_TOKENS = 2000  # places of a batch that a vector is compared in with itself alone


def encode_asked(encode: Encode, task: Task, window: int, batch_tokens: int) -> np.ndarray:
    """Vectors of the users that the task asks for, float32 (n_users, d), zero for all others.

    Args:
        batch_tokens: see `runtime.encode_users`.
    """
    asked = np.flatnonzero(task.targets.lengths)
    found = encode_users(encode, task.seen, window, asked, batch_tokens=batch_tokens)
    vectors = np.zeros((task.n_users, found.shape[1]), np.float32)
    vectors[asked] = found
    return vectors


def rank(vectors: np.ndarray, item_vectors: np.ndarray, task: Task) -> Evaluation:
    """Rank a task's targets by inner product."""
    return evaluate(DotProduct(vectors, item_vectors), task.targets, task.seen, task.n_items)


def company(encode: Encode, task: Task, window: int, users: int = 32) -> float:
    """The largest change of a vector's entry between a history alone and in a batch with others of like length.

    Args:
        users: of those that the task asks for, spread evenly.
    """
    some = np.flatnonzero(some_users(task, users).targets.lengths)
    alone, together = (
        encode_users(encode, task.seen, window, some, batch_tokens=n) for n in (1, BATCH_TOKENS)
    )
    return float(np.abs(alone - together).max())


def closeness(
    vectors: np.ndarray,
    ranked: Evaluation,
    reference: np.ndarray,
    reference_ranked: Evaluation,
    company: float | None = None,
) -> Closeness:
    """A variant against the trained model, over the users with a target.

    Args:
        vectors, reference: float32 (n_users, d), unit norm for those users.
        ranked, reference_ranked: what `rank` made of them.
        company: see `company`.
    """
    users = ranked.users
    cosine = np.einsum("ud,ud->u", vectors[users], reference[users])
    hitrate, ndcg = (
        paired_change(values(reference_ranked, metric).values, values(ranked, metric).values)
        for metric in ("hitrate@10", "ndcg@10")
    )
    return Closeness(
        max_difference=float(np.abs(vectors[users] - reference[users]).max()),
        cosine_median=float(np.median(cosine)),
        cosine_lowest=float(cosine.min()),
        overlap=float(overlaps(ranked.top, reference_ranked.top).mean()),
        hitrate=hitrate,
        ndcg=ndcg,
        company=company,
    )


def overlaps(top: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of each user's list that is in the other's: int (m, k) twice, float (m,); -1 is no item.

    >>> overlaps(np.array([[1, 2, 3, 4]]), np.array([[4, 3, 9, 8]])).tolist()
    [0.5]
    """
    shared = [
        np.isin(a[a >= 0], b).sum() / max((a >= 0).sum(), 1)
        for a, b in zip(top, other, strict=True)
    ]
    return np.array(shared)


def rank_frame(ranked: Mapping[str, Evaluation]) -> pl.DataFrame:
    """The raw rows behind every quality: variant, user int32, item int32, rank float64."""
    return pl.concat(
        e.rank_rows().select(pl.lit(name).alias("variant"), pl.all()) for name, e in ranked.items()
    )


def ranker_difference(
    fitted: FittedRanker, path: Path, vectors: np.ndarray, ranked: Evaluation
) -> float:
    """The largest difference between an exported ranker's scores and PyTorch's, over each user's candidates.

    Args:
        fitted: the trained ranker.
        path: what `export_ranker` wrote.
        vectors: float32 (n_users, d).
        ranked: whose lists are the candidates.
    """
    run, largest = session(path), 0.0
    for user, candidates in zip(ranked.users, ranked.top, strict=True):
        items = candidates[candidates >= 0][None].astype(np.int64)
        users = vectors[user][None]
        scores = run.run(None, {"users": users, "items": items})[0]
        with torch.inference_mode():
            tensor = torch.from_numpy(items)
            inputs = fitted.items.read(tensor, torch.zeros_like(tensor, dtype=torch.bool))
            expected = fitted.ranker(torch.from_numpy(users), *inputs).numpy()
        largest = max(largest, float(np.abs(scores - expected).max()))
    return largest
