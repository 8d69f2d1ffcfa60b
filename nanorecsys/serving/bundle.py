"""The serving bundle: one folder with all that a server reads, accepted whole or refused.

Its files::

    manifest.json           format, versions, sizes; sha256 and bytes of every file
    tower.onnx              chosen user tower: items int64 (B, L), lengths int64 (B,) -> vectors
                            float32 (B, d), unit norm
    ranker.onnx             users float32 (B, d), items int64 (B, C) -> scores float32 (B, C);
                            absent where the retriever's own order is served
    index.faiss             inner-product index over the item vectors; ids are item numbers
    index.other             index of another library, which serves where that library is installed;
                            index.faiss is then the second choice. Absent where FAISS serves
    item_vectors.npy        float32 (n_items, d), unit norm
    items.parquet           item, item_id, title, year, genres; row i describes item i
    histories_offsets.npy   int64 (n_users + 1,)
    histories_items.npy     int32 (n,), item numbers in time order, user by user
    user_ids.npy            (n_users,), the data set's own ids by user number, int64 or text
    popularity.npy          int64 (n_items,), events by item

It is read without torch. `bundle` is a link to the folder `bundle.d/ID` beside it: a new bundle is
written in `bundle.d` and checked, then the link is replaced in one step.
"""

import contextlib
import datetime
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nanorecsys.data import Histories
from nanorecsys.serving.encoder import Encoder
from nanorecsys.serving.errors import BundleError, LibraryError
from nanorecsys.serving.ranker import Ranker
from nanorecsys.serving.retrieval import Retriever, library, load_index
from nanorecsys.system.blas import faiss

log = logging.getLogger("nanorecsys.serving")

FORMAT = 4
MANIFEST = "manifest.json"
TOWER, RANKER = "tower.onnx", "ranker.onnx"
INDEX, OTHER_INDEX = "index.faiss", "index.other"
VECTORS, ITEMS = "item_vectors.npy", "items.parquet"
OFFSETS, EVENTS = "histories_offsets.npy", "histories_items.npy"
USER_IDS, POPULARITY = "user_ids.npy", "popularity.npy"
FILES = (TOWER, RANKER, INDEX, VECTORS, ITEMS, OFFSETS, EVENTS, USER_IDS, POPULARITY)
MAY_BE_ABSENT = {RANKER, OTHER_INDEX}

ITEM_SCHEMA = pa.schema(
    {
        "item": pa.int32(),
        "item_id": pa.int64(),
        "title": pa.string(),
        "year": pa.int16(),
        "genres": pa.list_(pa.string()),
    }
)

MAPPED_BYTES = 2**30  # vectors of a million items; two workers would hold them twice
READ_ROWS = 65_536  # items whose genres are read at once
NORM_TOLERANCE = 1e-3
REBUILD = "Build the bundle again: nanorecsys bundle."
MEND = "Correct the parts that build_bundle was given; the target is unchanged."

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a bundle."""

    sha256: str
    bytes: Count


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds and where it comes from.

    `index_search` is a search setting such as `nprobe=16`; the index keeps its defaults where it is
    empty. `second_factory` is empty where the index is FAISS's. The tower reads the last
    `events_read` events of a history, at most a window. It knows the first `known_items`, all where
    that is 0, and histories hold no others.
    """

    format: int
    nanorecsys: str
    created_utc: str
    commit: str
    dataset: str
    window: Positive
    events_read: Positive
    d: Positive
    n_items: Positive
    n_users: Count
    index_factory: str
    index_search: str
    tower_variant: str
    tower_is_int8: bool
    files: dict[str, File]
    known_items: Count = 0
    second_factory: str = ""
    second_search: str = ""

    def __post_init__(self) -> None:
        if self.files.keys() | MAY_BE_ABSENT != {*FILES, *MAY_BE_ABSENT}:
            raise ValueError(
                f"expected the files {', '.join(FILES)} (the ranker may be absent), "
                f"found {', '.join(self.files)}"
            )

    @property
    def vocabulary(self) -> int:
        """Number of items that histories may hold."""
        return self.known_items or self.n_items

    @property
    def indexes(self) -> list[tuple[str, str]]:
        """Files of the indexes with their settings, the first choice first."""
        if self.second_factory:
            return [(OTHER_INDEX, self.index_search), (INDEX, self.second_search)]
        return [(INDEX, self.index_search)]

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of a hash of the manifest and, through it, of every file."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class SecondChoice:
    """FAISS's index for a host without the library of the first choice.

    Args:
        factory: FAISS factory string.
        search: Search setting.
        index: Index over all items; built from `factory` where None.
    """

    factory: str = "Flat"
    search: str = ""
    index: faiss.Index | None = None


@dataclass(frozen=True, eq=False)
class Parts:
    """What a bundle is made of. Shapes and dtypes, listed above, are checked and never converted.

    Args:
        tower: ONNX file of the chosen variant, weights inside.
        ranker: ONNX file of the ranker; None to serve the retriever's own order.
        item_vectors: float32 (n_items, d), unit norm.
        items: Titles and ids, one row per item; other columns than the bundle's are left out.
        histories: CSR of n_users.
        user_ids: (n_users,), int64 or text.
        popularity: int64 (n_items,).
        dataset: Name of the data set.
        commit: Commit of the code that exported the models.
        window: Longest history that the tower accepts, in events.
        events_read: Number of events of a history, the last ones, that the tower reads.
        tower_variant: Name of the chosen variant.
        tower_is_int8: Whether the chosen variant computes in int8.
        index_factory: Specification of the index.
        index_search: Search setting of the index.
        index: Index over all items, FAISS's own object or an `Index` of another library; built from
            `index_factory`, a FAISS string, where None.
        second: Index beside one of another library.
        known_items: Number of items that the tower knows, the first ones; 0 for all.
    """

    tower: Path
    ranker: Path | None
    item_vectors: np.ndarray
    items: pd.DataFrame
    histories: Histories
    user_ids: np.ndarray
    popularity: np.ndarray
    dataset: str
    commit: str
    window: int
    events_read: int
    tower_variant: str
    tower_is_int8: bool
    index_factory: str = "Flat"
    index_search: str = ""
    index: Any = None
    second: SecondChoice = SecondChoice()
    known_items: int = 0


@dataclass(frozen=True, eq=False)
class Bundle:
    """An open bundle in memory, but for arrays above `MAPPED_BYTES`, which stay in their files.

    Arrays are read-only.

    `popular` lists all item numbers, the most popular first and ties by number. `item_numbers` and
    `user_numbers` map the data set's own ids to numbers, of items those that histories may hold.
    """

    manifest: Manifest
    encoder: Encoder
    ranker: Ranker | None
    index: Retriever
    item_vectors: np.ndarray  # float32 (n_items, d)
    items: pd.DataFrame
    histories: Histories
    popularity: np.ndarray  # int64 (n_items,)
    popular: np.ndarray  # int64 (n_items,)
    item_numbers: Mapping[int | str, int]
    user_numbers: Mapping[int | str, int]


# What a manifest has to search in place of the bundle's own index.
Remote = Callable[[Manifest], Retriever]


def build_bundle(target: Path | str, parts: Parts) -> Manifest:
    """Write a bundle in the folder `target`.d, check it, and let the link `target` point to it.

    It waits for another build of the same bundle. A build that is killed leaves the old bundle or
    the new one at `target`, and the next build deletes the rest. In the end the old bundle is
    deleted; a server that has it open keeps it.

    Raises:
        BundleError: `target` is something other than a bundle's link (it is left alone), the parts
            do not fit each other, or the disk does not take them. The old bundle stays.
    """
    target = Path(target).absolute()
    versions = target.with_name(f"{target.name}.d")
    try:
        _require_replaceable(target, versions)
        versions.mkdir(parents=True, exist_ok=True)
        lock = os.open(versions, os.O_RDONLY)  # it ends with the process
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _clear(target, versions)
            part = versions / "part"
            part.mkdir()
            manifest = _write(part, parts)
            _check(_Folder(part, str(target), MEND))
            _publish(part, target, versions / manifest.id)
        finally:
            _clear(target, versions)
            os.close(lock)
    # FAISS raises RuntimeError for an unknown factory string and a full disk, NumPy and PyArrow
    # ValueError; a missing column is a KeyError, one of another type pyarrow's own TypeError
    except (OSError, RuntimeError, ValueError, KeyError, pa.ArrowException) as error:
        raise BundleError(
            f"{target}: cannot build the bundle: {_first_line(error)}", MEND
        ) from error
    return manifest


def check_bundle(path: Path | str) -> Manifest:
    """Verify every file of a bundle, that all fit each other, and run every model.

    Raises:
        BundleError: The message names the file, what was expected, what was found and what to do.
    """
    return _check(_folder(path))


def read_vectors(path: Path | str) -> tuple[Manifest, np.ndarray]:
    """Verify a bundle's files, and read its manifest and its item vectors alone.

    Raises:
        BundleError: A file is missing, truncated, altered or of another format; it is named.
    """
    folder = _folder(path)
    manifest = _read_manifest(folder)
    _check_files(folder, manifest, hashes=True)
    return manifest, _array(folder, VECTORS, "<f4", manifest.n_items, manifest.d)


def open_bundle(path: Path | str, *, remote: Remote | None = None) -> Bundle:
    """Open a bundle for serving, its models on one thread per call.

    A server sets OMP_NUM_THREADS=1 before its first import, which holds for FAISS in every thread.
    torch must not be imported: it brings a second OpenMP runtime.

    Args:
        path: Folder of the bundle, or a link to it; a link is followed once, so all files are of
            one bundle.
        remote: Function that names the index to search in place of the bundle's own, which is then
            not loaded.

    Raises:
        BundleError: A file is missing, truncated, altered or of another format; it is named.
    """
    folder = _folder(path)
    try:
        manifest = _read_manifest(folder)
        checked = _check_files(folder, manifest, hashes=True)
        bundle = _load(folder, manifest, remote)
        if checked != _check_files(folder, manifest, hashes=False):
            raise BundleError(f"{path}: a file was changed while the bundle was opened", REBUILD)
        return bundle
    except BundleError:
        if _folder(path) == folder:
            raise
        # a new bundle has replaced this one meanwhile
        return open_bundle(path, remote=remote)


@dataclass(frozen=True)
class _Folder:
    """A bundle's folder, the name of it in errors, and their remedy."""

    path: Path
    shown: str
    remedy: str

    def wrong(self, name: str, what: str) -> BundleError:
        return BundleError(f"{self.shown}/{name}: {what}", self.remedy)

    def require(self, is_right: bool | np.bool, name: str, expected: str, found: object) -> None:
        """Refuse a file whose content is not what was expected."""
        if not is_right:
            raise self.wrong(name, f"expected {expected}, found {found}")

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """The path of a file; whatever its reader raises becomes a named error."""
        try:
            yield self.path / name
        except (BundleError, LibraryError, TypeError, AttributeError, NameError):
            raise  # already named, or a mistake in this program and not in a file
        except Exception as error:  # five libraries read these files, each with its own errors
            raise self.wrong(name, f"cannot be read: {_first_line(error)}") from error


def _folder(path: Path | str) -> _Folder:
    if not Path(path).is_dir():
        found = "a file" if Path(path).exists() else "no such folder"
        raise BundleError(
            f"{path}: expected the folder of a serving bundle, found {found}", REBUILD
        )
    return _Folder(Path(path).resolve(), str(path), REBUILD)


# Reading


def _read_manifest(folder: _Folder) -> Manifest:
    with folder.reading(MANIFEST) as path:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=dict[str, Any]).get("format")
        expected = f"format {FORMAT}, which this version of nanorecsys reads"
        folder.require(found == FORMAT, MANIFEST, expected, repr(found))
        return msgspec.json.decode(content, type=Manifest)


def _check_files(folder: _Folder, manifest: Manifest, *, hashes: bool) -> dict[str, int]:
    """Check sizes, and hashes too if asked. Returns when each file was changed last."""
    changed = {}
    for name, file in manifest.files.items():
        with folder.reading(name) as path:
            found = path.stat()
            changed[name] = found.st_mtime_ns
            folder.require(found.st_size == file.bytes, name, f"{file.bytes} bytes", found.st_size)
            if hashes and (digest := _sha256(path)) != file.sha256:
                raise folder.wrong(name, f"altered: expected sha256 {file.sha256}, found {digest}")
    return changed


def _load(folder: _Folder, manifest: Manifest, remote: Remote | None = None) -> Bundle:
    """Open every file and check shapes, dtypes and names."""
    n_items, n_users = manifest.n_items, manifest.n_users
    offsets = _array(folder, OFFSETS, "<i8", n_users + 1)
    user_ids = _array(folder, USER_IDS, "<i8|<U[0-9]+", n_users)
    popularity = _array(folder, POPULARITY, "<i8", n_items)
    items = _items(folder, n_items)
    known = items["item_id"].iloc[: manifest.vocabulary].to_list()
    with folder.reading(TOWER) as path:
        encoder = Encoder(path)
    ranker = None
    if RANKER in manifest.files:
        with folder.reading(RANKER) as path:
            ranker = Ranker(path)
    return Bundle(
        manifest=manifest,
        encoder=encoder,
        ranker=ranker,
        index=remote(manifest) if remote else _index(folder, manifest),
        item_vectors=_array(folder, VECTORS, "<f4", n_items, manifest.d),
        items=items,
        histories=Histories(offsets, _array(folder, EVENTS, "<i4", int(offsets[-1]))),
        popularity=popularity,
        popular=np.argsort(-popularity, kind="stable"),
        item_numbers={name: number for number, name in enumerate(known)},
        user_numbers={name: number for number, name in enumerate(user_ids.tolist())},
    )


def _array(folder: _Folder, name: str, dtype: str, *shape: int) -> np.ndarray:
    """An array in memory; `dtype` is a pattern of NumPy's short form.

    A mapped file that somebody truncates, as `cp` over it does, would kill the process (SIGBUS). So
    only a file above `MAPPED_BYTES` is mapped, which all workers then share.
    """
    with folder.reading(name) as path:
        mode: Literal["r"] | None = "r" if path.stat().st_size > MAPPED_BYTES else None
        # a plain view: every slice of a np.memmap costs microseconds more
        array = np.load(path, mmap_mode=mode).view(np.ndarray)
    array.flags.writeable = False
    is_right = re.fullmatch(dtype, array.dtype.str) is not None and array.shape == shape
    folder.require(is_right, name, f"{dtype} {shape}", f"{array.dtype.str} {array.shape}")
    return array


def _items(folder: _Folder, n_items: int) -> pd.DataFrame:
    with folder.reading(ITEMS) as path:
        table = pq.read_table(path, use_threads=False)
    folder.require(table.num_rows == n_items, ITEMS, f"{n_items} items", table.num_rows)
    items = table.drop_columns(["genres"]).to_pandas(use_threads=False)
    # Items without genres share one list: millions of their own would take a gigabyte.
    genres, none = table.column("genres"), list[str]()
    parts = (genres.slice(start, READ_ROWS).to_pylist() for start in range(0, n_items, READ_ROWS))
    items["genres"] = [own or none for part in parts for own in part]
    return items


def _index(folder: _Folder, manifest: Manifest) -> Retriever:
    """Open the first index whose library is installed; FAISS always is."""
    try:
        return _open_index(folder, manifest, *manifest.indexes[0])
    except LibraryError as error:
        instead = f"{manifest.second_factory} serves in place of {manifest.index_factory}"
        text = "%s: %s; %s. To serve that: %s"
        log.warning(text, folder.shown, error.message, instead, error.remedy)
        return _open_index(folder, manifest, *manifest.indexes[1])


def _open_index(folder: _Folder, manifest: Manifest, name: str, search: str) -> Retriever:
    with folder.reading(name) as path:
        index = load_index(path)
        shape = manifest.n_items, manifest.d
        folder.require(index.shape == shape, name, f"vectors (n_items, d) {shape}", index.shape)
        index.set(search)
    return index


# Checking


def _check(folder: _Folder) -> Manifest:
    manifest = _read_manifest(folder)
    _check_files(folder, manifest, hashes=True)
    bundle = _load(folder, manifest)
    events, most = bundle.histories.items, manifest.vocabulary - 1  # those that the tower knows
    first, last = events.min(initial=0), events.max(initial=0)
    is_known = first >= 0 and last <= most
    folder.require(is_known, EVENTS, f"items from 0 to {most}", f"{first} to {last}")
    _check_neighbours(folder, bundle)
    _check_answers(folder, bundle)
    return manifest


def _check_neighbours(folder: _Folder, bundle: Bundle) -> None:
    """Search each index whose library is installed for the neighbours of some items.

    An approximate index may miss a few. It passes if the mean score of what it finds is at least
    half way from random items to the exact neighbours; an index over other vectors, or in another
    order, finds random items.
    """
    vectors, n_items = bundle.item_vectors, bundle.manifest.n_items
    queries = vectors[:: max(1, n_items // 16)][:16]
    k = min(10, n_items)
    scores = queries @ vectors.T  # (16, n_items)
    exact, random = np.partition(scores, -k, 1)[:, -k:].mean(), scores.mean()
    expected = f"neighbours with a mean score near {exact:.3f} (random items: {random:.3f})"
    for name, search in bundle.manifest.indexes:
        with contextlib.suppress(LibraryError), folder.reading(name):
            _, found = _open_index(folder, bundle.manifest, name, search).search(queries, k)
            found_scores = np.take_along_axis(scores, np.maximum(found, 0), 1)
            reached = np.where(found < 0, random, found_scores).mean()
            is_near = reached >= (exact + random) / 2 - NORM_TOLERANCE
            folder.require(is_near, name, expected, f"{reached:.3f}")


def _check_answers(folder: _Folder, bundle: Bundle) -> None:
    """Run every model on no event, one and a full window; the ranker on the first and last item.

    Batches, lengths and numbers of candidates differ, so a model that fixes one of them fails.
    """
    n_items, window, d = bundle.manifest.vocabulary, bundle.manifest.window, bundle.manifest.d
    histories = np.zeros((3, window), np.int64)  # vocabulary numbers, item + 1
    histories[1, 0] = n_items
    histories[2] = np.arange(n_items - window, n_items) % n_items + 1
    batches = (histories, np.array([1, 1, window])), (histories[1:2, :1], np.array([1]))
    for items, lengths in batches:
        with folder.reading(TOWER) as path:
            users = Encoder(path)(items, lengths)
        shape = len(items), d
        folder.require(users.shape == shape, TOWER, f"vectors {shape}", users.shape)
        norms = np.linalg.norm(users, axis=1)
        is_unit = np.allclose(norms, 1, rtol=0, atol=NORM_TOLERANCE)
        folder.require(is_unit, TOWER, "finite vectors of norm 1", f"norms {norms}")
        if bundle.ranker is not None:
            candidates = np.tile([0, n_items - 1], (len(items), len(items)))
            with folder.reading(RANKER):
                scores = bundle.ranker(users, candidates)
            shape = candidates.shape
            folder.require(scores.shape == shape, RANKER, f"scores {shape}", scores.shape)
            is_finite = np.isfinite(scores).all()
            folder.require(is_finite, RANKER, "finite scores", "NaN or infinity")


# Writing


def _write(folder: Path, parts: Parts) -> Manifest:
    """Write every file, and the manifest last."""
    n_items, d = parts.item_vectors.shape
    models = {TOWER: parts.tower, RANKER: parts.ranker}
    for name, source in models.items():
        if source is not None:
            shutil.copyfile(source, folder / name)
    is_other = library(parts.index_factory) != "faiss"
    second = parts.second
    if is_other:
        parts.index.save(folder / OTHER_INDEX)
    else:
        second = SecondChoice(parts.index_factory, index=parts.index)
    index = second.index
    if index is None:
        index = faiss.index_factory(d, second.factory, faiss.METRIC_INNER_PRODUCT)
        index.train(parts.item_vectors)
        index.add(parts.item_vectors)
    faiss.write_index(index, str(folder / INDEX))
    schema = ITEM_SCHEMA
    if not pd.api.types.is_integer_dtype(parts.items["item_id"]):
        schema = schema.set(1, pa.field("item_id", pa.string()))
    items = pa.Table.from_pandas(parts.items, schema, preserve_index=False)
    pq.write_table(items, folder / ITEMS)
    arrays = {
        VECTORS: parts.item_vectors,
        OFFSETS: parts.histories.offsets,
        EVENTS: parts.histories.items,
        USER_IDS: parts.user_ids,
        POPULARITY: parts.popularity,
    }
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=False)
    alike = set(Manifest.__struct_fields__) & set(vars(parts))  # fields that both have
    manifest = Manifest(
        **{name: getattr(parts, name) for name in alike},
        format=FORMAT,
        nanorecsys=metadata.version("nanorecsys"),
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(),
        d=d,
        n_items=n_items,
        n_users=len(parts.user_ids),
        files={
            name: File(sha256=_sha256(folder / name), bytes=(folder / name).stat().st_size)
            for name in (*FILES, OTHER_INDEX)
            if (folder / name).exists()
        },
        second_factory=second.factory if is_other else "",
        second_search=second.search if is_other else "",
    )
    _write_manifest(folder, manifest)
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    content = msgspec.json.encode(manifest, order="sorted")
    (folder / MANIFEST).write_bytes(msgspec.json.format(content, indent=2) + b"\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


# Publishing


def _require_replaceable(target: Path, versions: Path) -> None:
    """Refuse a target that is there and is not our own link."""
    is_link = target.is_symlink() and target.resolve().parent == versions.resolve()
    if os.path.lexists(target) and not is_link:
        raise BundleError(
            f"{target}: expected the link to a serving bundle or nothing at the target, "
            "found something else",
            "Name another folder, or move away what is there.",
        )


def _publish(part: Path, target: Path, version: Path) -> None:
    """Give the new bundle its name, and let the link `target` point to it in one step."""
    part.rename(version)
    link = part.with_name("link")
    link.symlink_to(Path(version.parent.name) / version.name)
    os.replace(link, target)


def _clear(target: Path, versions: Path) -> None:
    """Delete the bundles that `target` does not point to, and what killed builds left."""
    kept = target.resolve()
    for path in versions.iterdir():
        if path.is_symlink():
            path.unlink()
        elif path.resolve() != kept:
            shutil.rmtree(path, ignore_errors=True)
