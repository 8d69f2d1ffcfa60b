"""How far a variant is from the trained model, in vectors, lists and quality, and the choice."""

from collections.abc import Mapping

import numpy as np

from nanorecsys.evaluation.bootstrap import Change, paired_change
from nanorecsys.evaluation.metrics import values
from nanorecsys.evaluation.protocols import Task, some_users
from nanorecsys.evaluation.ranking import DotProduct, Evaluation
from nanorecsys.export.errors import ExportError
from nanorecsys.export.result import Parity, VariantResult
from nanorecsys.serving.encoder import Encode, encode_users

BATCH_TOKENS = 2000  # padded positions of a batch, to compare with a batch of one
USERS = 32  # users whose vectors are compared entry by entry
# The rule of the choice: no larger share of NDCG@10 may be lost on the validation part, ...
LARGEST_LOSS = 0.01
# ... and no entry of a vector may change more with its batch: rounding does less than that, and a
# scale that is found over the batch does more.
LARGEST_BATCH_EFFECT = 2e-4
# Largest difference of an entry of a vector between an export in single precision and PyTorch.
EXACT = 1e-4

Ranked = tuple[np.ndarray, Evaluation]


def rank(
    encode: Encode, task: Task, item_vectors: np.ndarray, reads: int, batch_tokens: int
) -> Ranked:
    """Encode the users with a target, and rank their targets by inner product.

    Args:
        encode: Encoder to compare.
        task: Users, their histories and targets.
        item_vectors: float32 (n_items, d).
        reads: Number of events of a history that are read, the last ones.
        batch_tokens: Number of padded positions per batch.

    Returns:
        Vectors float32 (n_users, d), zero for users without a target, and the ranks.
    """
    vectors = np.zeros((task.n_users, item_vectors.shape[1]), np.float32)
    vectors[task.asked] = encode_users(
        encode, task.seen, reads, task.asked, batch_tokens=batch_tokens
    )
    return vectors, task.rank(DotProduct(vectors, item_vectors))


def ndcg_change(ranked: Evaluation, reference: Evaluation) -> Change:
    """Change of NDCG@10 from the trained model's ranks to a variant's, paired by user."""
    return paired_change(values(reference, "ndcg@10"), values(ranked, "ndcg@10"))


def batch_effect(encode: Encode, task: Task, reads: int) -> float:
    """Largest change of a vector's entry between a batch of one and one of similar lengths.

    Args:
        encode: Encoder to examine.
        task: Users, their histories and targets; `USERS` of those with a target are encoded.
        reads: Number of events of a history that are read, the last ones.
    """
    users = some_users(task, USERS).asked
    alone = encode_users(encode, task.seen, reads, users, batch_tokens=1)
    together = encode_users(encode, task.seen, reads, users, batch_tokens=BATCH_TOKENS)
    return float(np.abs(alone - together).max())


def check_exact(encode: Encode, reference: Encode, task: Task, window: int) -> float:
    """Check an export in single precision against PyTorch over whole windows.

    Args:
        encode: Encoder of the export.
        reference: The trained model.
        task: Users, their histories and targets; `USERS` of those with a target are encoded.
        window: Longest history, in events.

    Returns:
        The largest difference of a vector's entry.

    Raises:
        ExportError: It is above `EXACT`.
    """
    users = some_users(task, USERS).asked
    found, expected = (encode_users(e, task.seen, window, users) for e in (encode, reference))
    difference = float(np.abs(found - expected).max())
    if not difference <= EXACT:
        raise ExportError(
            f"an export in single precision differs from PyTorch by {difference:.1e}, "
            f"expected at most {EXACT:g}",
            "Report it with your versions.",
        )
    return difference


def compare(
    variant: Ranked, trained: Ranked, batch_effect: float, validation_ndcg: Change
) -> Parity:
    """Compare a variant with the trained model, over the users with a target.

    Args:
        variant: Result of `rank` on the test part.
        trained: The same of the trained model.
        batch_effect: Result of `batch_effect`.
        validation_ndcg: Result of `ndcg_change` on the validation part.
    """
    (vectors, ranks), (reference, expected) = variant, trained
    return Parity(
        max_difference=float(np.abs(vectors - reference).max()),
        cosine_lowest=float((vectors * reference).sum(axis=1)[ranks.users].min()),
        overlap=float(overlaps(ranks.top, expected.top).mean()),
        ndcg=ndcg_change(ranks, expected),
        validation_ndcg=validation_ndcg,
        batch_effect=batch_effect,
    )


def overlaps(top: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of each user's list that is in the other's: int (m, k) twice -> float (m,); -1 is none.

    >>> overlaps(np.array([[1, 2, 3, 4]]), np.array([[4, 3, 9, 8]])).tolist()
    [0.5]
    """
    kept = top >= 0
    shared = kept & (top[:, :, None] == other[:, None]).any(axis=2)
    return shared.sum(axis=1) / np.maximum(kept.sum(axis=1), 1)


def keeps_quality(variant: VariantResult) -> bool:
    """Whether the interval of the change on validation excludes a loss above `LARGEST_LOSS`."""
    ndcg = variant.parity.validation_ndcg
    return ndcg.low >= -LARGEST_LOSS * ndcg.base


def depends_on_batch(variant: VariantResult) -> bool:
    """Whether a vector depends on what else is in its batch."""
    return variant.parity.batch_effect > LARGEST_BATCH_EFFECT


def choose(variants: Mapping[str, VariantResult]) -> str:
    """Choose the variant to serve: the lowest mean latency of those that the rule leaves.

    A server without PyTorch needs an ONNX file; the variant keeps its quality, and its vectors do
    not depend on the batch. The latency is that at the served number of events.

    Raises:
        ExportError: The rule leaves none.
    """
    kept = {
        name: v.served_ms.middle
        for name, v in variants.items()
        if v.load_ms is not None and keeps_quality(v) and not depends_on_batch(v)
    }
    if not kept:
        raise ExportError(
            "no exported variant keeps its NDCG@10 within the rule",
            "Evaluate more users or train longer: the interval of a weak model is too wide.",
        )
    return min(kept, key=kept.__getitem__)
