"""Evaluation of every model: ranks in the full catalogue, metrics, bootstrap intervals.

::

    task = make_task(interactions, leave_one_out(interactions), "test")
    user_vectors, item_vectors = ...  # of a model fitted on task.known
    result = task.rank(DotProduct(user_vectors, item_vectors))
    value(result, "ndcg@10")    # one number
    # the change, with its interval
    paired_change(values(baseline_result, "ndcg@10"), values(result, "ndcg@10"))
    result.rank_rows()          # the raw rows of the metrics
    result.restricted(keep)     # some of the targets, such as rare items

Instead of `DotProduct`, any callable from users int32 (b,) to float32 scores (b, n_items) will do.
"""

from nanorecsys.evaluation.bootstrap import Change, Interval, mean_interval, paired_change
from nanorecsys.evaluation.metrics import METRICS, value, values
from nanorecsys.evaluation.protocols import Task, last_events, make_task, some_users
from nanorecsys.evaluation.ranking import DotProduct, Evaluation, EvaluationError, Scorer, evaluate
