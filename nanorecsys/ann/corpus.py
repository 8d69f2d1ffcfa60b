"""Item vectors, real and generated, and the vectors of real users as queries."""

from collections.abc import Callable

import numpy as np

from nanorecsys.ann.exact import Queries
from nanorecsys.ann.indexes import check_vectors
from nanorecsys.data import Histories
from nanorecsys.evaluation import Task

TRAINING_USERS = 0.2  # share of the users on whose vectors indexes are fitted


def described(vectors: np.ndarray, real: int, generator: str) -> str:
    """Describe vectors in one line, for captions.

    Args:
        vectors: float32 (n, d), the catalogue's own first.
        real: Number of its own.
        generator: Name of the generator of the others.

    >>> described(np.zeros((80, 32)), 50, "local")
    '80 vectors of 32 dimensions, 30 of them synthetic (local)'
    """
    n, d = vectors.shape
    made = f"{n - real:,} of them synthetic ({generator})" if n > real else "all of them real"
    return f"{n:,} vectors of {d} dimensions, {made}"


def split_users(task: Task, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split users at random into those who fit, those who choose and those who measure indexes.

    `TRAINING_USERS` of the users with a target fit indexes, and the others are halved.

    Args:
        task: Test task.
        seed: Random seed of the draw.

    Returns:
        Three ascending int32 arrays without a common user.
    """
    users = np.flatnonzero(task.targets.lengths).astype(np.int32)
    count = round(TRAINING_USERS * len(users))
    shuffled = np.random.default_rng(seed).permutation(users)
    apart, choosing, reporting = np.split(shuffled, [count, (count + len(users)) // 2])
    return np.sort(apart), np.sort(choosing), np.sort(reporting)


def user_queries(
    task: Task, users: np.ndarray, encode: Callable[[Histories], np.ndarray]
) -> Queries:
    """Encode the whole history of each user, as the server does.

    Args:
        task: Test task.
        users: int32 (u,), users with a target.
        encode: User tower, from histories to float32 (u, d).

    Raises:
        VectorsError: A vector is not finite or not of unit norm.
    """
    seen = task.seen.take(users)
    vectors = np.ascontiguousarray(encode(seen), np.float32)
    check_vectors(vectors)
    return Queries(users, vectors, seen, task.targets.items[task.targets.offsets[users]])
