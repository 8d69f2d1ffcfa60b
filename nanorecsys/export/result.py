"""Result record of the export chapter. Metrics at 10, latencies of one user on one thread."""

import msgspec

from nanorecsys.evaluation import Change


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant against the trained model in PyTorch.

    `max_difference` is of a vector's entry, cosines are over users, `overlap` is the share of each
    user's hundred best items that is kept. `batch_effect` is the largest change of an entry with
    what else is in the batch.
    """

    max_difference: float
    cosine_median: float
    cosine_lowest: float
    overlap: float
    hitrate: Change
    ndcg: Change
    batch_effect: float


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the tower.

    `mean_ms` is weighted by real lengths of history, with its range over the repeats;
    `at_window_ms` is the median at the longest. `macs_at_window` are the multiply-accumulates of
    that encode, and `share_of_peak` is the share of the machine's peak in that precision; both are
    null where PyTorch runs.
    """

    mib: float
    load_ms: float | None
    quantized_nodes: int
    parity: Parity
    mean_ms: float
    mean_lowest_ms: float
    mean_highest_ms: float
    at_window_ms: float
    macs_at_window: int | None
    share_of_peak: float | None


class RankerTime(msgspec.Struct, frozen=True, kw_only=True):
    """One shape of the ranker: time for all candidates of one user, median and a range."""

    mib: float
    ms: float
    lowest_ms: float
    highest_ms: float


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of chapter 03.

    `chosen` is a name in `variants`. `peak_gmacs` are billions of multiply-accumulates per second
    of one thread, by precision.
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
