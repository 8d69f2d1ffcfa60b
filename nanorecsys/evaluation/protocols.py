"""Tasks: the events that a model may know, and the items that it has to find.

Every model of the study follows one rule. Hyperparameters are chosen on the validation task: the
model is fitted on the training events and asked for the validation events. Published figures are
those of the test task: the model is fitted again, with those hyperparameters, on training and
validation events, and a user's history at test time includes the validation events.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nanorecsys.data import Histories, Interactions, histories
from nanorecsys.data.split import TEST, TRAIN, VALIDATION, Split, split_sha256
from nanorecsys.evaluation.ranking import Evaluation, EvaluationError, Scorer, evaluate


@dataclass(frozen=True, eq=False)
class Task:
    """A question that every model is asked.

    Args:
        known: The events that a model may fit on. A user's known events are also the history that
            the model reads, and the seen items.
        seen: CSR of the same events, in time order.
        targets: CSR of the items to be ranked, without items that the user has already.
        n_users, n_items: Sizes of the whole data set; some users or items may have no known event.
    """

    known: Interactions
    seen: Histories
    targets: Histories
    n_users: int
    n_items: int

    @property
    def asked(self) -> np.ndarray:
        """Users with a target, int64 (m,)."""
        return np.flatnonzero(self.targets.lengths)

    def rank(self, score: Scorer, k_max: int = 100) -> Evaluation:
        """Rank the targets against the whole catalogue, see `ranking.evaluate`."""
        return evaluate(score, self.targets, self.seen, self.n_items, k_max=k_max)


def make_task(
    interactions: Interactions, split: Split, stage: Literal["validation", "test"]
) -> Task:
    """The validation or the test task of a split.

    Args:
        interactions: All events.
        split: Their parts.
        stage: "validation" knows the training part, "test" knows training and validation.

    Raises:
        EvaluationError: no user has an item in that stage that is new to the user.
    """
    asked = {"validation": VALIDATION, "test": TEST}[stage]
    known = split.part < asked
    # The first event of each (user, item) counts, unless the pair is known already.
    pair = interactions.user.astype(np.int64) * interactions.n_items + interactions.item
    new = np.flatnonzero((split.part == asked) & ~np.isin(pair, pair[known]))
    _, first = np.unique(pair[new], return_index=True)
    target = np.zeros(len(interactions), bool)
    target[new[first]] = True
    if not target.any():
        raise EvaluationError(
            f"the {stage} part of {split.name} has no item that is new to its user",
            "Use data with more events, or without repeats.",
        )
    return Task(
        known=interactions.take(known),
        seen=histories(interactions, known),
        targets=histories(interactions, target),
        n_users=interactions.n_users,
        n_items=interactions.n_items,
    )


def some_users(task: Task, n: int) -> Task:
    """The task for at most n of its users, spread evenly over them; 0 keeps all of them.

    Raises:
        EvaluationError: n is negative.
    """
    if n < 0:
        raise EvaluationError(
            f"expected a number of users, got {n} users", "Give a number, or 0 for all of them."
        )
    if not 0 < n < len(task.asked):
        return task
    kept = np.zeros(task.n_users, bool)
    kept[task.asked[np.linspace(0, len(task.asked) - 1, n).astype(int)]] = True
    lengths = np.where(kept, task.targets.lengths, 0)
    items = task.targets.items[np.repeat(kept, task.targets.lengths)]
    return replace(task, targets=Histories(np.concatenate([[0], np.cumsum(lengths)]), items))


def last_events(interactions: Interactions, n: int = 10, min_history: int = 3) -> Split:
    """Each user's last n events are the test, the n before them the validation, the rest training.

    There are more targets per user than under leave-one-out, so smaller differences between models
    show. A user with fewer than 2 n + min_history events has no validation events; a user with
    fewer than n + min_history events stays whole in training.

    Raises:
        EvaluationError: no user is long enough for a validation part.

    Example:
        >>> user, item, time = np.zeros(7, np.int32), np.arange(7, dtype=np.int32), np.arange(7)
        >>> last_events(Interactions(user, item, np.ones(7), time), n=2).part.tolist()
        [0, 0, 0, 1, 1, 2, 2]
    """
    counts = np.bincount(interactions.user)
    needed = 2 * n + min_history
    if counts.max(initial=0) < needed:
        raise EvaluationError(
            f"no user has the {needed} events that two parts of {n} and a history need",
            "Lower n, or use data with longer histories.",
        )
    count = counts[interactions.user]
    # 1 for a user's last event
    from_end = np.cumsum(counts)[interactions.user] - np.arange(len(interactions))
    part = np.full(len(interactions), TRAIN, np.int8)
    part[(from_end <= 2 * n) & (count >= needed)] = VALIDATION
    part[(from_end <= n) & (count >= n + min_history)] = TEST
    return Split(f"last_{n}", part, split_sha256(interactions, part))
