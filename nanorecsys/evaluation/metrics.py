"""The metrics: each is a (weighted) mean of values derived from raw ranks and lists.

The rank r of a target is its mean rank (see ranking.py). Metrics are named `name@k`, for instance
`ndcg@10`; every metric is from 0, where nothing is found, to 1.
"""

from dataclasses import dataclass

import numpy as np

from nanorecsys.evaluation.bootstrap import Interval, mean_interval
from nanorecsys.evaluation.errors import EvaluationError
from nanorecsys.evaluation.ranking import Evaluation

# The exponent of the propensities of ndcg_ips. Yang et al. find that their estimator hardly depends
# on it within [1.5, 3].
PROPENSITY_GAMMA = 1.5


@dataclass(frozen=True, eq=False)
class Values:
    """Values float64 (m,) whose mean is a metric, and weights float64 (m,); None: equal weights."""

    values: np.ndarray
    weights: np.ndarray | None = None


def hitrate(evaluation: Evaluation, k: int) -> Values:
    """HitRate@k(u) = 1 if any target of u has r <= k, else 0.

    >>> hitrate(example([1, 12], [30]), 10).values.tolist()
    [1.0, 0.0]
    """
    return Values((_best_rank(evaluation) <= k).astype(np.float64))


def mrr(evaluation: Evaluation, k: int) -> Values:
    """MRR@k(u) = 1 / (smallest r of u) if that is at most k, else 0.

    >>> mrr(example([2, 12], [30]), 10).values.tolist()
    [0.5, 0.0]
    """
    best = _best_rank(evaluation)
    return Values(np.where(best <= k, 1 / best, 0.0))


def ndcg(evaluation: Evaluation, k: int) -> Values:
    """NDCG@k(u) = sum of 1 / log2(1 + r) over targets with r <= k, over the best possible sum.

    The best sum has r = 1 .. min(k, T), where T is the number of u's targets (Jarvelin and
    Kekalainen 2002, binary gains).

    >>> ndcg(example([1, 12], [3]), 10).values.round(4).tolist()
    [0.6131, 0.5]
    """
    return Values(_weighted_ndcg(evaluation, k, np.ones(len(evaluation.rank)))[0])


def ndcg_ips(evaluation: Evaluation, k: int) -> Values:
    """NDCG@k with each target i weighted by 1 / p(i), p(i) = n(i) ** ((gamma + 1) / 2).

    It is the sum over users of the weighted DCG over the sum over users of the best weighted DCG.
    n(i) counts i among the seen items: popular items are over-represented among the targets, and
    the weights correct for it. A target that occurs in no history has no propensity and the weight
    0. After Yang et al. 2018, Unbiased offline recommender evaluation for missing-not-at-random
    implicit feedback, RecSys. They normalise within a user, which would cancel the weight where a
    user has one target.

    >>> popular_hit = ndcg_ips(example([1], [30], counts={0: 16, 1: 1}), 10)
    >>> popular_hit.values.tolist(), popular_hit.weights.tolist()
    ([1.0, 0.0], [0.03125, 1.0])
    """
    counts = evaluation.item_counts[evaluation.target_item].astype(np.float64)
    weight = np.zeros(len(counts))
    np.power(counts, -(PROPENSITY_GAMMA + 1) / 2, out=weight, where=counts > 0)
    return Values(*_weighted_ndcg(evaluation, k, weight))


def coverage(evaluation: Evaluation, k: int) -> Values:
    """Coverage@k = share of the catalogue that is in the first k of some user's list.

    >>> coverage(example([1], [1], top=[[0, 2], [0, 3]]), 1).values.tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    if k > evaluation.top.shape[1] and evaluation.top.shape[1] < evaluation.n_items:
        raise EvaluationError(
            f"coverage@{k} needs lists of {k} items; {evaluation.top.shape[1]} were kept",
            f"Call evaluate with k_max={k}.",
        )
    listed = evaluation.top[:, :k]
    return Values(
        (np.bincount(listed[listed >= 0], minlength=evaluation.n_items) > 0).astype(np.float64)
    )


METRICS = {metric.__name__: metric for metric in (hitrate, ndcg, mrr, ndcg_ips, coverage)}


def values(evaluation: Evaluation, name: str) -> Values:
    """The values whose mean is the metric `name` (`ndcg@10`): one per user; coverage: per item.

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
    """The metric `name` (`ndcg@10`) of an evaluation; 0 if every weight is zero."""
    found = values(evaluation, name)
    if found.weights is not None and not found.weights.any():
        return 0.0
    return float(np.average(found.values, weights=found.weights))


def difference(evaluation: Evaluation, baseline: Evaluation, name: str) -> Interval:
    """Paired bootstrap interval of a metric of `evaluation` minus that of `baseline`.

    Raises:
        EvaluationError: the two do not have the same users and targets, or the metric is not a mean
            over users.
    """
    if not (
        np.array_equal(evaluation.users, baseline.users)
        and np.array_equal(evaluation.target_row, baseline.target_row)
        and np.array_equal(evaluation.target_item, baseline.target_item)
    ):
        raise EvaluationError(
            "a paired interval needs two evaluations of the same targets",
            "Evaluate both models on the same task.",
        )
    if name.startswith("coverage"):
        raise EvaluationError(
            f"{name} is not a mean over users", "Compare by one of the metrics over users."
        )
    mine, theirs = values(evaluation, name), values(baseline, name)
    return mean_interval(mine.values - theirs.values, mine.weights)


def example(*ranks: list[float], counts: dict[int, int] | None = None, top=((0,),)) -> Evaluation:
    """An evaluation for docstrings: one list of ranks per user; the targets are items 0, 1, ..."""
    n = sum(map(len, ranks))
    item_counts = np.zeros(max(n, 4), np.int64)
    for item, count in (counts or {}).items():
        item_counts[item] = count
    return Evaluation(
        users=np.arange(len(ranks), dtype=np.int32),
        target_row=np.repeat(np.arange(len(ranks)), [len(row) for row in ranks]),
        target_item=np.arange(n, dtype=np.int32),
        rank=np.concatenate(ranks).astype(np.float64),
        top=np.array(top, np.int32),
        item_counts=item_counts,
    )


def _best_rank(evaluation: Evaluation) -> np.ndarray:
    """The smallest rank of each user (m,)."""
    first = np.searchsorted(evaluation.target_row, np.arange(len(evaluation.users)))
    return np.minimum.reduceat(evaluation.rank, first)


def _weighted_ndcg(
    evaluation: Evaluation, k: int, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """NDCG (m,) with target weights (t,), and the best DCG (m,) that it is divided by."""
    row, rank, m = evaluation.target_row, evaluation.rank, len(evaluation.users)
    dcg = np.bincount(row, np.where(rank <= k, weight / np.log2(1 + rank), 0), minlength=m)
    # The best order has the largest weight first; place counts from 1 within a user's targets.
    heaviest = weight[np.lexsort((-weight, row))]
    place = 1 + np.arange(len(row)) - np.searchsorted(row, row)
    best = np.bincount(row, np.where(place <= k, heaviest / np.log2(1 + place), 0), minlength=m)
    # More targets than k may share a mean rank within k: capped, so that 1 stays the best.
    return np.minimum(np.divide(dcg, best, out=np.zeros(m), where=best > 0), 1.0), best
