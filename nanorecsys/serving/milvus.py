"""Item vectors in Milvus (https://milvus.io), searched as an index of this process is.

::

    with Milvus("http://127.0.0.1:19530", timeout_s=60) as milvus:
        load_vectors(milvus, "films", vectors, "IVF_SQ8:nlist=128", "nprobe=32")
        scores, items = MilvusIndex(milvus, "films", vectors.shape).search(queries, 100)

A collection has the item number as its primary key, `item`, and is compared by inner product. Its
description names the index and the search setting, so a searcher needs only the collection's name.
The collection of a bundle is named by the bundle's id.
"""

import logging
import math
import queue
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from nanorecsys.serving.bundle import Manifest
from nanorecsys.serving.errors import CollectionError, RetrievalError
from nanorecsys.serving.retrieval import load_library, parse_setting

log = logging.getLogger("nanorecsys.serving")

PAUSE_S = 1.0  # pause after a failure, in which calls fail at once
CONNECT_S = 5.0  # longest time of a connection, where a call may take longer
OPEN_S = 5.0  # longest time of a call that describes or counts
MOST = 16_384  # neighbours that Milvus returns at most
AT_LEAST_K = {"ef", "reorder_k"}  # Milvus refuses these below the number of neighbours
BATCH = 4096  # rows that are inserted together
POLL_S = 0.2  # pause between looks at the progress of a build
CHOSEN_AT = 100  # neighbours for which chapter 04 chooses settings
SEGMENT_ROWS = 131_072  # vectors of 256 dimensions in a segment, as insertion makes them
EXAMPLE = "Write it like http://127.0.0.1:19530."
REPLACE = "Load it with --replace, which drops the collection first."


class Milvus:
    """A few connections to a Milvus. Any number of threads may call it; each takes a connection.

    Args:
        uri: `http://[USER:PASSWORD@]HOST:PORT[/DATABASE]`; https for TLS.
        timeout_s: Longest time of one try, in seconds.
        retries: Number of further tries of a call that fails, each on a new connection.
        pool: Largest number of connections, which are opened as they are needed.

    Raises:
        RetrievalError: The address is not of this form.
    """

    def __init__(self, uri: str, timeout_s: float = 0.25, retries: int = 1, pool: int = 4) -> None:
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RetrievalError("the address of a Milvus is not http[s]://HOST:PORT", EXAMPLE)
        self._uri, self._timeout_s, self._retries = uri, timeout_s, retries
        self.address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        # The latest connection is used first, so the others stay closed under a low load.
        self._connections: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(pool):
            self._connections.put(None)

    def __enter__(self) -> "Milvus":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that no call uses."""
        while not self._connections.empty():
            if connection := self._connections.get():
                connection.close()

    def call(
        self,
        method: str,
        *arguments: Any,
        timeout_s: float | None = None,
        retries: int | None = None,
        **options: Any,
    ) -> Any:
        """Call a method of `pymilvus.MilvusClient`.

        Args:
            method: Name of the method.
            arguments: Its arguments.
            timeout_s: Longest time of one try, in place of the usual one.
            retries: Number of further tries, in place of the usual one.
            options: Its arguments by name.

        Raises:
            RetrievalError: Milvus does not answer in time, or answers with an error.
            LibraryError: pymilvus is not installed.
        """
        options["timeout"] = self._timeout_s if timeout_s is None else timeout_s
        errors = _errors()
        for left in reversed(range(1 + (self._retries if retries is None else retries))):
            try:
                return self._try(method, *arguments, **options)
            except errors as error:
                if not left:
                    raise RetrievalError(
                        f"Milvus at {self.address} fails: {_reason(error)}"
                    ) from error

    def _try(self, method: str, *arguments: Any, **options: Any) -> Any:
        connection = self._connections.get()
        try:
            if connection is None:
                connection = self._connect()
            return getattr(connection, method)(*arguments, **options)
        except BaseException:
            if connection is not None:
                connection.close()
            connection = None
            raise
        finally:
            self._connections.put(connection)

    def _connect(self) -> Any:
        pymilvus = load_library("milvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback per failure
        # pymilvus would share one connection, and its failures, among all clients
        timeout_s = min(self._timeout_s, CONNECT_S)
        return pymilvus.MilvusClient(self._uri, dedicated=True, timeout=timeout_s)


class MilvusIndex:
    """A collection that is searched as an index is, see `Retriever`. Its first search checks it.

    After a failure searches fail at once for `PAUSE_S`, with the same reason; then one try decides.
    So a Milvus that hangs holds the threads that search only for a part of the time. The log has a
    line for the first failure, and one for the recovery.

    Args:
        milvus: Connections.
        name: Name of the collection.
        shape: Number of vectors, and of dimensions.
        remedy: Command that loads the collection, for errors.
    """

    def __init__(self, milvus: Milvus, name: str, shape: tuple[int, int], remedy: str = "") -> None:
        self.shape = shape
        self._milvus, self._name, self._remedy = milvus, name, remedy
        self._setting: dict[str, int] | None = None
        self._failure: RetrievalError | None = None
        self._try_at = -math.inf

    def set(self, search: str) -> None:
        """Search with another setting than the collection's, which is then not checked.

        Raises:
            SettingError: The setting is not written like nprobe=32.
        """
        self._setting = parse_setting(search)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Retriever`. At most `MOST` neighbours are found.

        Raises:
            RetrievalError: Milvus does not answer in time, or answers with an error.
            CollectionError: There is no such collection, or not with all vectors.
        """
        failure = self._failure
        if failure and time.monotonic() < self._try_at:
            raise type(failure)(failure.message, failure.remedy)
        try:
            found = self._search(queries, min(k, self.shape[0], MOST))
        except RetrievalError as error:
            if not self._failure:
                log.warning("%s", error)
            self._failure, self._try_at = error, time.monotonic() + PAUSE_S
            raise
        if self._failure:
            self._failure = None
            log.info("Milvus at %s works again", self._milvus.address)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        items = np.full((len(queries), k), -1, np.int64)
        for row, hits in enumerate(found):
            scores[row, : len(hits)], items[row, : len(hits)] = hits.distances, hits.ids
        return scores, items

    def _search(self, queries: np.ndarray, k: int) -> Any:
        retries = 0 if self._failure else None
        if self._setting is None:
            self._setting = self._open(retries)
        params = {
            name: max(value, k) if name in AT_LEAST_K else value
            for name, value in self._setting.items()
        }
        return self._milvus.call(
            "search",
            self._name,
            data=queries,
            limit=k,
            search_params={"params": params},
            retries=retries,
        )

    def _open(self, retries: int | None) -> dict[str, int]:
        """Check that the collection is whole, and read its search setting."""
        what = f"expected {self.shape} vectors in the collection {self._name} of Milvus at "
        what += f"{self._milvus.address}, found "
        options: dict[str, Any] = {"timeout_s": OPEN_S, "retries": retries}
        if not self._milvus.call("has_collection", self._name, **options):
            raise CollectionError(f"{what}no such collection", self._remedy)
        d, description = describe(self._milvus, self._name, **options)
        found = count(self._milvus, self._name, **options), d
        if found != self.shape:
            raise CollectionError(f"{what}{found}", self._remedy)
        return parse_setting(description.partition(" ")[2])


@dataclass(frozen=True)
class Loaded:
    """What a load did: rows that it inserted, and its seconds."""

    inserted: int
    insert_s: float
    build_s: float


def load_vectors(
    milvus: Milvus,
    name: str,
    vectors: np.ndarray,
    index: str,
    search: str = "",
    progress: Callable[[int], None] = lambda rows: None,
) -> Loaded:
    """Load vectors into a collection, build its index, and count its rows.

    A load that was interrupted is resumed: rows that are there stay.

    Args:
        milvus: Connections, with a time limit that a batch and a flush need, such as 60 s.
        name: Name of the collection.
        vectors: float32 (n, d).
        index: Type of index with its parameters, such as IVF_SQ8:nlist=128.
        search: Search setting, such as nprobe=32.
        progress: Called after each batch with its number of rows.

    Raises:
        SettingError: The index or the search setting is not written like these.
        RetrievalError: Milvus does not answer in time, or refuses the index.
        CollectionError: The collection holds other vectors or another index, or in the end not as
            many rows.
    """
    start = time.perf_counter()
    is_new = _prepare(milvus, name, vectors.shape[1], index, search)
    if not is_new:
        milvus.call("load_collection", name)
    inserted = 0
    for first in range(0, len(vectors), BATCH):
        batch = vectors[first : first + BATCH]
        if is_new or not _is_present(milvus, name, first, len(batch)):
            rows = [{"item": item, "vector": vector} for item, vector in enumerate(batch, first)]
            milvus.call("insert", name, rows)
            inserted += len(batch)
        progress(len(batch))
    inserted_at = time.perf_counter()
    if _rows_and_pending(milvus, name) != (len(vectors), 0):
        milvus.call("flush", name)
        while _rows_and_pending(milvus, name)[1]:
            time.sleep(POLL_S)
        # Milvus searches the rows as they came until it loads the finished index.
        milvus.call("release_collection", name)
        milvus.call("load_collection", name)
    if (found := _count_now(milvus, name)) != len(vectors):
        raise CollectionError(
            f"expected {len(vectors)} rows in the collection {name}, found {found}",
            "The same command again corrects them; with --replace it loads all of them anew.",
        )
    return Loaded(inserted, inserted_at - start, time.perf_counter() - inserted_at)


def describe(milvus: Milvus, name: str, **options: Any) -> tuple[int, str]:
    """Dimensions of a collection, and its description: index and search setting."""
    found = milvus.call("describe_collection", name, **options)
    dims = [field["params"].get("dim", 0) for field in found["fields"]]
    return max(dims), found["description"]


def count(milvus: Milvus, name: str, condition: str = "", **options: Any) -> int:
    """Number of rows of a collection, of those that meet a condition."""
    [row] = milvus.call("query", name, condition, output_fields=["count(*)"], **options)
    return row["count(*)"]


def _count_now(milvus: Milvus, name: str, condition: str = "") -> int:
    """Number of rows, with those that were inserted just now."""
    return count(milvus, name, condition, consistency_level="Strong")


def _prepare(milvus: Milvus, name: str, d: int, index: str, search: str) -> bool:
    """Create a collection and its index where they are missing; whether the former was."""
    described = f"{index} {search}".strip()
    kind, _, options = index.partition(":")
    params = parse_setting(options)
    parse_setting(search)
    pymilvus = load_library("milvus")
    types, client = pymilvus.DataType, pymilvus.MilvusClient
    is_new = not milvus.call("has_collection", name)
    if is_new:
        schema = client.create_schema(auto_id=False, description=described)
        schema.add_field("item", types.INT64, is_primary=True)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=d)
        # Rows never change, so a search has nothing to wait for.
        milvus.call(
            "create_collection", name, schema=schema, num_shards=1, consistency_level="Eventually"
        )
    elif (found := describe(milvus, name)) != (d, described):
        expected = f"expected {d} dimensions and the index {described!r} in the collection {name}"
        raise CollectionError(f"{expected}, found {found[0]} and {found[1]!r}", REPLACE)
    if not milvus.call("list_indexes", name):
        built = {"index_type": kind, "metric_type": "IP", "params": params}
        try:
            milvus.call("create_index", name, client.prepare_index_params("vector", **built))
        except RetrievalError:  # the next load may name another index
            milvus.call("drop_collection", name)
            raise
    return is_new


def _is_present(milvus: Milvus, name: str, first: int, number: int) -> bool:
    """Whether all rows of a batch are there; if some are, or some twice, they are deleted.

    Milvus accepts a second row of an item.
    """
    batch = f"item >= {first} and item < {first + number}"
    present = _count_now(milvus, name, batch)
    if 0 < present != number:
        milvus.call("delete", name, filter=batch)
    return present == number


def _rows_and_pending(milvus: Milvus, name: str) -> tuple[int, int]:
    """Number of rows on Milvus's disk, and of those that the index does not cover yet."""
    found = milvus.call("describe_index", name, "vector")
    if found["state"] == "Failed":
        raise RetrievalError(f"Milvus at {milvus.address} cannot build the index of {name}")
    return int(found["total_rows"]), int(found["pending_index_rows"])


def collection(manifest: Manifest) -> str:
    """Name of a bundle's collection."""
    return f"nanorecsys_{manifest.id}"


def bundle_index(milvus: Milvus, path: Path, manifest: Manifest) -> MilvusIndex:
    """The collection of a bundle, as an index."""
    command = f"nanorecsys serving load-milvus {path} --uri {milvus.address}"
    return MilvusIndex(milvus, collection(manifest), (manifest.n_items, manifest.d), command)


def milvus_choice(factory: str, search: str, n: int) -> tuple[str, str]:
    """Milvus's index and search setting that are nearest to those of a bundle with n items.

    Milvus indexes each segment of a collection by itself. A segment of m vectors gets at most
    4 m^.5 lists, as Milvus's documentation advises, and the same share of them is searched.

    >>> milvus_choice("IVF256,SQ8", "nprobe=16", 27_278)
    ('IVF_SQ8:nlist=256', 'nprobe=16')
    >>> milvus_choice("lorann:clusters=128,dims=96", "clusters=32,rerank=350", 27_278)
    ('SCANN:nlist=128', 'nprobe=32,reorder_k=350')
    >>> milvus_choice("IVF128,PQ128x4fs,Refine(SQfp16)", "nprobe=23,k_factor_rf=4", 27_278)
    ('SCANN:nlist=128', 'nprobe=23,reorder_k=400')
    >>> milvus_choice("scann:leaves=8192", "leaves=100,rerank=200", 1_000_000)
    ('SCANN:nlist=1448', 'nprobe=18,reorder_k=200')
    >>> milvus_choice("HNSW32", "efSearch=128", 27_278), milvus_choice("Flat", "", 27_278)
    (('HNSW:M=32,efConstruction=200', 'ef=128'), ('FLAT', ''))
    """
    setting = parse_setting(search)
    if found := re.match(r"HNSW(\d+)", factory):
        return f"HNSW:M={found[1]},efConstruction=200", f"ef={setting.get('efSearch', 128)}"
    found = re.search(r"IVF(\d+)|(?:leaves|clusters)=(\d+)", factory)
    if not found and ":" not in factory:
        return "FLAT", ""
    # another library has about as many parts as the root of n where it is not told
    lists = int(found[1] or found[2]) if found else 2 ** round(math.log2(n) / 2)
    parts = [setting[part] for part in ("nprobe", "leaves", "clusters") if part in setting]
    probes = parts[0] if parts else max(1, lists // 4)
    most = round(4 * min(n, SEGMENT_ROWS) ** 0.5)
    if lists > most:
        lists, probes = most, math.ceil(probes * most / lists)
    for codes, kind in (("SQ8", "IVF_SQ8"), ("Flat", "IVF_FLAT")):
        if factory.endswith(f",{codes}"):
            return f"{kind}:nlist={lists}", f"nprobe={probes}"
    rerank = setting.get("rerank", CHOSEN_AT * setting.get("k_factor_rf", 4))
    return f"SCANN:nlist={lists}", f"nprobe={probes},reorder_k={rerank}"


def _reason(error: Exception) -> str:
    """What pymilvus or gRPC says, at most 200 characters."""
    text = getattr(error, "message", "") or getattr(error, "details", str)()
    return f"{text or repr(error):.200}"


def _errors() -> tuple[type[Exception], ...]:
    """What pymilvus raises."""
    pymilvus = load_library("milvus")
    import grpc

    return pymilvus.MilvusException, grpc.RpcError
