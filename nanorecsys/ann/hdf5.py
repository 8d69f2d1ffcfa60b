"""Export of item vectors and user queries in the file layout of ann-benchmarks."""

from pathlib import Path

import numpy as np

from nanorecsys.ann.errors import AnnError
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.indexes import check_vectors
from nanorecsys.system.files import atomic_path

# The layout has no inner product. On unit vectors the order of neighbours is the same.
DISTANCE = "angular"


def export_hdf5(path: Path, vectors: np.ndarray, queries: np.ndarray, k: int = 100) -> None:
    """Write a file that github.com/erikbern/ann-benchmarks reads.

    Datasets `train` float32 (n, d), `test` float32 (q, d), `neighbors` int32 (q, k) and `distances`
    float32 (q, k), nearest first; attributes `distance` ("angular": one minus the cosine),
    `dimension`, `type` and `point_type`.

    Args:
        path: File to write; it is whole or not there.
        vectors: float32 (n, d), unit norm.
        queries: float32 (q, d), unit norm.
        k: Neighbours per query.

    Raises:
        VectorsError: Vectors or queries are not finite and of unit norm.
        NeighboursError: k is above n.
        AnnError: Queries and vectors have different dimensions.
    """
    import h5py  # optional: needed here only

    check_vectors(vectors)
    check_vectors(queries)
    if queries.shape[1] != vectors.shape[1]:
        raise AnnError(
            f"queries have {queries.shape[1]} dimensions, vectors {vectors.shape[1]}",
            "Use both from the same run.",
        )
    exact = exact_neighbours(vectors, queries, k)
    with atomic_path(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(
            distance=DISTANCE, dimension=vectors.shape[1], type="dense", point_type="float"
        )
        file["train"], file["test"] = vectors, queries
        file["neighbors"] = exact.items
        file["distances"] = np.maximum(1 - exact.scores, 0)
