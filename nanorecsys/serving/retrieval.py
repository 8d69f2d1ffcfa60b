"""Indexes that can be served, behind one small protocol. Scores are inner products.

index = load_index(path)
index.set("nprobe=16")
scores, items = index.search(queries, 100)
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nanorecsys.serving.errors import SettingError
from nanorecsys.system.blas import faiss


class Retriever(Protocol):
    """What a server needs of an index, in this process or elsewhere."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 (q, k), falling, and items int64 (q, k), -1 beyond the last one.

        Args:
            queries: float32 (q, d), unit norm.
            k: Number of items per query.
        """


class Index(Retriever, Protocol):
    """An index that can be set and saved; `index` is the library's own object."""

    index: Any

    def set(self, search: str) -> None:
        """Apply a search setting such as `nprobe=16`; "" changes nothing."""

    def save(self, path: Path) -> None:
        """Write the index."""


class FaissIndex:
    """An index of `faiss.index_factory`."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self._search = index.search

    def set(self, search: str) -> None:
        """See `Index`.

        Raises:
            SettingError: The index does not have this setting.
        """
        if search:
            try:
                parameters: Any = faiss.ParameterSpace()
                parameters.set_index_parameters(self.index, search)
            except RuntimeError as error:
                raise SettingError(
                    f"the setting {search!r} does not fit: {reason(error)}",
                    "See nanorecsys.ann.specs.GRIDS.",
                ) from error

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        return self._search(queries, k)

    def save(self, path: Path) -> None:
        """See `Index`."""
        faiss.write_index(self.index, str(path))


def load_index(path: Path) -> FaissIndex:
    """Read an index that `save` wrote."""
    return FaissIndex(faiss.read_index(str(path)))


def innermost(index: faiss.Index) -> Any:
    """Return the index within refinement and transforms, as its own class."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return innermost(index.base_index)
    return innermost(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def transforms(index: faiss.Index) -> list[Any]:
    """Return the transforms that a vector passes before it is searched, in order."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return transforms(index.base_index)
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    chain: Any = index.chain
    own = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
    return own + transforms(index.index)


def reason(error: RuntimeError) -> str:
    """Return FAISS's message without the place in its source code."""
    text = str(error).partition(" at /")[2] or str(error)
    return text.partition(": ")[2].removeprefix("Error: ") or text
