"""What each user finds in a catalogue of some thousand items, by every index of the chapter.

The code that builds the large indexes builds these, with as many lists as the items allow. Recall
is counted among the items that the user has not seen, since a service leaves out the seen ones, and
among all items.

The rows are shuffled first: k-means must not meet the real items before the synthetic ones.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nanorecsys.ann.exact import exact_neighbours, unseen_items
from nanorecsys.data import Histories
from nanorecsys.scaleup.build import build
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.specs import OTHERS, ParsedSpecification, parse_specification, setting

K = 10
PROBES = (1, 2, 4, 8, 16, 32)
FACTOR = 2  # candidates to refine, times k, for each list that is probed
RERANKED = 400  # candidates that other libraries re-rank
Case = tuple[str, str, str]  # family, setting, and the items that count: "unseen" ones or "all"


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
    apart: np.ndarray,
    specifications: Sequence[str],
    seed: int,
) -> dict[Case, np.ndarray]:
    """Measure the recall@10 of every user with each index at each setting of its ladder.

    Args:
        vectors: Unit float32 (n, d).
        queries: Unit float32 (q, d), real users.
        seen: CSR by query, rows of `vectors` that the user has seen.
        apart: Unit float32 (u, d), other users that projections are fitted on.
        specifications: Indexes, one of each family, see `nanorecsys.scaleup.specs`.
        seed: Random seed of the order and of every training.

    Returns:
        float32 (q,) by family, setting and metric.

    Raises:
        SpecificationError: An index does not fit the vectors.
    """
    n = len(vectors)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = vectors[order]
    seen = relabelled(seen, np.argsort(order))
    unseen, every = (exact_neighbours(shuffled, queries, K, seen=own) for own in (seen, None))
    found: dict[Case, np.ndarray] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "catalogue.npy", shuffled)
        rows = CatalogueFile(folder / "catalogue.npy")
        for specification in specifications:
            parsed = parse_specification(specification, n)
            index = build(rows, parsed, apart, seed)
            for search in ladder(parsed):
                index.set(search)
                answers = unseen_items(index.search, queries, seen, n, K)
                found[parsed.family, search, "unseen"] = unseen.recall(answers)
                answers = index.search(queries, K)[1]
                found[parsed.family, search, "all"] = every.recall(answers)
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
