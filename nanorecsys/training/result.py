"""The result record of the training chapter. Metrics are at a cutoff of 10 unless a name says otherwise."""

import msgspec

from nanorecsys.evaluation import Change

RETRIEVER = "retriever"  # its name beside the baselines


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """A model on one task, over its seeds: means over users, with 95 % bootstrap intervals over users."""

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


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """NDCG of one model minus that of another on the same targets, with its paired interval."""

    against: str
    ndcg: float
    low: float
    high: float


class ItemChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One way to represent items, on the validation task."""

    ndcg: float
    hitrate: float
    ndcg_rare: float
    rare_targets: int
    best_epoch: int
    seconds: float


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ablation: NDCG on the validation task over the seeds, and seconds of training of one."""

    ndcg: float
    lowest: float
    highest: float
    seeds: int
    seconds: float


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What it changes of the window's quality to read only the last `events` of each history, `mean` of them."""

    events: int
    mean: float
    ndcg_100: Change
    hitrate_100: Change


class RankerResult(msgspec.Struct, frozen=True, kw_only=True):
    """The retriever's order against the ranker's, and the ranker with all item ids masked against popularity."""

    before: Quality
    after: Quality
    change: Difference
    cold: Quality
    cold_over_popularity: float


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Training throughput: medians over repeats, targets as tokens."""

    tokens_per_s: float
    lowest: float
    highest: float
    sequences_per_s: float
    times_padded: float


class ScaleResult(msgspec.Struct, frozen=True, kw_only=True):
    """Training at the size of another data set, as many steps as show the rate, in a process of its own."""

    ratings: int
    users: int
    items: int
    steps: int
    tokens_per_s: float
    hours_an_epoch: float
    load_s: float
    peak_rss_gib: float
    device: str


class TrainingResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 02 found.

    `quality` is by task, then by model; `margin` is the retriever against the baseline with the
    highest NDCG on the same task. `tie_changed_share` is the share of users whose validation target
    another tie rule changes. `reads` are of the validation task, the whole window first;
    `events_read` of a history are what the rule takes, and `events_change` is what that does to
    NDCG on the test task, in the retriever's order and in the ranker's.
    """

    dataset: str
    is_study_shape: bool
    content_chosen: bool
    items_by: dict[str, ItemChoice]
    epochs: int
    quality: dict[str, dict[str, Quality]]
    margin: dict[str, Difference]
    shuffled_ndcg: float
    tie_changed_share: float
    ablation: dict[str, Variant]
    ranker: RankerResult
    throughput: dict[str, Rate]
    reads: list[Read] = []
    events_read: int = 0
    events_change: dict[str, Change] = {}
    scale: ScaleResult | None
    seconds: float
    seconds_limit: float
