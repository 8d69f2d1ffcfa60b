"""The ranker: scores of candidates, and the order that they give."""

from pathlib import Path

import numpy as np

from nanorecsys.serving.encoder import session


class Ranker:
    """A ranker: `ranker(users, items)` gives scores.

    Args:
        model: ONNX file, or its bytes.
        threads: Threads per operator.
    """

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        self.session = session(model, threads)

    def __call__(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Score items for users.

        Args:
            users: float32 (B, d), user vectors.
            items: int64 (B, C), item numbers.

        Returns:
            float32 (B, C).
        """
        return self.session.run(None, {"users": users, "items": items})[0]


def best_first(
    candidates: np.ndarray, scores: np.ndarray, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Order each user's candidates by score, the best first.

    Args:
        candidates: int64 (B, C), item numbers; -1 where a row has fewer.
        scores: float32 (B, C).
        count: Number of items to keep of each row.

    Returns:
        Item numbers and scores of each row, at most `count` of each.
    """
    order = np.argsort(-np.where(candidates < 0, -np.inf, scores), axis=1, kind="stable")
    rows = []
    for row, best in enumerate(order[:, :count]):
        best = best[candidates[row, best] >= 0]
        rows.append((candidates[row, best], scores[row, best]))
    return rows
