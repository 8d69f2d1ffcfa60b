"""Build indexes over a catalogue that is never whole in memory, block by block.

Centroids and the list of each item are computed once for a number of lists and serve every index
that has as many. Codes are trained on a sample. The same input gives the same index, except for
graphs: threads insert at the same time, so links depend on which is first.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanorecsys.ann.indexes import (
    HNSW_BEAM,
    check_factory,
    check_neighbours,
    project_by,
    users_projection,
)
from nanorecsys.ann.specs import directions, needs_users
from nanorecsys.scaleup.catalogue import CatalogueFile
from nanorecsys.scaleup.specs import ParsedSpecification
from nanorecsys.serving.retrieval import FaissIndex
from nanorecsys.system.blas import faiss
from nanorecsys.system.files import atomic_path
from nanorecsys.system.memory import peak_resident_bytes

GRAPH_BLOCK = 16_384
CODE_POINTS = 16_384  # items that codes are trained on: 64 per centroid of an 8-bit code
CODE_ITERATIONS = 6  # iterations of k-means for codes; more add less than 0.01 of recall
CLUSTER_POINTS = 262_144  # items that k-means of lists is trained on, at most
COARSE_FACTOR = 2  # times nprobe: centroids that are re-ranked exactly
ONE_BY_ONE = 11  # FAISS's `implem` that searches single queries, with candidates in a reservoir
INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT


@dataclass(frozen=True)
class TrainingOptions:
    """What bounds the time and memory of a build.

    Args:
        points: Sampled items per list for k-means.
        iterations: Iterations of k-means.
        block_rows: Items per block.
        seed: Random seed of samples and k-means.
    """

    points: int = 64
    iterations: int = 8
    block_rows: int = 131_072
    seed: int = 0


def check_buildable(parsed: ParsedSpecification, n: int, d: int) -> None:
    """Check that a specification fits n vectors of d dimensions.

    Raises:
        SpecificationError: It does not, by one of its subclasses.
    """
    check_neighbours(1, n)
    space = f"{parsed.space}," if parsed.space else ""
    for code in (parsed.factory.replace("_HNSW", ",HNSW"), f"{space}{parsed.coarse_code}"):
        check_factory(code, n, d)


def assign_lists(
    path: Path,
    rows: CatalogueFile,
    parsed: ParsedSpecification,
    options: TrainingOptions,
    users: np.ndarray | None,
) -> None:
    """Cluster the items and write the list of each to a .npz file.

    Args:
        path: File with projection (directions, d), empty for none; centroids (lists, directions);
            lists (n,); and of this call seconds and peak_bytes.
        rows: Items.
        parsed: Specification; its projection and number of lists are used.
        options: Bounds of the time.
        users: Users' vectors that a projection is fitted on, unit float32 (u, d).
    """
    start = time.perf_counter()
    projection = np.empty((0, rows.d), np.float32)
    if parsed.space:
        items = rows.sample(CODE_POINTS, options.seed + 2)
        fitted_on = users if needs_users(parsed.factory) else items
        count = directions(parsed.factory)
        projection = users_projection(items, fitted_on, count, options.seed)
        rows = rows.projected(projection)
    points = min(parsed.lists * options.points, CLUSTER_POINTS)
    clustering: Any = faiss.Clustering(rows.d, parsed.lists)
    clustering.niter, clustering.seed = options.iterations, options.seed + 1
    clustering.spherical = True
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = options.points
    clustering.train(rows.sample(points, options.seed), faiss.IndexFlatIP(rows.d))
    centroids = faiss.vector_to_array(clustering.centroids).reshape(parsed.lists, rows.d)
    quantizer = faiss.IndexFlatIP(rows.d)
    quantizer.add(centroids)
    blocks = rows.blocks(options.block_rows)
    lists = [quantizer.search(rows.read(*block), 1)[1][:, 0] for block in blocks]
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(
            file,
            projection=projection,
            centroids=centroids,
            lists=np.concatenate(lists),
            seconds=time.perf_counter() - start,
            peak_bytes=peak_resident_bytes(),
        )


def build_lists(
    rows: CatalogueFile, parsed: ParsedSpecification, options: TrainingOptions, assigned: Path
) -> FaissIndex:
    """Build an index with inverted lists over the items that `assign_lists` assigned."""
    with np.load(assigned) as kept:
        projection, centroids, lists = kept["projection"], kept["centroids"], kept["lists"]
    seen = rows.projected(projection) if len(projection) else rows
    index = _trained(seen, parsed, centroids, options)
    refinement: Any = None
    if parsed.refined:
        refinement = faiss.IndexScalarQuantizer(
            rows.d, faiss.ScalarQuantizer.QT_8bit, INNER_PRODUCT
        )
        refinement.train(rows.sample(CODE_POINTS, options.seed + 1))
    for start, stop in rows.blocks(options.block_rows):
        vectors = rows.read(start, stop)
        if refinement is not None:
            refinement.add(vectors)
        if len(projection):
            vectors = vectors @ projection.T
        given = (vectors, np.arange(start, stop), lists[start:stop])
        index.add_core(len(vectors), *(faiss.swig_ptr(array) for array in given))
    found = _packed(index, parsed.code)
    if parsed.coarse_links or parsed.coarse_code:
        coarse = _coarse(centroids, parsed)
        found.quantizer, found.own_fields = coarse, False
        _keep_alive(found, coarse)
    if len(projection):
        transform = faiss.LinearTransform(rows.d, seen.d, False)
        project_by(transform, projection)
        found = faiss.IndexPreTransform(transform, found)
    if refinement is not None:
        found = faiss.IndexRefine(found, refinement)
    return FaissIndex(found)


def build_graph(rows: CatalogueFile, parsed: ParsedSpecification) -> FaissIndex:
    """Build a graph over the items themselves."""
    index: Any = faiss.IndexHNSWFlat(rows.d, parsed.links, INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BEAM
    for block in rows.blocks(GRAPH_BLOCK):
        index.add(rows.read(*block))
    return FaissIndex(index)


def _trained(
    rows: CatalogueFile,
    parsed: ParsedSpecification,
    centroids: np.ndarray,
    options: TrainingOptions,
) -> Any:
    """Train plain codes; codes of a fast scan are packed once all are there."""
    fast_scan = "x4fs" in parsed.code
    code = parsed.code.removesuffix("fs")
    if fast_scan:
        code = f"{parsed.code.partition('fs')[0]}np"
    index: Any = faiss.index_factory(rows.d, f"IVF{parsed.lists},{code}", INNER_PRODUCT)
    if fast_scan:
        index.by_residual = parsed.code.endswith("r")  # as the factory does
    if isinstance(index, faiss.IndexIVFPQ):
        training: Any = index.pq.cp
        training.niter, training.min_points_per_centroid = CODE_ITERATIONS, 1
        training.max_points_per_centroid = CODE_POINTS // 256
    index.quantizer.add(centroids)
    index.train(rows.sample(CODE_POINTS, options.seed + 1))
    return index


def _packed(index: Any, code: str) -> Any:
    if "fs" not in code:
        return index
    if code.startswith("RaBitQ"):
        packed: Any = faiss.IndexIVFRaBitQFastScan(index)
    else:
        packed = faiss.IndexIVFPQFastScan(index)
        packed.implem = ONE_BY_ONE
    _keep_alive(packed, index)  # it owns the centroids
    index.reset()
    return packed


def _keep_alive(index: Any, part: Any) -> None:
    """Keep a part of an index as long as the index itself, as FAISS's own constructors do."""
    index.referenced_objects = [*getattr(index, "referenced_objects", []), part]


def _coarse(centroids: np.ndarray, parsed: ParsedSpecification) -> Any:
    """An index of the centroids: a graph, or codes with exact re-ranking."""
    d = centroids.shape[1]
    if parsed.coarse_links:
        index: Any = faiss.IndexHNSWFlat(d, parsed.coarse_links, INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BEAM
    else:
        index = faiss.index_factory(d, parsed.coarse_code, INNER_PRODUCT)
        index.k_factor = COARSE_FACTOR
        codes: Any = faiss.downcast_index(index.base_index)
        codes.pq.cp.min_points_per_centroid = 1
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the same links each time
    index.train(centroids)
    index.add(centroids)
    faiss.omp_set_num_threads(threads)
    return index
