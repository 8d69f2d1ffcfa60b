"""Item vectors, real and generated, and the vectors of real users as queries."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nanorecsys.ann.errors import AnnError
from nanorecsys.ann.indexes import check_vectors
from nanorecsys.data import Histories, expand
from nanorecsys.evaluation import Task


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


@dataclass(frozen=True, eq=False)
class Queries:
    """User vectors float32 (q, d), unit norm, each after the first events of a user's history.

    Args:
        vectors: One row per query. All users' shortest prefixes come first, their whole histories
            last.
        user: int32 (q,).
        seen: CSR by query, the items of its prefix.
        users: int32 (u,), the distinct users.
    """

    vectors: np.ndarray
    user: np.ndarray
    seen: Histories
    users: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """Queries after the whole history, float32 (u, d), in the order of `users`."""
        return self.vectors[-len(self.users) :]

    def frame(self) -> pd.DataFrame:
        """Return one row per query: query, user, events."""
        frame = pd.DataFrame({"user": self.user, "events": self.seen.lengths.astype(np.int32)})
        return frame.rename_axis("query").reset_index()


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
        n_items: Total number of vectors, 0 for the catalogue alone.
        generator: Name of the generator.
        generate: `nanorecsys.scaleup.generate` or a function with its signature.
        seed: Random seed of the generator.

    Raises:
        AnnError: The catalogue has more than `n_items` vectors.
        VectorsError: The vectors are not finite and of unit norm.
    """
    check_vectors(real)
    if n_items and n_items < len(real):
        raise AnnError(
            f"n_items is {n_items:,}, the catalogue has {len(real):,} already",
            "Use 0 for the catalogue alone, or a larger number.",
        )
    if n_items in (0, len(real)):
        return Corpus(real, len(real), "")
    vectors = np.ascontiguousarray(
        generate(real, n_items, generator=generator, seed=seed), np.float32
    )
    check_vectors(vectors)
    return Corpus(vectors, len(real), generator)


def split_users(task: Task, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split users into those that indexes may be fitted on and those who are measured.

    Args:
        task: Test task.
        share: Share of the users with a target, drawn at random for the first group; 0 for none.
        seed: Random seed of the draw.

    Returns:
        Two ascending int32 arrays.

    Raises:
        AnnError: The share is below 0, or leaves no user to measure.
    """
    users = np.flatnonzero(task.targets.lengths).astype(np.int32)
    count = round(share * len(users))
    if not 0 <= count < len(users):
        raise AnnError(
            f"training_users is {share} of {len(users)} users",
            "Use a share from 0 to below 1, as 0.2.",
        )
    chosen = np.zeros(len(users), bool)
    chosen[np.random.default_rng(seed).permutation(len(users))[:count]] = True
    return users[chosen], users[~chosen]


def user_prefixes(
    task: Task, count: int, users: np.ndarray | None = None
) -> tuple[Histories, np.ndarray]:
    """Cut each user's history into the first 1/count, 2/count, .. of it, the whole last.

    Args:
        task: Test task.
        count: Prefixes per user.
        users: int32, by default those with a target.

    Returns:
        CSR of count * u histories, and the users int32 (u,): history p * u + i is the p-th prefix
        of user i.

    Raises:
        AnnError: `count` is below 1.

    Example:
        >>> from nanorecsys.data import Interactions
        >>> items = np.arange(4, dtype=np.int32)
        >>> seen = Histories(np.array([0, 4]), items)
        >>> targets = Histories(np.array([0, 1]), items[:1])
        >>> known = Interactions(np.zeros(4, np.int32), items, np.ones(4, np.float32), np.arange(4))
        >>> task = Task("test", known, seen, targets, n_users=1, n_items=4)
        >>> user_prefixes(task, 2)[0].items.tolist()
        [0, 1, 0, 1, 2, 3]
    """
    if count < 1:
        raise AnnError(f"prefixes is {count}", "Use 1 for whole histories alone, or more.")
    if users is None:
        users = np.flatnonzero(task.targets.lengths).astype(np.int32)
    start, length = task.seen.offsets[users], task.seen.lengths[users]
    lengths = np.concatenate([-(-length * p // count) for p in range(1, count + 1)])
    starts = np.tile(start, count)
    _, entry = expand(starts, starts + lengths)
    return Histories(np.concatenate([[0], np.cumsum(lengths)]), task.seen.items[entry]), users


def user_queries(
    histories: Histories, users: np.ndarray, encode: Callable[[Histories], np.ndarray]
) -> Queries:
    """Encode the prefixes that `user_prefixes` returned.

    Args:
        histories: CSR of the prefixes.
        users: int32 (u,).
        encode: User tower, from histories to float32 (q, d).

    Raises:
        VectorsError: A vector is not finite or not of unit norm.
    """
    vectors = np.ascontiguousarray(encode(histories), np.float32)
    check_vectors(vectors)
    repeats = len(vectors) // len(users)
    return Queries(vectors, np.tile(users, repeats), histories, users)
