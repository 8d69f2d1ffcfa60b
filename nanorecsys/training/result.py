"""The result record of the training chapter. Metrics are at 10 unless a name says otherwise."""

import msgspec

from nanorecsys.evaluation import Change

RETRIEVER = "retriever"  # name of the retriever beside the baselines


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of a model on one task: means over seeds, 95 % bootstrap intervals over users."""

    hitrate: float
    hitrate_low: float
    hitrate_high: float
    ndcg: float
    ndcg_low: float
    ndcg_high: float
    mrr: float
    ndcg_ips: float
    coverage: float
    users: int
    seeds: int


class NdcgDifference(msgspec.Struct, frozen=True, kw_only=True):
    """NDCG of one model minus that of another on the same targets, with its paired interval."""

    against: str
    ndcg: float
    low: float
    high: float


class ItemChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Validation results of one way to represent items."""

    ndcg: float
    hitrate: float
    ndcg_rare: float
    rare_targets: int
    best_epoch: int
    seconds: float


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """Change of quality when only the last `events` of a history are read, `mean` on average."""

    events: int
    mean: float
    ndcg_100: Change
    hitrate_100: Change


class RankerResult(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of the retriever's order, of the ranker's, and of the ranker without any item ids."""

    before: Quality
    after: Quality
    change: NdcgDifference
    cold: Quality
    cold_over_popularity: float


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of chapter 02.

    `quality` is by task, then by model. `margin` is the retriever against the baseline with the
    highest NDCG on the same task. `tie_changed_share` is the share of users whose validation target
    changes with the order of simultaneous events. `reads` are of the validation task, the whole
    window first. `events_read` is the number of events that the rule chooses, and `events_change`
    its effect on NDCG on the test task, in the retriever's order and in the ranker's. `ablation`
    has ndcg (a mean over seeds), lowest, highest and seconds of each variant; `throughput` has the
    columns of `throughput.summarise` for each loop.
    """

    dataset: str
    is_study_shape: bool
    content_chosen: bool
    items_by: dict[str, ItemChoice]
    epochs: int
    quality: dict[str, dict[str, Quality]]
    margin: dict[str, NdcgDifference]
    shuffled_ndcg: float
    tie_changed_share: float
    ablation: dict[str, dict[str, float]]
    ranker: RankerResult
    throughput: dict[str, dict[str, float]]
    reads: list[Read]
    events_read: int
    events_change: dict[str, Change]
