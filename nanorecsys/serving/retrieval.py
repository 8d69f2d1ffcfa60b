"""Indexes that can be served, behind one small protocol. Scores are inner products.

::

    index = load_index(path)
    index.set("nprobe=16")
    scores, items = index.search(queries, 100)

FAISS is always there. ScaNN has wheels for Linux on x86-64, and pip compiles LoRANN: both are
imported when one of their indexes is built or loaded. Several threads can search an index at once,
and all three libraries release the interpreter's lock during a search. A batch is searched by
FAISS's number of threads.
"""

import importlib
import re
import tarfile
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nanorecsys.serving.errors import LibraryError, SettingError
from nanorecsys.system.blas import faiss

# Module to import and the command that installs it, by library.
LIBRARIES = {
    "faiss": ("faiss", "pip install faiss-cpu"),
    "scann": ("scann.scann_ops.py.scann_ops_pybind", "pip install scann"),
    "lorann": ("lorannlib", "pip install -e '.[lorann]'"),
    "milvus": ("pymilvus", "pip install -e '.[milvus]'"),
}
LORANN_BITS = {32: "FP32LorannIndex", 16: "BF16LorannIndex"}
ROUNDED = 65_536  # rows that are rounded to 16 bits at once
SCANN_FOLDER = "scann"  # ScaNN saves a folder, which becomes one tar file
SCANN_BATCH = 32  # queries that a thread takes at once


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
                    "See nanorecsys.ann.specs.grid.",
                ) from error

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        return self.index.search(queries, k)

    def save(self, path: Path) -> None:
        """See `Index`."""
        faiss.write_index(self.index, str(path))


class _Partitioned:
    """An index of parts, of which some are searched. A subclass names its parts in `PARTS`.

    Its settings are the number of parts searched, and `rerank`, the candidates compared exactly,
    which are at least two for each neighbour asked for.
    """

    PARTS: str
    _most: int

    def set(self, search: str) -> None:
        """See `Index`."""
        if search:
            found = parse_setting(search, (self.PARTS, "rerank"))
            self._searched, self._rerank = min(found[self.PARTS], self._most), found["rerank"]


class LorannIndex(_Partitioned):
    """An index of LoRANN, whose parts are clusters."""

    PARTS = "clusters"

    def __init__(self, index: Any) -> None:
        self.index = index
        self._half = type(index).__name__ == LORANN_BITS[16]
        self.shape = index.get_n_samples(), index.get_dim()
        self._most = index.get_n_clusters()
        self.set(f"clusters={max(1, self._most // 4)},rerank=400")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        queries = _checked(queries, self.shape)
        given = bfloat16(queries) if self._half else queries
        rerank = max(self._rerank, 2 * k)
        if len(given) == 1:  # not handed to other threads
            items, distances = self.index.search(given[0], k, self._searched, rerank, 1, 1)
            items, distances = items[None], distances[None]
        else:
            items, distances = self.index.search(given, k, self._searched, rerank, 1, -1)
        items, scores = items.astype(np.int64), (-distances).astype(np.float32)
        # LoRANN does not sort an answer of all candidates, as a small cluster may give.
        if (scores[:, 1:] > scores[:, :-1]).any():
            order = np.argsort(-scores, axis=1, kind="stable")
            items, scores = (np.take_along_axis(part, order, axis=1) for part in (items, scores))
        return scores, items

    def save(self, path: Path) -> None:
        """See `Index`."""
        self.index.save(str(path))


class ScannIndex(_Partitioned):
    """An index of ScaNN, whose parts are the leaves of a tree."""

    PARTS = "leaves"

    def __init__(self, index: Any) -> None:
        self.index = index
        config = index.config()
        self._most = int(config.partition("num_children: ")[2].split()[0])
        self.shape = index.size(), int(config.partition("input_dim: ")[2].split()[0])
        self.set(f"leaves={max(1, self._most // 5)},rerank=400")

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        queries = _checked(queries, self.shape)
        searcher, given = self.index.searcher, (k, max(self._rerank, 2 * k), self._searched)
        if len(queries) == 1:
            items, scores = (found[None] for found in searcher.search(queries[0], *given))
        else:
            parallel = faiss.omp_get_max_threads() > 1
            items, scores = searcher.search_batched(queries, *given, parallel, SCANN_BATCH)
        items = items.astype(np.int64)
        if (missing := k - items.shape[1]) or len(queries) > 1:
            items, scores = (np.pad(part, ((0, 0), (0, missing))) for part in (items, scores))
            absent = np.isnan(scores) | (np.arange(k) >= k - missing)
            items[absent], scores[absent] = -1, -np.inf
        return scores, items

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


def parse_setting(search: str, names: Collection[str] = ()) -> dict[str, int]:
    """Split a search setting into names and values.

    >>> parse_setting("nprobe=16,k_factor_rf=4")
    {'nprobe': 16, 'k_factor_rf': 4}

    Raises:
        SettingError: The text is not a comma-separated list of `name=number`, or not one of these
            names with numbers from 1.
    """
    parts = re.findall(r"(\w+)=(\d+)", search)
    found = {name: int(value) for name, value in parts}
    if ",".join(f"{name}={value}" for name, value in parts) != search or (
        names and (set(found) != set(names) or not all(found.values()))
    ):
        example = ",".join(f"{name}=32" for name in names) or "nprobe=16,k_factor_rf=4"
        raise SettingError(f"{search!r} is not a search setting", f"Write it like {example}.")
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


def reason(error: RuntimeError) -> str:
    """Return FAISS's message without the place in its source code."""
    text = str(error).partition(" at /")[2] or str(error)
    return text.partition(": ")[2].removeprefix("Error: ") or text
