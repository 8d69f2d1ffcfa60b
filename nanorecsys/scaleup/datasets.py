"""The real items of a data set, and its users after their whole histories."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nanorecsys.ann.corpus import split_users
from nanorecsys.data import Histories, load_prepared
from nanorecsys.evaluation import make_task


@dataclass(frozen=True, eq=False)
class RealCatalogue:
    """Real items and real users.

    Args:
        name: Name of the data set.
        vectors: Items, unit float32 (n, d).
        queries: Measured users in random order, unit float32 (q, d).
        seen: CSR by query, the items of the history.
        apart: Other users that projections are fitted on, unit float32 (u, d).
    """

    name: str
    vectors: np.ndarray
    queries: np.ndarray
    seen: Histories
    apart: np.ndarray

    def with_users(self, count: int) -> "RealCatalogue":
        """Keep the first measured users; all of them if `count` is 0."""
        kept = np.arange(len(self.queries))[: count or None]
        return replace(self, queries=self.queries[kept], seen=self.seen.take(kept))


def read_real(
    data: Path, vectors: Path, retriever: Path, events: int, users: int, seed: int
) -> RealCatalogue:
    """Read a data set's items and encode its users as the server does, in full precision.

    Args:
        data: Folder of the prepared data.
        vectors: .npy of the items, unit float32 (n, d).
        retriever: File of the model that made them.
        events: Number of last events that the user tower reads.
        users: Measured users, drawn at random from the others; all of them if 0.
        seed: Random seed of both draws.
    """
    from nanorecsys.models.retriever import load_retriever  # child processes do without torch
    from nanorecsys.training.fit import encode_users

    prepared = load_prepared(data)
    task = make_task(prepared.dataset.interactions, prepared.splits["leave_one_out"], "test")
    fitted_on, *others = split_users(task, seed)
    measured = np.random.default_rng(seed).permutation(np.concatenate(others))[: users or None]
    model = load_retriever(retriever)
    return RealCatalogue(
        name=prepared.dataset.name,
        vectors=np.load(vectors),
        queries=encode_users(model, task.seen, measured, events),
        seen=task.seen.take(measured),
        apart=encode_users(model, task.seen, fitted_on, events),
    )
