"""Indexes that can be served, behind one small protocol. Scores are inner products.

index = load_index(path)
index.set("nprobe=16")
scores, items = index.search(queries, 100)

FAISS is always there. ScaNN has wheels for Linux on x86-64, and pip compiles LoRANN: both are
imported when one of their indexes is built or loaded. Every index can be searched by several
threads at once, and all three libraries release the interpreter's lock during a search. Batches are
searched by as many threads as FAISS is told to use.
"""

import importlib
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nanorecsys.serving.errors import LibraryError, SettingError
from nanorecsys.system.blas import faiss

# Module to import and the command that installs it, by library.
LIBRARIES = {
    "faiss": ("faiss", "pip install faiss-cpu"),
    "scann": ("scann.scann_ops.py.scann_ops_pybind", "pip install scann"),
    "lorann": ("lorannlib", "pip install 'nanorecsys[lorann]'"),
}
LORANN_BITS = {32: "FP32LorannIndex", 16: "BF16LorannIndex"}
ROUNDED = 65_536  # rows that are rounded to 16 bits at once
SCANN_FOLDER = "scann"  # ScaNN saves a folder, which becomes one tar file


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

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors and of dimensions."""

    def set(self, search: str) -> None:
        """Apply a search setting such as `nprobe=16`; "" changes nothing."""

    def save(self, path: Path) -> None:
        """Write the index."""


class FaissIndex:
    """An index of `faiss.index_factory`."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self._search = index.search

    @property
    def shape(self) -> tuple[int, int]:
        """See `Index`."""
        return self.index.ntotal, self.index.d

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


class LorannIndex:
    """An index of LoRANN.

    Its settings are `clusters`, the clusters searched, and `rerank`, the candidates compared
    exactly, which are at least two for each neighbour asked for.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self._search = index.search
        self._half = type(index).__name__ == LORANN_BITS[16]
        self.shape = index.get_n_samples(), index.get_dim()
        self._most = index.get_n_clusters()
        self.set(f"clusters={max(1, self._most // 4)},rerank=400")

    def set(self, search: str) -> None:
        """See `Index`."""
        if search:
            found = named(search, ("clusters", "rerank"))
            self._clusters = min(found["clusters"], self._most)
            self._rerank = found["rerank"]
            self._expected = self._clusters * self.shape[0] / self._most

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        queries = _checked(queries, self.shape)
        given = bfloat16(queries) if self._half else queries
        if len(given) == 1:  # one vector is not handed to other threads
            given = given[0]
        rerank = max(self._rerank, 2 * k)
        items, distances = self._search(given, k, self._clusters, rerank, 1, -1)
        items, scores = items.astype(np.int64), (-distances).astype(np.float32)
        # LoRANN sorts no answer that takes all candidates.
        if self._expected < 8 * k or (items[..., -1] < 0).any():
            order = np.argsort(-scores, axis=-1, kind="stable")
            scores = np.take_along_axis(scores, order, axis=-1)
            items = np.take_along_axis(items, order, axis=-1)
        return (scores, items) if items.ndim == 2 else (scores[None], items[None])

    def save(self, path: Path) -> None:
        """See `Index`."""
        self.index.save(str(path))


class ScannIndex:
    """An index of ScaNN.

    Its settings are `leaves`, the leaves of the tree that are searched, and `rerank`, the
    candidates compared exactly, which are at least two for each neighbour asked for.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self._search, self._batch = index.searcher.search, index.searcher.search_batched
        config = index.config()
        self._most = int(config.partition("num_children: ")[2].split()[0])
        self.shape = index.size(), int(config.partition("input_dim: ")[2].split()[0])
        self._threads = 1
        self.set(f"leaves={max(1, self._most // 5)},rerank=400")

    def set(self, search: str) -> None:
        """See `Index`."""
        if search:
            found = named(search, ("leaves", "rerank"))
            self._leaves, self._rerank = min(found["leaves"], self._most), found["rerank"]

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        queries = _checked(queries, self.shape)
        rerank = max(self._rerank, 2 * k)
        if len(queries) == 1:
            items, scores = self._search(queries[0], k, rerank, self._leaves)
            if (missing := k - len(items)) > 0:
                scores = np.pad(scores, (0, missing), constant_values=-np.inf)
                items = np.pad(items.astype(np.int64), (0, missing), constant_values=-1)
            return scores[None], items.astype(np.int64)[None]
        if (threads := faiss.omp_get_max_threads()) != self._threads:
            self.index.set_num_threads(threads)
            self._threads = threads
        items, scores = self._batch(queries, k, rerank, self._leaves, threads > 1, 32)
        absent = np.isnan(scores)
        return np.where(absent, -np.inf, scores), np.where(absent, -1, items.astype(np.int64))

    def save(self, path: Path) -> None:
        """See `Index`."""
        with (
            tempfile.TemporaryDirectory() as folder,
            tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file,
        ):
            self.index.serialize(folder, relative_path=True)
            file.add(folder, SCANN_FOLDER)


def load_index(path: Path) -> Index:
    """Read an index that `save` wrote; the file's first bytes tell the library.

    Raises:
        LibraryError: The library of the index is not installed.
    """
    with path.open("rb") as file:
        head = file.read(len(SCANN_FOLDER))
    if head == SCANN_FOLDER.encode():
        scann = load_library("scann")
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(path) as file:
                file.extractall(folder, filter="data")
            return ScannIndex(scann.load_searcher(f"{folder}/{SCANN_FOLDER}"))
    if head[:1].isdigit():
        return LorannIndex(load_library("lorann").load_index(str(path)))
    return FaissIndex(faiss.read_index(str(path)))


def library(factory: str) -> str:
    """Name of the library of a specification.

    >>> library("scann:leaves=128"), library("IVF64,SQ8")
    ('scann', 'faiss')
    """
    name, found, _ = factory.partition(":")
    return name if found else "faiss"


def load_library(name: str) -> Any:
    """Import a library of indexes.

    Raises:
        LibraryError: It is not installed.
    """
    module, command = LIBRARIES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LibraryError(f"the library {name} is not installed here", command) from error


def parse_setting(search: str) -> dict[str, int]:
    """Split a search setting into names and values.

    >>> parse_setting("nprobe=16,k_factor_rf=4")
    {'nprobe': 16, 'k_factor_rf': 4}

    Raises:
        SettingError: The text is not a comma-separated list of `name=number`.
    """
    found = re.findall(r"(\w+)=(\d+)", search)
    if ",".join(f"{name}={value}" for name, value in found) != search:
        raise SettingError(
            f"{search!r} is not a search setting", "Write it like nprobe=16,k_factor_rf=4."
        )
    return {name: int(value) for name, value in found}


def named(search: str, names: tuple[str, ...]) -> dict[str, int]:
    """Split a search setting that has these names, with values from 1.

    Raises:
        SettingError: It has others.
    """
    found = parse_setting(search)
    if set(found) != set(names) or not all(found.values()):
        raise SettingError(
            f"the setting {search!r} does not fit",
            f"Write it like {','.join(f'{name}=32' for name in names)}.",
        )
    return found


def bfloat16(array: np.ndarray) -> np.ndarray:
    """Round float32 to the upper 16 bits, uint16."""
    found = np.empty(array.shape, np.uint16)
    for start in range(0, len(array), ROUNDED):  # a large array is not copied several times
        bits = array[start : start + ROUNDED].view(np.uint32)
        found[start : start + ROUNDED] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return found


def _checked(queries: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return queries as contiguous float32; the libraries read beyond vectors that are too short.

    Raises:
        ValueError: They have other dimensions than the index.
    """
    if queries.ndim != 2 or queries.shape[1] != shape[1]:
        raise ValueError(f"expected queries (q, {shape[1]}), found {queries.shape}")
    return np.ascontiguousarray(queries, np.float32)


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
