"""Ranks of target items against the whole catalogue without seen items, by blocks of users.

A scorer is any callable `score(users) -> scores`: users int32 (b,), scores float32 (b, n_items), a
new array that the evaluator may overwrite. `DotProduct` is the scorer of every model with user and
item vectors.

The tie rule: the candidates of a user are all items but the seen ones. A target's rank is its mean
rank over all orders of equal scores,

    rank = 1 + #{candidates with a higher score} + (#{other candidates with the same score}) / 2

so that a model with equal scores everywhere gets the middle rank, not the first.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nanorecsys.data import Histories, expand
from nanorecsys.system.errors import NanorecsysError

Scorer = Callable[[np.ndarray], np.ndarray]

# Size of a block's scores: small enough for the cache, large enough for a fast matrix product.
BLOCK_BYTES = 16 * 2**20


class EvaluationError(NanorecsysError):
    """Targets, seen items, scores or a metric's name cannot be evaluated as given."""


@dataclass(frozen=True, eq=False)
class DotProduct:
    """The scorer `user_vectors[users] @ item_vectors.T`.

    Args:
        user_vectors: float32 (n_users, d).
        item_vectors: float32 (n_items, d).
    """

    user_vectors: np.ndarray
    item_vectors: np.ndarray

    def __call__(self, users: np.ndarray) -> np.ndarray:
        return self.user_vectors[users] @ self.item_vectors.T  # (b, d) x (d, n_items)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The raw rows of one model on one task; every metric is derived from them (see metrics.py).

    Args:
        users: int32 (m,), the users that have targets, ascending.
        target_row: int64 (t,), the position in `users` of each target's user, non-decreasing.
        target_item: int32 (t,).
        rank: float64 (t,), mean rank of each target, from 1.
        top: int32 (m, k), the best k candidates of each user; equal scores in ascending order of
            item; -1 where a user has fewer than k candidates.
    """

    users: np.ndarray
    target_row: np.ndarray
    target_item: np.ndarray
    rank: np.ndarray
    top: np.ndarray

    def restricted(self, keep: np.ndarray) -> "Evaluation":
        """The same rows without some targets, and without the users and lists that have none left.

        Args:
            keep: bool (t,), aligned with `rank`; `mask[result.users[result.target_row]]` selects
                users by a mask.
        """
        kept_users, row = np.unique(self.target_row[keep], return_inverse=True)
        return replace(
            self,
            users=self.users[kept_users],
            target_row=row,
            target_item=self.target_item[keep],
            rank=self.rank[keep],
            top=self.top[kept_users],
        )

    def rank_rows(self) -> pd.DataFrame:
        """One row per target: user int32, item int32, rank float64."""
        return pd.DataFrame(
            {"user": self.users[self.target_row], "item": self.target_item, "rank": self.rank}
        )


def evaluate(
    score: Scorer, targets: Histories, seen: Histories, n_items: int, *, k_max: int = 100
) -> Evaluation:
    """Rank every target against the whole catalogue without its user's seen items.

    Args:
        score: users int32 (b,) -> float32 (b, n_items), finite; called on blocks of users in
            ascending order, only with users that have targets. Items without training events need
            a score as well.
        targets: CSR over all users, the items to be ranked, none twice for one user. Users without
            any are left out.
        seen: CSR over the same users, the items removed from the candidates (repeats allowed).
        n_items: size of the catalogue.
        k_max: length of the lists kept, at most the catalogue's size.

    Raises:
        EvaluationError: a target is among its user's seen items, the scores have the wrong shape or
            dtype, or a score is NaN or infinite.

    Example:
        >>> import numpy as np
        >>> from nanorecsys.data import Histories
        >>> def csr(*rows):
        ...     offsets = np.cumsum([0, *map(len, rows)])
        ...     return Histories(offsets, np.array(sum(rows, []), np.int32))
        >>> item_vectors = np.array([[4], [3], [2], [2]], np.float32)
        >>> scorer = DotProduct(np.ones((2, 1), np.float32), item_vectors)
        >>> evaluate(scorer, targets=csr([1], [3]), seen=csr([0], []), n_items=4).rank.tolist()
        [1.0, 3.5]
    """
    users = np.flatnonzero(targets.lengths).astype(np.int32)
    target_row = np.repeat(np.arange(len(users)), targets.lengths[users])
    k = min(k_max, n_items)
    rank = np.empty(len(target_row), np.float64)
    top = np.empty((len(users), k), np.int32)

    block = max(1, BLOCK_BYTES // (4 * n_items))
    for start in range(0, len(users), block):
        some = users[start : start + block]
        scores = _scores(score, some, n_items)
        row, entry = expand(seen.offsets[some], seen.offsets[some + 1])
        scores[row, seen.items[entry]] = -np.inf
        part = slice(targets.offsets[some[0]], targets.offsets[some[-1] + 1])
        rank[part] = _mean_ranks(scores, target_row[part] - start, targets.items[part], block)
        top[start : start + block] = top_items(scores, k)
    return Evaluation(users, target_row, targets.items, rank, top)


def _scores(score: Scorer, users: np.ndarray, n_items: int) -> np.ndarray:
    scores = score(users)
    if scores.shape != (len(users), n_items) or scores.dtype != np.float32:
        raise EvaluationError(
            f"a scorer must return float32 {(len(users), n_items)}, "
            f"not {scores.dtype} {scores.shape}",
            "Return one score for each item of the catalogue, in the catalogue's order.",
        )
    # NaN makes both NaN, an infinity is one of them: two passes without a temporary array.
    if not np.isfinite([scores.max(), scores.min()]).all():
        first = users[~np.isfinite(scores).all(axis=1)][0]
        raise EvaluationError(
            f"scores are NaN or infinite, the first for user {first}",
            "Look for a diverged training, an overflow or a division by zero in the model.",
        )
    return np.require(scores, requirements=["C", "W"])


def _mean_ranks(scores: np.ndarray, row: np.ndarray, item: np.ndarray, chunk: int) -> np.ndarray:
    """Mean ranks (t,) of the targets `item` (t,) in the rows `row` (t,) of scores (b, n_items)."""
    rank = np.empty(len(row), np.float64)
    for start in range(0, len(row), chunk):  # a user may have many targets: bound the gathered rows
        part = slice(start, start + chunk)
        candidates = scores[row[part]]
        mine = scores[row[part], item[part]][:, None]
        if np.isneginf(mine).any():
            raise EvaluationError(
                "a target is among its user's seen items, which are never recommended",
                "Build targets with nanorecsys.evaluation.make_task, which leaves repeats out.",
            )
        higher = np.count_nonzero(candidates > mine, axis=1)
        same = np.count_nonzero(candidates == mine, axis=1)
        rank[part] = 1 + higher + (same - 1) / 2
    return rank


def top_items(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best items of each row (b, k), equal scores by ascending item, -1 for removed ones."""
    b, n_items = scores.shape
    # The k-th best score. Negated: numpy selects from the front 30 times faster when most scores
    # are equal (zero).
    bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1, None]
    chosen = scores >= bar
    surplus = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)  # ties at the bar
    if len(surplus):
        tied = scores[surplus] == bar[surplus]
        free = k - np.count_nonzero(scores[surplus] > bar[surplus], axis=1)
        chosen[surplus] &= ~tied | (np.cumsum(tied, axis=1, dtype=np.int32) <= free[:, None])
    items = (np.flatnonzero(chosen) % n_items).reshape(b, k)
    best = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(scores, items, axis=1)), -1, items)
