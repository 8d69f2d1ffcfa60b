"""What each user finds in a catalogue of some thousand items, by every index of the chapter.

The code that builds the large indexes builds these, with as many lists as the items allow. Recall
is counted among the items that the user has not seen, since a service leaves out the seen ones, and
among all items.

The rows are shuffled first: k-means must not meet the real items before the synthetic ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nanorecsys.ann.exact import Exact, exact_neighbours, list_lengths, without_seen
from nanorecsys.data import Histories
from nanorecsys.scaleup.build import TrainingOptions, build
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.specs import OTHERS, ParsedSpecification, parse_specification, setting
from nanorecsys.serving.retrieval import Index

K = 10
METRICS = ("unseen", "all")  # the items among which neighbours are counted
PROBES = (1, 2, 4, 8, 16, 32)
FACTOR = 2  # candidates to refine, times k, for each list that is probed
RERANKED = 400  # candidates that other libraries re-rank
Case = tuple[str, str, str]  # family, search setting, metric


@dataclass(frozen=True, eq=False)
class Audience:
    """Users who query a catalogue.

    Args:
        queries: Unit float32 (q, d).
        seen: CSR by query, the catalogue's items that the user has seen.
        exact: Exact neighbours by metric.
    """

    queries: np.ndarray
    seen: Histories
    exact: dict[str, Exact]

    def recalls(self, index: Index, parsed: ParsedSpecification) -> Iterator[tuple[Case, Any]]:
        """Yield the users' recalls, float32 (q,), at each setting of the ladder, by metric."""
        for search in ladder(parsed):
            index.set(search)
            found = {"unseen": self._unseen(index), "all": index.search(self.queries, K)[1]}
            for metric in METRICS:
                yield (parsed.family, search, metric), self.exact[metric].recall(found[metric])

    def _unseen(self, index: Index) -> np.ndarray:
        """Ask for more neighbours, as a server does, and leave out the seen ones, int64 (q, K)."""
        n, found = index.shape[0], np.empty((len(self.queries), K), np.int64)
        depths = list_lengths(self.seen.lengths, n, K)
        for depth in np.unique(depths):
            users = np.flatnonzero(depths == depth)
            items = index.search(self.queries[users], int(depth))[1]
            found[users] = without_seen(items, self.seen.take(users), n, K)
        return found


def ladder(parsed: ParsedSpecification) -> list[str]:
    """Return the settings at which catalogues are compared.

    >>> ladder(parse_specification("IVF4,PQ8x4fs,Refine(SQ8)", 1000))
    ['nprobe=1,k_factor_rf=2', 'nprobe=2,k_factor_rf=4', 'nprobe=4,k_factor_rf=8']
    """
    is_other = parsed.library in OTHERS
    return [
        setting(parsed, lists, RERANKED if is_other else FACTOR * lists)
        for lists in PROBES
        if lists <= parsed.lists
    ]


def user_recalls(
    vectors: np.ndarray,
    queries: np.ndarray,
    seen: Histories,
    apart: np.ndarray | None,
    specifications: Sequence[str],
    options: TrainingOptions,
) -> dict[Case, np.ndarray]:
    """Measure the recall@10 of every user with each index at each setting of its ladder.

    Args:
        vectors: Unit float32 (n, d).
        queries: Unit float32 (q, d), real users.
        seen: CSR by query, rows of `vectors` that the user has seen.
        apart: Unit float32 (u, d), other users that projections are fitted on.
        specifications: Indexes, one of each family, see `nanorecsys.scaleup.specs`.
        options: Bounds of the builds, and the random seed of the order and of every training.

    Returns:
        float32 (q,) by family, setting and metric.

    Raises:
        SpecificationError: An index does not fit the vectors.
    """
    n = len(vectors)
    order = np.random.default_rng(options.seed).permutation(n)
    shuffled = np.ascontiguousarray(vectors[order])
    seen = relabelled(seen, np.argsort(order))
    exact = [exact_neighbours(shuffled, queries, K, seen=own) for own in (seen, None)]
    audience = Audience(queries, seen, dict(zip(METRICS, exact, strict=True)))
    found: dict[Case, np.ndarray] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "catalogue.npy", shuffled)
        rows = CatalogueFile(folder / "catalogue.npy")
        for specification in specifications:
            parsed = parse_specification(specification, n)
            index = build(rows, parsed, options, apart)
            found |= dict(audience.recalls(index, parsed))
    return found


def relabelled(seen: Histories, rows: np.ndarray) -> Histories:
    """Translate seen items to another catalogue.

    Args:
        seen: CSR of items.
        rows: int (items,), the item's row in the other catalogue, -1 if it is not there.

    >>> seen = Histories(np.array([0, 2, 3]), np.array([2, 1, 2]))
    >>> relabelled(seen, np.array([-1, 7, -1])).items.tolist()
    [7]
    """
    there = rows[seen.items]
    kept = there >= 0
    return Histories(np.concatenate([[0], np.cumsum(kept)])[seen.offsets], there[kept])
