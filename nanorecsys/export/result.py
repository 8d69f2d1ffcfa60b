"""The result record of the export chapter. Metrics are at a cutoff of 10, latencies of one user on one thread."""

import msgspec

from nanorecsys.evaluation import Change

# How much an entry of a served vector may change with what else is in its batch: what rounding
# does, and not what a scale does that is found over the batch.
COMPANY = 2e-4


class Closeness(msgspec.Struct, frozen=True, kw_only=True):
    """A variant against the trained model in PyTorch: largest difference of a vector's entry, cosines over users,
    the share of each user's hundred best items that is kept, and quality. `company` is how much an
    entry changes at most with what else is in the batch; null where that was not measured."""

    max_difference: float
    cosine_median: float
    cosine_lowest: float
    overlap: float
    hitrate: Change
    ndcg: Change
    company: float | None = None


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the tower. `mean_ms` is weighted by real lengths of history, with its range over the repeats;
    `at_window_ms` is the median at the longest. `macs_at_window` are the multiply-accumulates of
    that encode, and `share_of_peak` how much of the machine's peak in that precision it reaches;
    null where PyTorch runs."""

    mib: float
    load_ms: float | None
    quantized_nodes: int
    closeness: Closeness
    mean_ms: float
    mean_lowest_ms: float
    mean_highest_ms: float
    at_window_ms: float
    macs_at_window: int | None
    share_of_peak: float | None


class RankerTime(msgspec.Struct, frozen=True, kw_only=True):
    """One shape of the ranker: milliseconds for all candidates of one user, median, lowest and highest."""

    mib: float
    ms: float
    lowest_ms: float
    highest_ms: float


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Appending one event to a kept state, at one length of history: milliseconds, against a full encode."""

    length: int
    step_ms: float
    full_ms: float
    state_kib: float


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What chapter 03 found.

    `chosen` is a name in `variants`. `peak_gmacs` are billions of multiply-accumulates a second of
    one thread, by precision. `append_drift` is the lowest cosine to a full encode by events
    appended since the window slid.
    """

    dataset: str
    is_study_shape: bool
    window: int
    users: int
    mean_length: float
    variants: dict[str, VariantResult]
    chosen: str
    chosen_is_int8: bool
    peak_gmacs: dict[str, float]
    profile_ms: dict[str, dict[str, float]]
    candidates: int
    rankers: dict[str, RankerTime]
    ranker_difference: float
    append: list[Append]
    append_drift: dict[str, float]
    append_pays: bool
    seconds: float
    seconds_limit: float
