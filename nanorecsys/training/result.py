"""The result record of the training chapter. Metrics are at 10 unless a name says otherwise."""

import msgspec

from nanorecsys.evaluation import Change
from nanorecsys.study.spread import Interval

SERVED = "served"  # name of the served order beside the baselines
RETRIEVER = "retriever"  # name of the retriever alone, which reads its whole window
LEAVE_ONE_OUT, LAST_TEN = "leave_one_out", "last_10"
TEMPORAL = "global_temporal"
WITH_HISTORY = f"{TEMPORAL}, users with a history"


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of a model on one task: means over seeds, 95 % bootstrap intervals."""

    hitrate: Interval
    ndcg: Interval
    mrr: float
    users: int
    seeds: int


class Margin(msgspec.Struct, frozen=True, kw_only=True):
    """NDCG of the served order minus that of the best baseline, with its paired interval."""

    against: str
    ndcg: Interval


class ItemChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Validation results of one way to represent items; rare ones need `MIN_TARGETS` targets."""

    ndcg: Interval
    hitrate: Interval
    ndcg_rare: Interval | None
    rare_targets: int
    best_epoch: int


class LayerChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Validation results of one number of layers.

    Args:
        layers: Number of layers at the retriever's full width.
        ndcg: Change of NDCG from the best candidate to this one, means over seeds.
        best_epoch: Epoch with the best NDCG, a mean over seeds.
        seconds: Training time of one seed.
    """

    layers: int
    ndcg: Change
    best_epoch: int
    seconds: float


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """Change of quality when only the last `events` of a history are read, `mean` on average."""

    events: int
    mean: float
    ndcg: Change
    ndcg_100: Change


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of chapter 02.

    Choices are made on validation tasks under leave-one-out: `items_by`, `layers`, `epochs` and
    `events_read` on the data set `dataset`, `serves_ranker` on all of them. `quality` is by data
    set, task and model. `margin` is the served order against the baseline with the highest NDCG on
    the same task. `events_change` is the effect of reading `events_read` events on the retriever's
    NDCG, and `ranker_change` that of the ranker on the order after so many events, both on the test
    task. `tie_changed_share` is the share of users whose validation target changes with the order
    of simultaneous events. `ablation` has ndcg (a mean over seeds), lowest, highest and seconds of
    each variant; `throughput` has the columns of `throughput.summarise` for each loop.
    """

    dataset: str
    is_study_shape: bool
    content_chosen: bool
    items_by: dict[str, ItemChoice]
    layer_choices: list[LayerChoice]
    layers: int
    epochs: int
    reads: list[Read]
    events_read: int
    ranker_validation: dict[str, Change]
    serves_ranker: bool
    quality: dict[str, dict[str, dict[str, Quality]]]
    margin: dict[str, dict[str, Margin]]
    events_change: dict[str, Change]
    ranker_change: dict[str, Change]
    tie_changed_share: float
    ablation: dict[str, dict[str, float]]
    throughput: dict[str, dict[str, float]]
