"""What each user finds in a catalogue of some thousand items, by every index of the chapter.

The code that builds the large indexes builds these, with as many lists as the items allow. Recall
is counted among the items that the user has not seen, since a service leaves out the seen ones, and
among all items.

The rows are shuffled first: k-means and graphs must not meet the real items before the synthetic
ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nanorecsys.ann.exact import Exact, exact_neighbours, list_lengths, without_seen
from nanorecsys.ann.specs import parse_setting
from nanorecsys.data import Histories
from nanorecsys.scaleup.build import (
    TrainingOptions,
    assign_lists,
    build_graph,
    build_lists,
    check_buildable,
)
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.specs import ParsedSpecification, parse_specification, search_grid
from nanorecsys.serving.retrieval import FaissIndex
from nanorecsys.system.blas import faiss

K = 10
METRICS = ("unseen", "all")  # the items among which neighbours are counted
PROBES = (1, 2, 4, 8, 16, 32)
FACTOR = 2  # candidates to refine, times k, for each list that is probed
BEAMS = (10, 16, 32, 64, 128, 256)
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

    def recalls(self, index: FaissIndex, parsed: ParsedSpecification) -> Iterator[tuple[Case, Any]]:
        """Yield the users' recalls, float32 (q,), at each setting of the ladder, by metric."""
        whole: Any = faiss.downcast_index(index.index)
        base, scores = whole, None
        if parsed.refined:
            base, codes = whole.base_index, faiss.downcast_index(whole.refine_index)
            scores = self.queries @ codes.reconstruct_n(0, codes.ntotal).T
        for setting in ladder(parsed, whole.ntotal):
            index.set(setting)
            values = parse_setting(setting)
            if parsed.links:
                found = self._walk(whole, values["efSearch"])
            else:
                found = self._scan(base, K * values.get("k_factor_rf", 1), scores)
            for metric, items in zip(METRICS, found, strict=True):
                yield (parsed.family, setting, metric), self.exact[metric].recall(items)

    def _scan(
        self, index: Any, wanted: int, scores: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search lists for what users have not seen and for all items, int64 (q, K) each.

        The scan is asked for more neighbours, and the seen ones are left out afterwards. `scores`
        (q, n) re-rank the first `wanted` candidates.
        """
        n = index.ntotal
        found = np.empty((2, len(self.queries), K), np.int64)
        depths = list_lengths(self.seen.lengths, n, wanted)
        for depth in np.unique(depths):
            users = np.flatnonzero(depths == depth)
            items = index.search(self.queries[users], int(depth))[1]
            unseen = without_seen(items, self.seen.take(users), n, wanted)
            for place, own in enumerate((unseen, items[:, :wanted])):
                if scores is not None:
                    own = reranked(own, scores[users])
                found[place, users] = own[:, :K]
        return found[0], found[1]

    def _walk(self, index: Any, beam: int) -> tuple[np.ndarray, np.ndarray]:
        """Search a graph for the same.

        Asking for more would widen the beam. So seen items may be passed but not returned.
        """
        first = index.search(self.queries, K)[1]
        kept = np.empty_like(first)
        for i in range(len(kept)):
            own = self.seen.items[self.seen.offsets[i] : self.seen.offsets[i + 1]]
            others = faiss.IDSelectorNot(faiss.IDSelectorBatch(own))
            wanted = faiss.SearchParametersHNSW(efSearch=beam, sel=others)  # type: ignore[attr-defined]
            kept[i] = index.search(self.queries[i : i + 1], K, params=wanted)[1]
        return kept, first


def ladder(parsed: ParsedSpecification, n: int) -> list[str]:
    """Return the settings of an index's grid at which catalogues are compared.

    >>> ladder(parse_specification("IVF4,PQ8x4fs,Refine(SQ8)", 1000), 1000)
    ['nprobe=1,k_factor_rf=2', 'nprobe=2,k_factor_rf=4', 'nprobe=4,k_factor_rf=8']
    """
    found = []
    for setting in search_grid(parsed, K, n):
        values = parse_setting(setting)
        nprobe = values.get("nprobe", 0)
        if parsed.links:
            chosen = values["efSearch"] in BEAMS
        else:
            factor = values.get("k_factor_rf", FACTOR * nprobe)
            chosen = nprobe in PROBES and factor == FACTOR * nprobe
        if chosen:
            found.append(setting)
    return found


def reranked(items: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Sort each user's candidates by score, the highest first.

    >>> reranked(np.array([[0, -1, 2]]), np.array([[0.1, 0.9, 0.5]])).tolist()
    [[2, 0, -1]]

    Args:
        items: int (u, candidates), -1 where nothing was found.
        scores: float (u, n).
    """
    own = np.where(items < 0, -np.inf, np.take_along_axis(scores, items, axis=1))
    return np.take_along_axis(items, np.argsort(-own, axis=1, kind="stable"), axis=1)


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
    n, d = vectors.shape
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
            check_buildable(parsed, n, d)
            if parsed.links:
                index = build_graph(rows, parsed)
            else:
                lists = folder / f"{parsed.space}-{parsed.lists}.npz"
                if not lists.exists():
                    assign_lists(lists, rows, parsed, options, apart)
                index = build_lists(rows, parsed, options, lists)
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
