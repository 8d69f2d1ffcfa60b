"""Recommender vectors with real user queries in the file layout of ann-benchmarks, for other systems to run on."""

from pathlib import Path

import numpy as np

from nanorecsys.ann.errors import AnnError
from nanorecsys.ann.exact import exact_neighbours
from nanorecsys.ann.indexes import check_vectors
from nanorecsys.system.files import atomic_path

DISTANCE = "angular"  # the layout has no inner product; on unit vectors the order of neighbours is the same


def export_hdf5(path: Path, vectors: np.ndarray, queries: np.ndarray, k: int = 100) -> None:
    """Write what github.com/erikbern/ann-benchmarks reads.

    Datasets `train` float32 (n, d), `test` float32 (q, d), `neighbors` int32 (q, k) and `distances`
    float32 (q, k), nearest first; attributes `distance` ("angular": one minus the cosine),
    `dimension`, `type` and `point_type`.

    Args:
        path: of the file; whole or not there.
        vectors: float32 (n, d), unit norm.
        queries: float32 (q, d), unit norm.
        k: neighbours of each query.

    Raises:
        VectorsError: vectors or queries that are not finite and of unit norm.
        NeighboursError: k is above n.
        AnnError: queries of other dimensions than the vectors.
    """
    import h5py  # needed for this alone

    check_vectors(vectors)
    check_vectors(queries)
    if queries.shape[1] != vectors.shape[1]:
        raise AnnError(
            f"queries have {queries.shape[1]} dimensions, vectors {vectors.shape[1]}",
            "Take both from the same run.",
        )
    exact = exact_neighbours(vectors, queries, k)
    with atomic_path(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(
            distance=DISTANCE, dimension=vectors.shape[1], type="dense", point_type="float"
        )
        file["train"], file["test"] = vectors, queries
        file["neighbors"] = exact.items
        file["distances"] = np.maximum(1 - exact.scores, 0)
