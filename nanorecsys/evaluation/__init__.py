"""Evaluation that every model of the study goes through: full-catalogue ranks, metrics, bootstrap intervals.

    task = make_task(interactions, leave_one_out(interactions), "test")
    user_vectors, item_vectors = ...                # of a model fitted on task.known
    result = evaluate(DotProduct(user_vectors, item_vectors), task.targets, task.seen, task.n_items)
    value(result, "ndcg@10")                        # one number
    summary(result)                                 # every metric at 10, 20, 50, 100
    interval(result, "hitrate@10")                  # bootstrap over users
    difference(result, baseline_result, "ndcg@10")  # paired bootstrap
    result.rank_rows(), result.list_rows()          # the raw rows that all of the above is derived
    from result.restricted(keep)                         # some of the targets: rare items, users
    with a history

Instead of `DotProduct`, any callable from users int32 (b,) to float32 scores (b, n_items) will do.
"""

from nanorecsys.evaluation.bootstrap import Change, Interval, mean_interval, paired_change
from nanorecsys.evaluation.errors import EvaluationError, NonFiniteScoresError
from nanorecsys.evaluation.metrics import (
    CUTOFFS,
    METRICS,
    Metric,
    difference,
    interval,
    summary,
    value,
    values,
)
from nanorecsys.evaluation.protocols import Task, last_events, make_task, some_users
from nanorecsys.evaluation.ranking import DotProduct, Evaluation, Scorer, evaluate

__all__ = [
    "CUTOFFS",
    "METRICS",
    "Change",
    "DotProduct",
    "Evaluation",
    "EvaluationError",
    "Interval",
    "Metric",
    "NonFiniteScoresError",
    "Scorer",
    "Task",
    "difference",
    "evaluate",
    "interval",
    "last_events",
    "make_task",
    "mean_interval",
    "paired_change",
    "some_users",
    "summary",
    "value",
    "values",
]
