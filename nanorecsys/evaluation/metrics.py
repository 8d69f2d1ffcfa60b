"""The metrics: each is a mean over users of values derived from raw ranks.

The rank r of a target is its mean rank (see ranking.py). Metrics are named `name@k`, for instance
`ndcg@10`; every metric is from 0, where nothing is found, to 1.
"""

import numpy as np

from nanorecsys.evaluation.ranking import Evaluation, EvaluationError


def hitrate(evaluation: Evaluation, k: int) -> np.ndarray:
    """HitRate@k(u) = 1 if any target of u has r <= k, else 0.

    >>> hitrate(example([1, 12], [30]), 10).tolist()
    [1.0, 0.0]
    """
    return (_best_rank(evaluation) <= k).astype(np.float64)


def mrr(evaluation: Evaluation, k: int) -> np.ndarray:
    """MRR@k(u) = 1 / (smallest r of u) if that is at most k, else 0.

    >>> mrr(example([2, 12], [30]), 10).tolist()
    [0.5, 0.0]
    """
    best = _best_rank(evaluation)
    return np.where(best <= k, 1 / best, 0.0)


def ndcg(evaluation: Evaluation, k: int) -> np.ndarray:
    """NDCG@k(u) = sum of 1 / log2(1 + r) over targets with r <= k, over the best possible sum.

    The best sum has r = 1 .. min(k, T), where T is the number of u's targets (Jarvelin and
    Kekalainen 2002, binary gains).

    >>> ndcg(example([1, 12], [3]), 10).round(4).tolist()
    [0.6131, 0.5]
    """
    row, rank, m = evaluation.target_row, evaluation.rank, len(evaluation.users)
    dcg = np.bincount(row, np.where(rank <= k, 1 / np.log2(1 + rank), 0), minlength=m)
    place = 1 + np.arange(len(row)) - np.searchsorted(row, row)  # from 1 within a user's targets
    best = np.bincount(row, np.where(place <= k, 1 / np.log2(1 + place), 0), minlength=m)
    # More targets than k may share a mean rank within k: capped, so that 1 stays the best.
    return np.minimum(dcg / best, 1.0)


METRICS = {metric.__name__: metric for metric in (hitrate, ndcg, mrr)}


def values(evaluation: Evaluation, name: str) -> np.ndarray:
    """The values of the users whose mean is the metric `name` (`ndcg@10`), float64 (m,).

    Raises:
        EvaluationError: unknown metric or malformed cutoff.
    """
    key, _, cutoff = name.partition("@")
    if key not in METRICS or not cutoff.isdecimal() or int(cutoff) < 1:
        raise EvaluationError(
            f"no metric is called {name!r}", f"Choose name@k with a name of {sorted(METRICS)}."
        )
    return METRICS[key](evaluation, int(cutoff))


def value(evaluation: Evaluation, name: str) -> float:
    """The metric `name` (`ndcg@10`) of an evaluation."""
    return float(values(evaluation, name).mean())


def example(*ranks: list[float]) -> Evaluation:
    """An evaluation for docstrings: one list of ranks per user; the targets are items 0, 1, ..."""
    return Evaluation(
        users=np.arange(len(ranks), dtype=np.int32),
        target_row=np.repeat(np.arange(len(ranks)), [len(row) for row in ranks]),
        target_item=np.arange(sum(map(len, ranks)), dtype=np.int32),
        rank=np.concatenate(ranks).astype(np.float64),
        top=np.zeros((len(ranks), 1), np.int32),
    )


def _best_rank(evaluation: Evaluation) -> np.ndarray:
    """The smallest rank of each user (m,)."""
    return evaluation.rank_rows().groupby("user")["rank"].min().to_numpy()
