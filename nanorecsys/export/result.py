"""Result record of the export chapter. Latencies are of one user per call on one thread."""

import msgspec

from nanorecsys.evaluation import Change
from nanorecsys.study.spread import Spread


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant against the trained model in PyTorch, both reading the served number of events.

    `max_difference` is of a vector's entry, `cosine_lowest` of a user, `overlap` is the mean share
    of a user's hundred best items that is kept. `batch_effect` is the largest change of an entry
    with what else is in the batch. `ndcg` is the change of NDCG@10 on the test part,
    `validation_ndcg` on the validation part, by which the served variant is chosen.
    """

    max_difference: float
    cosine_lowest: float
    overlap: float
    ndcg: Change
    validation_ndcg: Change
    batch_effect: float


class VariantResult(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the tower.

    `served_ms` and `window_ms` are means over real histories, of which the served number of events
    or the whole window is read, with their ranges over the rounds. `macs` are the
    multiply-accumulates of a history of mean length, as far as it is served, and `share_of_peak` is
    the share of `served_ms` that they take at the peak; both are null where PyTorch runs.
    `compile_s` is 0 without torch.compile.
    """

    mib: float
    load_ms: float | None
    compile_s: float
    quantized_nodes: int
    parity: Parity
    served_ms: Spread
    window_ms: Spread
    macs: int | None
    share_of_peak: float | None


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of chapter 03.

    `chosen` and `best_torch` are names in `variants`, and `missing` says why others could not run.
    `times_torch` is the mean latency of `best_torch` divided by that of `chosen` within a round, at
    the served number of events. `int8_change` is the change of NDCG@10 that static int8 causes on
    the test part, by data set. `peak_gmacs` are billions of multiply-accumulates per second of one
    thread, by precision.
    """

    dataset: str
    is_study_shape: bool
    layers: int
    window: int
    events_read: int
    users: int
    mean_length: float
    variants: dict[str, VariantResult]
    missing: dict[str, str]
    chosen: str
    chosen_is_int8: bool
    best_torch: str
    times_torch: Spread
    int8_change: dict[str, Change]
    peak_gmacs: dict[str, float]
    profile_ms: dict[str, dict[str, float]]
