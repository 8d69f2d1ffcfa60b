"""Build indexes for inner products of unit vectors.

::

    index = build_index("IVF256,SQ8", vectors)  # or "lorann:clusters=128"
    index.set("nprobe=16")
    scores, items = index.search(queries, 100)
    index.save(path); load_index(path)
"""

from typing import Any

import numpy as np

from nanorecsys.ann.errors import VectorsError
from nanorecsys.ann.specs import PROJECTED, options
from nanorecsys.serving import retrieval
from nanorecsys.serving.errors import SpecificationError
from nanorecsys.serving.retrieval import Index, reason
from nanorecsys.system.blas import faiss

NORM_TOLERANCE = 1e-3
# Weight of the items in the fit of a projection: just enough to order directions without users.
ITEMS_WEIGHT = 1e-3
SCANN_THRESHOLD = 0.2  # cosine above which ScaNN's codes weigh the error along the vector more
SCANN_SAMPLE = 100_000  # vectors that the tree and the codes are trained on, at most
LORANN_NEAREST = 5  # clusters near a query that learn from it
LORANN_LEAST = 64  # dimensions


def build_index(factory: str, vectors: np.ndarray, users: np.ndarray | None = None) -> Index:
    """Train an index on the vectors and add them, numbered from 0, with FAISS's threads.

    Args:
        factory: Specification, see `nanorecsys.ann.specs`.
        vectors: float32 (n, d), unit norm.
        users: float32 (q, d), unit norm. User vectors that a `Users` projection is fitted on.

    Raises:
        SpecificationError: The factory string is unknown or does not fit the vectors, the vectors
            are not finite or not of unit norm, or user vectors are needed and missing.
        LibraryError: The specification's library is not installed.
    """
    check_vectors(vectors)
    if retrieval.library(factory) != "faiss":
        return build_other(factory, vectors)
    index = empty_index(factory, vectors.shape[1])
    if PROJECTED.match(factory):
        is_refined = isinstance(index, faiss.IndexRefine)
        projecting: Any = faiss.downcast_index(index.base_index) if is_refined else index
        transform: Any = faiss.downcast_VectorTransform(projecting.chain.at(0))
        project_by(transform, users_projection(factory, vectors, users))
    try:
        index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        raise SpecificationError(
            f"{factory}: {reason(error)}", "Use another specification."
        ) from error
    return retrieval.FaissIndex(index)


def empty_index(factory: str, d: int) -> Any:
    """Make an untrained index of FAISS for inner products of d dimensions.

    Raises:
        SpecificationError: FAISS does not know the string, or it does not fit the dimensions.
    """
    # A random rotation of FAISS reserves the projection's place in the chain and in the file.
    written = PROJECTED.sub(r"RR\2,", factory, count=1) if PROJECTED.match(factory) else factory
    try:
        return faiss.index_factory(d, written, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise SpecificationError(
            f"FAISS does not make an index {factory!r} for {d} dimensions: {reason(error)}",
            "See its guidelines on the index factory.",
        ) from error


def build_other(factory: str, vectors: np.ndarray) -> Index:
    """Build an index of another library than FAISS, with FAISS's number of threads.

    Raises:
        SpecificationError: An option is unknown, or the specification does not fit the vectors.
        LibraryError: The library is not installed.
    """
    given = options(factory, len(vectors))
    parts = next(iter(given.values()))
    if parts > len(vectors):
        raise SpecificationError(
            f"{factory} has {parts} parts for {len(vectors)} vectors", "Use fewer of them."
        )
    name = retrieval.library(factory)
    try:
        return BUILDERS[name](retrieval.load_library(name), vectors, given)
    except SpecificationError as error:
        raise SpecificationError(f"{factory}: {error.message}", error.remedy) from error
    except RuntimeError as error:
        raise SpecificationError(f"{factory}: {error}", "Use another specification.") from error


def build_scann(module: Any, vectors: np.ndarray, given: dict[str, int]) -> Index:
    """Build a tree of ScaNN with the options of `specs.Scann`."""
    builder = module.builder(vectors, 1, "dot_product")
    builder.set_n_training_threads(faiss.omp_get_max_threads())
    sample = min(len(vectors), SCANN_SAMPLE)
    builder.tree(given["leaves"], 1, training_sample_size=sample, spherical=True)
    builder.score_ah(
        given["block"],
        anisotropic_quantization_threshold=SCANN_THRESHOLD,
        training_sample_size=sample,
    )
    kind = {32: "FLOAT32", 16: "BFLOAT16", 8: "INT8"}[given["vectors"]]
    builder.reorder(1, getattr(module.scann_builder.ReorderType, kind))
    return retrieval.ScannIndex(builder.build())


def build_lorann(module: Any, vectors: np.ndarray, given: dict[str, int]) -> Index:
    """Build an index of LoRANN with the options of `specs.Lorann`.

    It refers to the vectors until it is saved. Searches of the loaded index are faster, since its
    vectors are then aligned.
    """
    n, d = vectors.shape
    if d < max(LORANN_LEAST, given["dims"]) or given["dims"] % 32 or given["rank"] >= d:
        raise SpecificationError(
            f"does not fit {d} dimensions",
            f"Use {LORANN_LEAST} dimensions or more, dims a multiple of 32 and less rank.",
        )
    kind, is_half = retrieval.LORANN_BITS[given["vectors"]], given["vectors"] == 16
    if not hasattr(module, kind):
        raise SpecificationError(
            "this build of LoRANN has no vectors of 16 bits", "Use vectors=32."
        )
    stored = retrieval.bfloat16(vectors) if is_half else np.ascontiguousarray(vectors)
    numbers = (given[name] for name in ("bits", "clusters", "dims", "rank"))
    index = getattr(module, kind)(stored, n, d, *numbers, LORANN_NEAREST, module.IP, 0, 0)
    index.build(1, 0, faiss.omp_get_max_threads())
    return retrieval.LorannIndex(index)


BUILDERS = {"scann": build_scann, "lorann": build_lorann}


def check_vectors(vectors: np.ndarray) -> None:
    """Check that vectors are float32 (n, d), finite and of unit norm.

    Raises:
        VectorsError: They are not.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors):
        raise VectorsError(
            f"expected float32 (n, d), got {vectors.dtype} {vectors.shape}", "Convert them first."
        )
    norms = np.linalg.norm(vectors, axis=1)
    worst = int(np.abs(norms - 1).argmax())  # a NaN where there is one
    if not abs(norms[worst] - 1) <= NORM_TOLERANCE:
        raise VectorsError(
            f"vector {worst} has norm {norms[worst]:.4g}, not 1",
            "Divide every vector by its norm: graph indexes lose most of their recall otherwise.",
        )


def users_projection(
    factory: str, vectors: np.ndarray, users: np.ndarray | None, seed: int = 0
) -> np.ndarray:
    """Fit the directions that hold most of the squared length of users' vectors, rotated at random.

    `Items` in the specification takes the items in place of the users.

    The vectors are not centred, since an inner product is not either. The rotation makes the
    directions alike, because each part of a product quantizer has equally many bits. Directions
    without users come in the order of the items' length.

    Args:
        factory: Specification that begins with `Users128,` or `Items128,`: at most d directions.
        vectors: float32 (n, d), the items.
        users: float32 (q, d), unit norm.
        seed: Random seed of the rotation.

    Returns:
        Orthonormal rows, float32 (directions, d).

    Raises:
        SpecificationError: There are no users' vectors, or more directions than d.
        VectorsError: The users' vectors are not finite or not of unit norm.
    """
    [(kind, written)] = PROJECTED.findall(factory)
    users, count = (users if kind == "Users" else vectors), int(written)
    if count > vectors.shape[1]:
        raise SpecificationError(
            f"a projection keeps {count} directions of {vectors.shape[1]}",
            f"Use 1 to {vectors.shape[1]}.",
        )
    if users is None or not len(users):
        raise SpecificationError(
            "a projection to the users' directions is fitted on users' vectors, and there are none",
            "Set users apart (training_users above 0), or use a specification without Users.",
        )
    check_vectors(users)
    moments = sum(
        weight * (own.T @ own).astype(np.float64) / len(own)
        for weight, own in ((1, users), (ITEMS_WEIGHT, vectors))
    )
    _, axes = np.linalg.eigh(moments)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((count, count)))
    return np.ascontiguousarray(rotation @ axes[:, ::-1][:, :count].T, np.float32)


def check_neighbours(k: int, n: int) -> None:
    """Check that k neighbours can be found among n vectors.

    Raises:
        SpecificationError: k is above n, or below 1.
    """
    if not 1 <= k <= n:
        raise SpecificationError(
            f"{k} neighbours asked for among {n} vectors", f"Use k from 1 to {n}."
        )


def project_by(transform: faiss.LinearTransform, matrix: np.ndarray) -> None:
    """Make a transform project to orthonormal rows, float32 (directions, d)."""
    faiss.copy_array_to_vector(matrix.ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
