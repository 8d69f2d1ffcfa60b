"""Item vectors, real and generated, and the vectors of real users as queries."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nanorecsys.ann.exact import Queries
from nanorecsys.ann.indexes import check_vectors
from nanorecsys.data import Histories
from nanorecsys.evaluation import Task

TRAINING_USERS = 0.2  # share of the users on whose vectors indexes are fitted


@dataclass(frozen=True, eq=False)
class Corpus:
    """Item vectors float32 (n, d), unit norm. The first `real` ones are the catalogue's own."""

    vectors: np.ndarray
    real: int
    generator: str

    def __str__(self) -> str:
        """Describe the vectors in one line, for captions."""
        n, d = self.vectors.shape
        origin = "all of them real"
        if n > self.real:
            origin = f"{n - self.real:,} of them synthetic ({self.generator})"
        return f"{n:,} vectors of {d} dimensions, {origin}"


def expand_corpus(
    real: np.ndarray,
    n_items: int,
    generator: str,
    generate: Callable[..., np.ndarray],
    seed: int = 0,
) -> Corpus:
    """Add generated vectors to the catalogue's until there are `n_items`.

    Args:
        real: float32 (items, d), unit norm.
        n_items: Total number of vectors. A larger catalogue stays as it is, and so does any for 0.
        generator: Name of the generator.
        generate: `nanorecsys.scaleup.generate` or a function with its signature.
        seed: Random seed of the generator.

    Raises:
        VectorsError: The vectors are not finite and of unit norm.
    """
    check_vectors(real)
    if n_items <= len(real):
        return Corpus(real, len(real), "")
    vectors = generate(real, n_items, generator=generator, seed=seed)
    return Corpus(vectors, len(real), generator)


def split_users(
    task: Task, share: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split users at random into those who fit, those who choose and those who measure indexes.

    Args:
        task: Test task.
        share: Share of the users with a target that indexes are fitted on; 0 for none. The others
            are halved.
        seed: Random seed of the draw.

    Returns:
        Three ascending int32 arrays without a common user.
    """
    users = np.flatnonzero(task.targets.lengths).astype(np.int32)
    count = round(share * len(users))
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
