"""Indexes behind one small protocol: build, set, search, save, load. Scores are inner products of unit vectors.

index = build_index("IVF256,SQ8", vectors)
index.set("nprobe=16")
scores, items = index.search(queries, 100)
index.save(path); load_index("IVF256,SQ8", path)
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from nanorecsys.ann.errors import (
    DirectionsError,
    DivisibilityError,
    FactoryError,
    ListsError,
    NeighboursError,
    SpecificationError,
    VectorsError,
)
from nanorecsys.ann.specs import PROJECTED, directions, kind, lists, needs_users
from nanorecsys.serving.retrieval import (
    FaissIndex,
    Index,
    UsearchIndex,
    innermost,
    reason,
    transforms,
    usearch,
)
from nanorecsys.system.blas import faiss

NORM_TOLERANCE = 1e-3
ITEMS_WEIGHT = 1e-3  # of the items beside the users in the fit of a projection: enough to order what no user takes
BRUTE_FORCE_BELOW = (
    50_000  # vectors for which NSG's neighbours by brute force are found sooner than by descent
)


@dataclass(frozen=True)
class BuildOptions:
    """What bounds the time of a build. Threads are the process's, see `faiss.omp_set_num_threads`.

    Args:
        threads: of usearch, which has its own.
        opq_iterations: of the rotation's training and of the codes in each, three times as many in
            the first; FAISS's defaults of 50, 4 and 40 take minutes.
        opq_points: vectors that it trains on.
        nsg_neighbours: of the graph that NSG prunes.
        hnsw_beam: width of the search for a new vector's neighbours.
    """

    threads: int = 1
    opq_iterations: int = 3
    opq_points: int = 8192
    nsg_neighbours: int = 32
    hnsw_beam: int = 64


def build_index(
    factory: str,
    vectors: np.ndarray,
    options: BuildOptions | None = None,
    users: np.ndarray | None = None,
) -> Index:
    """Train an index on the vectors and add them, numbered from 0.

    Args:
        factory: see `nanorecsys.ann.specs`.
        vectors: float32 (n, d), unit norm.
        options: bounds of the build.
        users: float32 (q, d), unit norm, vectors of users that a `Users` string is fitted on; else
            not read.

    Raises:
        SpecificationError: one of its subclasses, for a factory string that is unknown or does not
            fit the vectors, vectors that are not finite and of unit norm, or users' vectors that
            are needed and not there.
    """
    options = options or BuildOptions()
    check_vectors(vectors)
    if kind(factory) == "usearch":
        return _build_usearch(factory, vectors, options)
    check_factory(factory, *vectors.shape)
    try:
        # FAISS's random rotation keeps a place in the chain for the projection, and its type in the
        # file
        written = PROJECTED.sub(r"RR\2,", factory, count=1) if PROJECTED.match(factory) else factory
        index = faiss.index_factory(vectors.shape[1], written, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise FactoryError(
            f"FAISS knows no index {factory!r} for {vectors.shape[1]} dimensions: {reason(error)}",
            "See its guidelines on the index factory.",
        ) from error
    _bound(index, vectors, options)
    if PROJECTED.match(factory):
        fitted_on = users if needs_users(factory) else vectors
        (transform,) = transforms(index)  # the place that the factory kept for it
        project_by(transform, users_projection(vectors, fitted_on, directions(factory)))
    try:
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        raise SpecificationError(
            f"{factory}: {reason(error)}", "Take another specification."
        ) from error
    return FaissIndex(index)


def check_vectors(vectors: np.ndarray) -> None:
    """Refuse what no inner-product index should be given.

    Raises:
        VectorsError: not float32 (n, d), a value that is not finite, or a norm that is not one.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors):
        raise VectorsError(
            f"expected float32 (n, d), got {vectors.dtype} {vectors.shape}", "Convert them first."
        )
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms))[0])
        raise VectorsError(
            f"vector {row} of {len(vectors)} is not finite", "Look for a diverged training."
        )
    worst = int(np.abs(norms - 1).argmax())
    if abs(norms[worst] - 1) > NORM_TOLERANCE:
        raise VectorsError(
            f"vector {worst} has norm {norms[worst]:.4g}, not 1: graph indexes lose most of their recall on such",
            "Divide every vector by its norm, or add the norm-completing dimension.",
        )


def check_factory(factory: str, n: int, d: int) -> None:
    """Refuse a FAISS string that cannot be trained on n vectors of d dimensions, before it is tried.

    Raises:
        DivisibilityError: the parts of a product quantizer do not divide the dimensions.
        ListsError: more inverted lists than vectors.
    """
    if lists(factory) > n:
        raise ListsError(
            f"{factory} has {lists(factory)} lists for {n} vectors", "Take fewer lists."
        )
    if PROJECTED.match(factory):
        if not 1 <= directions(factory) <= d:
            raise DirectionsError(
                f"{factory} keeps {directions(factory)} directions of {d}",
                f"Take from 1 to {d} of them.",
            )
        d = directions(factory)
    for part in factory.split(","):
        if found := re.fullmatch(r"O?PCAR?(\d+)|OPQ\d+_(\d+)", part):
            d = int(found[1] or found[2])
        elif (found := re.match(r"O?PQ(\d+)", part)) and d % int(found[1]):
            raise DivisibilityError(
                f"{factory}: {found[1]} parts do not divide {d} dimensions",
                "Take a divisor of the dimensions.",
            )


def users_projection(
    vectors: np.ndarray, users: np.ndarray | None, count: int, seed: int = 0
) -> np.ndarray:
    """The directions in which users' vectors have most of their squared length, rotated at random among themselves.

    Not centred, since an inner product is not either. Rotated, the directions are alike, as the
    parts of a product quantizer should be: each has as many bits. Directions that no user takes
    come in the order of the items' length.

    Args:
        vectors: float32 (n, d), the items.
        users: float32 (q, d), unit norm.
        count: directions, at most d.
        seed: of the rotation.

    Returns:
        Orthonormal rows, float32 (count, d).

    Raises:
        DirectionsError: there are no users' vectors.
        VectorsError: they are not finite, of unit norm and of d dimensions.
    """
    if users is None or not len(users):
        raise DirectionsError(
            "a projection to the users' directions is fitted on users' vectors, and there are none",
            "Set users apart for it (training_users above 0), or take a specification without Users.",
        )
    check_vectors(users)
    if users.shape[1] != vectors.shape[1]:
        raise VectorsError(
            f"users' vectors have {users.shape[1]} dimensions, the items' {vectors.shape[1]}",
            "Take one model's.",
        )
    moments = sum(
        weight * (own.T @ own).astype(np.float64) / len(own)
        for weight, own in ((1, users), (ITEMS_WEIGHT, vectors))
    )
    _, axes = np.linalg.eigh(moments)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((count, count)))
    return np.ascontiguousarray(rotation @ axes[:, ::-1][:, :count].T, np.float32)


@dataclass(frozen=True, eq=False)
class Layer:
    """A search within a search. `adds` is what it does beyond the layer within it.

    Args:
        adds: its name.
        prepare: queries float32 (q, d) to what `search` takes, made beforehand.
        search: of what `prepare` made of one query.
    """

    adds: str
    prepare: Callable[[np.ndarray], np.ndarray]
    search: Callable[[np.ndarray], object]


def layers(index: Index, k: int) -> list[Layer]:
    """A search for k neighbours taken apart, the whole first; each layer's work is part of that of the one before it.

    An index that refines, projects and has lists gives, by what they add: refinement, projection,
    further lists, tables and one list, centroids. The last includes the call from Python. What has
    no lists is not taken apart.
    """
    if not isinstance(index, FaissIndex) or not isinstance(
        inner := innermost(index.index), faiss.IndexIVF
    ):
        return []
    found: list[Layer] = []
    outer, own = faiss.downcast_index(index.index), transforms(index.index)
    if isinstance(outer, faiss.IndexRefine):
        found.append(Layer("refinement", partial(_transformed, []), partial(outer.search, k=k)))
        k, outer = int(k * outer.k_factor), faiss.downcast_index(outer.base_index)
    if own:
        found.append(Layer("projection", partial(_transformed, []), partial(outer.search, k=k)))
    prepare = partial(_transformed, own)
    return [
        *found,
        Layer("further lists", prepare, partial(inner.search, k=k)),
        Layer(
            "tables and one list",
            prepare,
            partial(inner.search, k=k, params=faiss.SearchParametersIVF(nprobe=1)),
        ),
        Layer("centroids", prepare, partial(faiss.downcast_index(inner.quantizer).search, k=1)),
    ]


def check_neighbours(k: int, n: int) -> None:
    """Refuse a search for more neighbours than there are.

    Raises:
        NeighboursError: k is above n, or below 1.
    """
    if not 1 <= k <= n:
        raise NeighboursError(
            f"{k} neighbours asked for among {n} vectors", f"Take k from 1 to {n}."
        )


def code_bytes(index: Index) -> int | None:
    """Bytes that a scan reads for one vector; None where nothing is scanned (graphs).

    That is the code, and for a RaBitQ index its factors as well; what refinement reads is not in
    it.
    """
    if not isinstance(index, FaissIndex):
        return None
    inner = innermost(index.index)
    if isinstance(inner, (faiss.IndexHNSW, faiss.IndexNSG)):
        return None
    if isinstance(inner, faiss.IndexIVF):
        return int(inner.code_size)
    return int(inner.sa_code_size())


def refined_bytes(index: Index) -> int:
    """Bytes of one vector that refinement reads again; 0 where there is none."""
    if isinstance(index, FaissIndex):
        outer = faiss.downcast_index(index.index)
        if isinstance(outer, faiss.IndexRefine):
            return int(faiss.downcast_index(outer.refine_index).sa_code_size())
    return 0


def fixed_bytes(index: FaissIndex, factory: str) -> int:
    """Bytes that every query reads whatever it finds: matrices that it is multiplied by, and all centroids."""
    matrices = sum(4 * t.d_in * t.d_out for t in transforms(index.index))
    return matrices + 4 * lists(factory) * innermost(index.index).d


def visited(index: Index, queries: np.ndarray, probes: int) -> np.ndarray | None:
    """Vectors in the lists that each query visits, int64 (q,); None where there are no lists."""
    inner = innermost(index.index) if isinstance(index, FaissIndex) else None
    if not isinstance(inner, faiss.IndexIVF):
        return None
    sizes = np.array([inner.invlists.list_size(i) for i in range(inner.nlist)])
    _, found = inner.quantizer.search(
        _transformed(transforms(index.index), queries), min(probes, inner.nlist)
    )
    return sizes[found].sum(axis=1)


def _bound(index: faiss.Index, vectors: np.ndarray, options: BuildOptions) -> None:
    """Set what bounds the time of a build."""
    for transform in transforms(index):
        if isinstance(transform, faiss.OPQMatrix):
            transform.niter = transform.niter_pq = options.opq_iterations
            transform.niter_pq_0 = 3 * options.opq_iterations
            transform.max_train_points = options.opq_points
    inner = innermost(index)
    if isinstance(inner, faiss.IndexNSG):
        inner.GK = min(options.nsg_neighbours, len(vectors) - 1)
        inner.build_type = int(len(vectors) > BRUTE_FORCE_BELOW)
        inner.nndescent_L = inner.GK + 20
    elif isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efConstruction = options.hnsw_beam


def project_by(transform: faiss.LinearTransform, matrix: np.ndarray) -> None:
    """Let a transform project by orthonormal rows, float32 (directions, d)."""
    faiss.copy_array_to_vector(matrix.ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True


def _transformed(transforms: list[faiss.VectorTransform], vectors: np.ndarray) -> np.ndarray:
    for transform in transforms:
        vectors = transform.apply(vectors)
    return vectors


def _build_usearch(factory: str, vectors: np.ndarray, options: BuildOptions) -> UsearchIndex:
    found = re.fullmatch(r"usearch:M(\d+)(?:,(f32|bf16|f16|i8))?", factory)
    if not found or int(found[1]) < 2:
        raise FactoryError(
            f"{factory!r} is no usearch index", "Write usearch:M16, or usearch:M16,bf16 or ,i8."
        )
    index = usearch().Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype=found[2] or "f32",
        connectivity=int(found[1]),
        expansion_add=options.hnsw_beam,
    )
    index.add(np.arange(len(vectors)), vectors, threads=options.threads)
    return UsearchIndex(index)
