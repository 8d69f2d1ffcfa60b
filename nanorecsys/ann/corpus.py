"""What is searched and with what: item vectors, up to a size by a generator, and real users' vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from nanorecsys.ann.errors import AnnError
from nanorecsys.ann.indexes import check_vectors
from nanorecsys.data import Histories, expand
from nanorecsys.evaluation import Task


@dataclass(frozen=True, eq=False)
class Corpus:
    """Item vectors float32 (n, d), unit norm: the `real` first ones are the catalogue's, the rest are generated."""

    vectors: np.ndarray
    real: int
    generator: str

    @property
    def synthetic(self) -> int:
        """How many are generated."""
        return len(self.vectors) - self.real

    def __str__(self) -> str:
        """What stands under every figure."""
        n, d = self.vectors.shape
        origin = (
            f", {self.synthetic:,} of them synthetic ({self.generator})"
            if self.synthetic
            else ", all of them real"
        )
        return f"{n:,} vectors of {d} dimensions{origin}"


@dataclass(frozen=True, eq=False)
class Queries:
    """User vectors float32 (q, d), unit norm, each after the first events of a user's history.

    Args:
        vectors: one row a query; a user's queries lie `len(users)` apart, the shortest prefix
            first.
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
        """The queries after the whole history, float32 (u, d), in the order of `users`."""
        return self.vectors[-len(self.users) :]

    def frame(self) -> pl.DataFrame:
        """One row a query: query, user, events."""
        number = np.arange(len(self.user), dtype=np.int32)
        return pl.DataFrame(
            {"query": number, "user": self.user, "events": self.seen.lengths.astype(np.int32)}
        )


def expand_corpus(
    real: np.ndarray,
    n_items: int,
    generator: str,
    generate: Callable[..., np.ndarray],
    seed: int = 0,
) -> Corpus:
    """The catalogue's vectors, and generated ones up to `n_items`.

    Args:
        real: float32 (items, d), unit norm.
        n_items: vectors in all, 0 for the catalogue alone.
        generator: name of the generator.
        generate: `nanorecsys.scaleup.generate`, or what has its signature.
        seed: of the generator.

    Raises:
        AnnError: fewer vectors asked for than the catalogue has.
        VectorsError: vectors that are not finite and of unit norm.
    """
    check_vectors(real)
    if n_items and n_items < len(real):
        raise AnnError(
            f"n_items is {n_items:,}, the catalogue has {len(real):,} already",
            "Use 0 for the catalogue alone, or a larger number: without some items their users could not be judged.",
        )
    if n_items in (0, len(real)):
        return Corpus(real, len(real), "")
    vectors = np.ascontiguousarray(
        generate(real, n_items, generator=generator, seed=seed), np.float32
    )
    check_vectors(vectors)
    return Corpus(vectors, len(real), generator)


def set_apart(task: Task, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Users whose vectors indexes may be fitted on, and the others, who are measured: no user is among both.

    Args:
        task: a test task.
        share: of the users with a target, drawn at random for the first group; 0 for none.
        seed: of the draw.

    Returns:
        Two rising int32 arrays.

    Raises:
        AnnError: the share is below 0, or leaves nobody to be measured.
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
    """The first 1/count, 2/count, .. of what each user had seen, the whole last.

    Args:
        task: a test task.
        count: prefixes of each user.
        users: int32, those with a target by default.

    Returns:
        CSR of count * u histories, and the users int32 (u,): history p * u + i is the p-th prefix
        of user i.

    Raises:
        AnnError: count below 1.

    Example:
        >>> from nanorecsys.data import Interactions
        >>> items = np.arange(4, dtype=np.int32)
        >>> seen, targets = Histories(np.array([0, 4]), items), Histories(np.array([0, 1]), items[:1])
        >>> known = Interactions(np.zeros(4, np.int32), items, np.ones(4, np.float32), np.arange(4))
        >>> user_prefixes(Task("test", known, seen, targets, n_users=1, n_items=4), 2)[0].items.tolist()
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
    """Vectors of the prefixes that `user_prefixes` returned.

    Args:
        histories: CSR of the prefixes.
        users: int32 (u,).
        encode: a user tower over histories, such as `nanorecsys.serving.encoder.encode_users` with
            its model.

    Raises:
        VectorsError: a vector that is not finite or not of unit norm.
    """
    vectors = np.ascontiguousarray(encode(histories), np.float32)
    check_vectors(vectors)
    repeats = len(vectors) // len(users)
    return Queries(vectors, np.tile(users, repeats), histories, users)


def energy(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Mean squared length of unit vectors in the first 1, 2, .. of some orthonormal directions, float64 (directions,).

    Args:
        vectors: float32 (n, d).
        axes: (d, directions).

    Example:
        >>> energy(np.array([[1, 0], [0, 1], [1, 0]], np.float32), np.eye(2)).round(2).tolist()
        [0.67, 1.0]
    """
    return np.cumsum(((vectors @ axes.astype(np.float32)) ** 2).mean(axis=0, dtype=np.float64))


def principal(vectors: np.ndarray) -> np.ndarray:
    """Principal directions of vectors, not centred, the longest first: columns, float64 (d, d)."""
    return np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)[1][:, ::-1]


def describe(vectors: np.ndarray, directions: int = 16) -> tuple[int, float, float, str]:
    """Count, lowest and highest norm, and the share of the squared length that lies in the first principal directions.

    Not centred, since an inner product is not either.

    >>> describe(np.array([[1, 0], [0, 1], [1, 0]], np.float32), directions=1)
    (3, 1.0, 1.0, '67%')
    """
    norms = np.linalg.norm(vectors, axis=1)
    energy = np.linalg.eigvalsh(vectors.T.astype(np.float64) @ vectors)[::-1]
    return (
        len(vectors),
        float(norms.min()),
        float(norms.max()),
        f"{energy[:directions].sum() / energy.sum():.0%}",
    )
