"""Build indexes over a large catalogue.

Inverted lists are filled block by block, so the catalogue is never whole in memory. Centroids and
codes are trained on a sample. ScaNN and LoRANN read all vectors at once.
"""

from typing import Any

import numpy as np

from nanorecsys.ann.indexes import build_other, empty_index, project_by, users_projection
from nanorecsys.ann.specs import PROJECTED
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.specs import OTHERS, ParsedSpecification
from nanorecsys.serving.retrieval import FaissIndex, Index
from nanorecsys.system.blas import faiss

CODE_POINTS = 16_384  # items that codes are trained on: 64 per centroid of an 8-bit code
CODE_ITERATIONS = 6  # iterations of k-means for codes; more add less than 0.01 of recall
LIST_POINTS = 32  # items per list that k-means of lists is trained on
CLUSTER_POINTS = 262_144  # items that k-means of lists is trained on, at most
LIST_ITERATIONS = 4  # iterations of k-means of lists
BLOCK_ROWS = 131_072  # items added at once
COARSE_FACTOR = 2  # times nprobe: centroids that are re-ranked exactly
ONE_BY_ONE = 11  # FAISS's `implem` that searches single queries, with candidates in a reservoir


def build(
    rows: CatalogueFile,
    parsed: ParsedSpecification,
    users: np.ndarray | None = None,
    seed: int = 0,
) -> Index:
    """Build any index but exact search.

    Args:
        rows: Items.
        parsed: Specification.
        users: Users' vectors that a projection is fitted on, unit float32 (u, d).
        seed: Random seed of samples and k-means.

    Raises:
        SpecificationError: The specification does not fit the items.
        LibraryError: Its library is not installed.
    """
    if parsed.library in OTHERS:
        return build_other(parsed.factory, rows.read(0, rows.n))
    seen, projection = rows, np.empty((0, rows.d), np.float32)
    if PROJECTED.match(parsed.factory):
        items = rows.sample(CODE_POINTS, seed + 2)
        projection = users_projection(parsed.factory, items, users, seed)
        seen = CatalogueFile(rows.path, rows.n, projection)
    coarse = empty_index(parsed.coarse_code, seen.d) if parsed.coarse_code else None
    index = _trained(seen, parsed, seed)
    refinement = empty_index("SQ8", rows.d) if parsed.refined else None
    if refinement is not None:
        refinement.train(rows.sample(CODE_POINTS, seed + 1))
    for start, stop in rows.blocks(BLOCK_ROWS):
        vectors = rows.read(start, stop)
        if refinement is not None:
            refinement.add(vectors)
        index.add(vectors @ projection.T if len(projection) else vectors)
    found = _packed(index, parsed.code)
    if coarse is not None:
        _add_centroids(coarse, index.quantizer.reconstruct_n(0, parsed.lists))
        found.quantizer, found.own_fields = coarse, False
        _keep_alive(found, coarse)
    if len(projection):
        transform = faiss.LinearTransform(rows.d, seen.d, False)
        project_by(transform, projection)
        found = faiss.IndexPreTransform(transform, found)
    if refinement is not None:
        found = faiss.IndexRefine(found, refinement)
    return FaissIndex(found)


def try_build(factory: str, vectors: np.ndarray) -> None:
    """Build an index of ScaNN or LoRANN and drop it; an error is the caller's."""
    build_other(factory, vectors)


def _centroids(rows: CatalogueFile, lists: int, seed: int) -> np.ndarray:
    """Cluster a sample of the rows, float32 (lists, d)."""
    points = min(lists * LIST_POINTS, CLUSTER_POINTS)
    clustering: Any = faiss.Clustering(rows.d, lists)
    clustering.niter, clustering.seed = LIST_ITERATIONS, seed + 1
    clustering.spherical = True
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = LIST_POINTS
    clustering.train(rows.sample(points, seed), faiss.IndexFlatIP(rows.d))
    return faiss.vector_to_array(clustering.centroids).reshape(lists, rows.d)


def _trained(rows: CatalogueFile, parsed: ParsedSpecification, seed: int) -> Any:
    """Train lists and plain codes; codes of a fast scan are packed once all are there."""
    fast_scan = "x4fs" in parsed.code
    code = f"{parsed.code.partition('fs')[0]}np" if fast_scan else parsed.code
    index = empty_index(f"IVF{parsed.lists},{code}", rows.d)
    if fast_scan:
        index.by_residual = parsed.code.endswith("r")  # as the factory does
    if isinstance(index, faiss.IndexIVFPQ):
        training: Any = index.pq.cp
        training.niter, training.min_points_per_centroid = CODE_ITERATIONS, 1
        training.max_points_per_centroid = CODE_POINTS // 256
    index.quantizer.add(_centroids(rows, parsed.lists, seed))
    index.train(rows.sample(CODE_POINTS, seed + 1))
    return index


def _packed(index: Any, code: str) -> Any:
    if "fs" not in code:
        return index
    packed: Any = faiss.IndexIVFPQFastScan(index)
    packed.implem = ONE_BY_ONE
    _keep_alive(packed, index)  # it owns the centroids
    index.reset()
    return packed


def _keep_alive(index: Any, part: Any) -> None:
    """Keep a part of an index as long as the index itself, as FAISS's own constructors do."""
    index.referenced_objects = [*getattr(index, "referenced_objects", []), part]


def _add_centroids(coarse: Any, centroids: np.ndarray) -> None:
    """Fill an index that finds centroids by their codes and re-ranks them exactly."""
    coarse.k_factor = COARSE_FACTOR
    codes: Any = faiss.downcast_index(coarse.base_index)
    codes.pq.cp.min_points_per_centroid = 1
    coarse.train(centroids)
    coarse.add(centroids)
