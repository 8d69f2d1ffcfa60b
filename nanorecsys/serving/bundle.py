"""The serving bundle: one folder that is all a server reads, whole or refused, and read without torch.

manifest.json           format, versions, sizes, and of every file its sha256, bytes, shape and
dtype; written last tower.onnx              chosen user tower: items int64 (B, L), lengths int64
(B,) -> vectors float32 (B, d), unit norm tower_fp32.onnx         the same in fp32, for processors
without int8 dot products ranker.onnx             users float32 (B, d), items int64 (B, C) -> scores
float32 (B, C); item tables are inside index.faiss             inner product over the item vectors,
ids are item numbers item_vectors.npy        float32 (n_items, d), unit norm
items.parquet           item, item_id, title, year, genres; row i describes item i
histories_offsets.npy   int64 (n_users + 1,)
histories_items.npy     int32 (n,), item numbers in time order, user by user
user_ids.npy            (n_users,), the data set's own ids by user number, int64 or text
popularity.npy          int64 (n_items,), events by item
"""

import ctypes
import datetime
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import onnxruntime as ort
import polars as pl

from nanorecsys.data import Histories
from nanorecsys.serving.encoder import Encoder, session
from nanorecsys.serving.errors import BundleError
from nanorecsys.system.blas import faiss
from nanorecsys.system.processor import has_int8_dot_products

FORMAT = 2
MANIFEST = "manifest.json"
TOWER, TOWER_FP32, RANKER = "tower.onnx", "tower_fp32.onnx", "ranker.onnx"
INDEX, VECTORS, ITEMS = "index.faiss", "item_vectors.npy", "items.parquet"
OFFSETS, EVENTS, USER_IDS, POPULARITY = (
    *("histories_offsets.npy", "histories_items.npy"),
    *("user_ids.npy", "popularity.npy"),
)
FILES = (TOWER, TOWER_FP32, RANKER, INDEX, VECTORS, ITEMS, OFFSETS, EVENTS, USER_IDS, POPULARITY)

_CHECKSUM = "checksum"  # of the manifest itself, over its other fields
_ITEM_COLUMNS = {
    "item": pl.Int32,
    "item_id": None,
    "title": pl.String,
    "year": pl.Int16,
    "genres": pl.List(pl.String),
}
_UNIT = 1e-3  # how far a norm may be from 1
_REBUILD = "Build the bundle again: nanorecsys bundle."
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a bundle; shape and dtype (numpy's short form, `<f4`) of an array."""

    sha256: str
    bytes: Count
    shape: list[Count] | None = None
    dtype: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds and where it comes from.

    `index_search` is a FAISS ParameterSpace string such as `nprobe=16`, empty for the index's
    defaults. Of a history the last `events_read` are read, at most a window.
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

    @property
    def id(self) -> str:
        """Names what the bundle holds, 12 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Parts:
    """What a bundle is made of; see this module for shapes and dtypes, which are checked and never converted.

    Args:
        tower: ONNX file of the chosen variant, weights inside.
        tower_fp32: ONNX file.
        ranker: ONNX file.
        item_vectors: float32 (n_items, d), unit norm.
        items: one row an item; more columns than the bundle's are left out.
        histories: CSR of n_users.
        user_ids: (n_users,), int64 or text.
        popularity: int64 (n_items,).
        dataset: its name.
        commit: of the code that exported the models.
        window: the longest history that the tower takes.
        events_read: of a history, the last ones, that it is given.
        tower_variant: name of the chosen variant.
        tower_is_int8: whether it computes in int8.
        index_factory: FAISS factory string, from which the index is built, or of the index given.
        index_search: its search parameters.
        index: an index over all items, built from `index_factory` where None.
    """

    tower: Path
    tower_fp32: Path
    ranker: Path
    item_vectors: np.ndarray
    items: pl.DataFrame
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
    index: faiss.Index | None = None


@dataclass(frozen=True, eq=False)
class Bundle:
    """An open bundle. Arrays are read-only views of the files, which processes on one machine share.

    `tower` is the file that `encoder` runs. `popular` are all item numbers from the most popular
    on, ties by number. `item_numbers` and `user_numbers` lead from the data set's own ids to
    numbers.
    """

    path: Path
    manifest: Manifest
    tower: str
    encoder: Encoder
    ranker: ort.InferenceSession
    index: faiss.Index
    item_vectors: np.ndarray  # float32 (n_items, d)
    items: pl.DataFrame
    histories: Histories
    popularity: np.ndarray  # int64 (n_items,)
    popular: np.ndarray  # int64 (n_items,)
    item_numbers: Mapping[int | str, int]
    user_numbers: Mapping[int | str, int]


def build_bundle(target: Path | str, parts: Parts) -> Manifest:
    """Write a bundle, check it, and put it in place in one step.

    It grows in a hidden sibling of `target`. Killed at any time, this leaves at `target` what was
    there before or the whole new bundle; the next build clears the rest away. A server that has the
    old bundle open keeps it.

    Raises:
        BundleError: `target` is there and no bundle (nothing is touched), another build is at work
            beside it, the parts do not fit each other, or the disk does not take them. The bundle
            that was there stays.
    """
    target = Path(target).resolve()
    part, aside = (target.with_name(f".{target.name}.{end}") for end in ("part", "old"))
    remedy = (
        "Mend the parts that build_bundle was given; what was at the target before is untouched."
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent):
            _clear(part, aside, target)
            _require_replaceable(target)
            try:
                part.mkdir()
                manifest = _write(part, parts)
                _check(_Folder(part, str(target), remedy))
                _put_in_place(part, target, aside)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    # FAISS raises RuntimeError for a factory string that it does not know as well as for a full
    # disk, numpy ValueError
    except (OSError, RuntimeError, ValueError, pl.exceptions.PolarsError) as error:
        raise BundleError(
            f"{target}: cannot build the bundle: {_first_line(error)}", remedy
        ) from error
    return manifest


def check_bundle(path: Path | str) -> Manifest:
    """Verify all of a bundle: every file, what is in it, that all fit each other, and a smoke run of both towers.

    Returns:
        Its manifest.

    Raises:
        BundleError: names the file, what was expected, what came and what to do.
    """
    return _check(_Folder(Path(path), str(path), _REBUILD))


def open_bundle(
    path: Path | str, threads: int = 1, verify: bool = True, *, fp32: bool | None = None
) -> Bundle:
    """Open a bundle for serving.

    FAISS's own threads are the caller's concern: a server sets OMP_NUM_THREADS=1 before the first
    import, which holds in every thread (`faiss.omp_set_num_threads` holds in the one that calls
    it). torch is not imported, and must not be by the caller: it brings a second OpenMP runtime.

    Args:
        path: the bundle's folder.
        threads: of one ONNX operator.
        verify: compare every file with its sha256 before anything is read; without it only sizes,
            shapes and dtypes.
        fp32: run the fp32 tower; None: where the chosen one is int8 and the processor has no int8
            dot products, with which int8 is slower and less exact.

    Raises:
        BundleError: names the file that is missing, truncated, altered or of another format.
    """
    folder = _Folder(Path(path), str(path), _REBUILD)
    manifest = _read_manifest(folder)
    _check_files(folder, manifest, hashes=verify)
    if fp32 is None:
        fp32 = manifest.tower_is_int8 and not has_int8_dot_products()
    return _load(folder, manifest, TOWER_FP32 if fp32 else TOWER, threads)


@dataclass(frozen=True)
class _Folder:
    """A bundle's folder, and what its errors say."""

    path: Path
    shown: str
    remedy: str

    def wrong(self, name: str, what: str, remedy: str = "") -> BundleError:
        return BundleError(f"{self.shown}/{name}: {what}", remedy or self.remedy)

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """The path of a file; whatever its reader raises becomes a named error."""
        try:
            yield self.path / name
        except BundleError:
            raise
        except (TypeError, AttributeError, NameError):  # a mistake in this program, not in a file
            raise
        except Exception as error:  # five libraries read these files, each with errors of its own
            raise self.wrong(name, f"cannot be read: {_first_line(error)}") from error


# Reading


def _read_manifest(folder: _Folder) -> Manifest:
    if not folder.path.is_dir():
        found = "a file" if folder.path.exists() else "no such folder"
        raise BundleError(
            f"{folder.shown}: expected the folder of a serving bundle, found {found}", folder.remedy
        )
    if not (folder.path / MANIFEST).is_file():
        raise folder.wrong(
            MANIFEST, "expected the manifest of a serving bundle, found no such file"
        )
    with folder.reading(MANIFEST) as path:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if raw.get("format") != FORMAT:
            raise folder.wrong(
                MANIFEST,
                f"expected format {FORMAT}, found {raw.get('format')!r}",
                "Build the bundle again with this version of nanorecsys, or serve it with the version that built it.",
            )
        if raw.pop(_CHECKSUM, None) != _manifest_checksum(raw):
            raise folder.wrong(MANIFEST, "altered: its fields do not have its checksum")
        manifest = msgspec.convert(raw, Manifest)
    if manifest.events_read > manifest.window:
        raise folder.wrong(
            MANIFEST,
            f"expected at most {manifest.window} events read, the window, found {manifest.events_read}",
        )
    if manifest.files.keys() != set(FILES):
        raise folder.wrong(
            MANIFEST, f"expected the files {', '.join(FILES)}, found {', '.join(manifest.files)}"
        )
    return manifest


def _manifest_checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def _check_files(folder: _Folder, manifest: Manifest, *, hashes: bool) -> None:
    for name, file in manifest.files.items():
        with folder.reading(name) as path:
            if not path.is_file():
                raise folder.wrong(name, f"expected {file.bytes} bytes, found no such file")
            if (size := path.stat().st_size) != file.bytes:
                raise folder.wrong(name, f"expected {file.bytes} bytes, found {size}")
            if hashes and (digest := _sha256(path)) != file.sha256:
                raise folder.wrong(name, f"altered: expected sha256 {file.sha256}, found {digest}")


def _load(folder: _Folder, manifest: Manifest, tower: str, threads: int) -> Bundle:
    """Open every file, the content of which has the right shapes, dtypes and names."""
    n_items, n_users, d = manifest.n_items, manifest.n_users, manifest.d
    user_ids = _array(folder, manifest, USER_IDS, None, (n_users,))
    popularity = _array(folder, manifest, POPULARITY, "<i8", (n_items,))
    histories = Histories(
        _array(folder, manifest, OFFSETS, "<i8", (n_users + 1,)),
        _array(folder, manifest, EVENTS, "<i4", (None,)),
    )
    items = _item_table(folder, manifest)
    return Bundle(
        path=folder.path,
        manifest=manifest,
        tower=tower,
        encoder=_encoder(folder, manifest, tower, threads),
        ranker=_ranker(folder, manifest, threads),
        index=_index(folder, manifest),
        item_vectors=_array(folder, manifest, VECTORS, "<f4", (n_items, d)),
        items=items,
        histories=histories,
        popularity=popularity,
        popular=np.argsort(-popularity, kind="stable"),
        item_numbers={name: number for number, name in enumerate(items["item_id"].to_list())},
        user_numbers={name: number for number, name in enumerate(user_ids.tolist())},
    )


def _array(
    folder: _Folder, manifest: Manifest, name: str, dtype: str | None, shape: tuple[int | None, ...]
) -> np.ndarray:
    """An array, mapped read-only, with the dtype and shape that the manifest's sizes and its entry ask for.

    Args:
        dtype: None for ids, int64 or text.
        shape: None where any length will do.
    """
    with folder.reading(name) as path:
        # a plain view: every slice of a np.memmap costs microseconds more
        array = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    came = f"{array.dtype.str} {array.shape}"
    right_type = (
        array.dtype.str == dtype if dtype else array.dtype.str == "<i8" or array.dtype.kind == "U"
    )
    right_shape = array.ndim == len(shape) and all(
        s in (None, n) for s, n in zip(shape, array.shape, strict=True)
    )
    if not (right_type and right_shape):
        lengths = ", ".join("any" if s is None else str(s) for s in shape)
        raise folder.wrong(name, f"expected {dtype or '<i8 or text'} ({lengths}), found {came}")
    listed = manifest.files[name]
    if (array.dtype.str, list(array.shape)) != (listed.dtype, listed.shape):
        raise folder.wrong(name, f"the manifest lists {listed.dtype} {listed.shape}, found {came}")
    return array


def _item_table(folder: _Folder, manifest: Manifest) -> pl.DataFrame:
    with folder.reading(ITEMS) as path:
        items = pl.read_parquet(path)
    fits = list(items.schema) == list(_ITEM_COLUMNS)
    if not fits or any(
        kind not in (None, items.schema[name]) for name, kind in _ITEM_COLUMNS.items()
    ):
        found = ", ".join(f"{name} {kind}" for name, kind in items.schema.items())
        raise folder.wrong(ITEMS, f"expected the columns {', '.join(_ITEM_COLUMNS)}, found {found}")
    if not np.array_equal(items["item"].to_numpy(), np.arange(manifest.n_items)):
        raise folder.wrong(
            ITEMS, f"expected the items 0 to {manifest.n_items - 1} in order, found others"
        )
    return items


def _index(folder: _Folder, manifest: Manifest) -> faiss.Index:
    with folder.reading(INDEX) as path:
        index = faiss.read_index(str(path))
        found = (index.ntotal, index.d, index.metric_type)
        if found != (manifest.n_items, manifest.d, faiss.METRIC_INNER_PRODUCT):
            metric = (
                "inner product"
                if index.metric_type == faiss.METRIC_INNER_PRODUCT
                else "another metric"
            )
            raise folder.wrong(
                INDEX,
                f"expected {manifest.n_items} vectors of {manifest.d} by inner product, "
                f"found {index.ntotal} of {index.d} by {metric}",
            )
        if manifest.index_search:
            faiss.ParameterSpace().set_index_parameters(index, manifest.index_search)
    return index


def _encoder(folder: _Folder, manifest: Manifest, name: str, threads: int) -> Encoder:
    with folder.reading(name) as path:
        encoder = Encoder(path, threads)
    inputs = {"items": _tensor("int64", None, None), "lengths": _tensor("int64", None)}
    _check_model(
        folder, name, encoder.session, inputs, {"vectors": _tensor("float", None, manifest.d)}
    )
    return encoder


def _ranker(folder: _Folder, manifest: Manifest, threads: int) -> ort.InferenceSession:
    with folder.reading(RANKER) as path:
        ranker = session(path, threads)
    inputs = {"users": _tensor("float", None, manifest.d), "items": _tensor("int64", None, None)}
    _check_model(folder, RANKER, ranker, inputs, {"scores": _tensor("float", None, None)})
    return ranker


def _tensor(kind: str, *shape: int | str | None) -> str:
    """Type and shape of a model's input or output; a dimension without a number is symbolic."""
    return f"{kind} ({', '.join(str(size) if isinstance(size, int) else 'symbolic' for size in shape)})"


def _check_model(
    folder: _Folder,
    name: str,
    model: ort.InferenceSession,
    inputs: dict[str, str],
    outputs: dict[str, str],
) -> None:
    """A fixed dimension where a symbolic one belongs would refuse every other batch."""
    for what, expected, came in (
        ("inputs", inputs, model.get_inputs()),
        ("outputs", outputs, model.get_outputs()),
    ):
        found = {
            a.name: _tensor(a.type.removeprefix("tensor(").removesuffix(")"), *a.shape)
            for a in came
        }
        if found != expected:
            told = [
                "; ".join(f"{argument} {tensor}" for argument, tensor in t.items())
                for t in (expected, found)
            ]
            raise folder.wrong(name, f"expected the {what} {told[0]}, found {told[1]}")


# Checking


def _check(folder: _Folder) -> Manifest:
    manifest = _read_manifest(folder)
    _check_files(folder, manifest, hashes=True)
    bundle = _load(folder, manifest, TOWER, threads=1)
    _check_ids(folder, bundle)
    _check_histories(folder, bundle)
    _check_unit(folder, VECTORS, bundle.item_vectors)
    _check_index(folder, bundle)
    for name in (TOWER, TOWER_FP32):
        _check_answers(folder, bundle, name)
    return manifest


def _check_ids(folder: _Folder, bundle: Bundle) -> None:
    numbers = {ITEMS: (bundle.item_numbers, bundle.manifest.n_items)}
    numbers[USER_IDS] = (bundle.user_numbers, bundle.manifest.n_users)
    for name, (ids, wanted) in numbers.items():
        if len(ids) != wanted:
            raise folder.wrong(name, f"expected {wanted} different ids, found {len(ids)}")
    if bundle.popularity.min() < 0:
        raise folder.wrong(POPULARITY, f"expected counts from 0, found {bundle.popularity.min()}")


def _check_histories(folder: _Folder, bundle: Bundle) -> None:
    offsets, items = bundle.histories.offsets, bundle.histories.items
    if offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise folder.wrong(
            OFFSETS, f"expected numbers that rise from 0 to the {len(items)} events, found others"
        )
    if len(items) and not 0 <= items.min() <= items.max() < bundle.manifest.n_items:
        raise folder.wrong(
            EVENTS,
            f"expected items from 0 to {bundle.manifest.n_items - 1}, found {items.min()} to {items.max()}",
        )


def _check_unit(folder: _Folder, name: str, vectors: np.ndarray) -> None:
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    if not np.all(np.abs(norms - 1) <= _UNIT):  # false for NaN too
        worst = norms[~(np.abs(norms - 1) <= _UNIT)][0]
        raise folder.wrong(
            name, f"expected finite vectors of norm 1, found one of norm {worst:.4g}"
        )


def _check_index(folder: _Folder, bundle: Bundle) -> None:
    """The index finds neighbours of some items, by their numbers.

    An approximate index may miss a few, so it passes if what it finds is at least half way from a
    random item to the exact neighbours, in the mean score; an index over other vectors, or in
    another order, finds random items.
    """
    vectors, n_items = bundle.item_vectors, bundle.manifest.n_items
    queries = vectors[:: max(1, n_items // 16)][:16]
    k = min(10, n_items)
    with folder.reading(INDEX):
        _, found = bundle.index.search(queries, k)
    if found.min() < -1 or found.max() >= n_items:
        raise folder.wrong(
            INDEX, f"expected ids from 0 to {n_items - 1}, found {found.min()} to {found.max()}"
        )
    scores = queries @ vectors.T  # (16, n_items)
    exact, random = np.partition(scores, -k, 1)[:, -k:].mean(), scores.mean()
    reached = np.where(
        found < 0, random, np.take_along_axis(scores, np.maximum(found, 0), 1)
    ).mean()
    if reached < (exact + random) / 2 - _UNIT:
        raise folder.wrong(
            INDEX,
            f"expected neighbours with a mean score near {exact:.3f}, found {reached:.3f} (random items: "
            f"{random:.3f}): it is not over {VECTORS}, or its search parameters are too low",
        )


def _check_answers(folder: _Folder, bundle: Bundle, tower: str) -> None:
    """A tower and the ranker at the ends of what they take: no event, one, a full window; the first and last item."""
    n_items, window = bundle.manifest.n_items, bundle.manifest.window
    encoder = _encoder(folder, bundle.manifest, tower, threads=1)
    histories = np.zeros((3, window), np.int64)  # vocabulary numbers, item + 1
    histories[1, 0] = n_items
    histories[2] = np.arange(n_items - window, n_items) % n_items + 1
    for batch, lengths in (
        (histories, np.array([1, 1, window])),
        (histories[1:2, :1], np.array([1])),
    ):
        with folder.reading(tower):
            users = encoder(batch, lengths)
        if users.shape != (len(batch), bundle.manifest.d):
            raise folder.wrong(
                tower, f"expected vectors {(len(batch), bundle.manifest.d)}, found {users.shape}"
            )
        _check_unit(folder, tower, users)
        candidates = np.tile(np.array([0, n_items - 1]), (len(batch), 1))
        with folder.reading(RANKER):
            scores = bundle.ranker.run(None, {"users": users, "items": candidates})[0]
        if scores.shape != candidates.shape or not np.isfinite(scores).all():
            what = "NaN or infinity" if scores.shape == candidates.shape else str(scores.shape)
            raise folder.wrong(RANKER, f"expected finite scores {candidates.shape}, found {what}")


# Writing


def _write(folder: Path, parts: Parts) -> Manifest:
    """Write every file, and the manifest last."""
    if parts.item_vectors.ndim != 2:
        raise ValueError(f"expected item vectors (n_items, d), found {parts.item_vectors.shape}")
    n_items, d = parts.item_vectors.shape
    for name, source in (
        (TOWER, parts.tower),
        (TOWER_FP32, parts.tower_fp32),
        (RANKER, parts.ranker),
    ):
        shutil.copyfile(source, folder / name)
    index = parts.index
    if index is None:
        index = faiss.index_factory(d, parts.index_factory, faiss.METRIC_INNER_PRODUCT)
        index.train(parts.item_vectors)
        index.add(parts.item_vectors)
    faiss.write_index(index, str(folder / INDEX))
    parts.items.select(*_ITEM_COLUMNS).write_parquet(folder / ITEMS)
    arrays = {
        VECTORS: parts.item_vectors,
        OFFSETS: parts.histories.offsets,
        EVENTS: parts.histories.items,
        USER_IDS: parts.user_ids,
        POPULARITY: parts.popularity,
    }
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=False)
    manifest = Manifest(
        format=FORMAT,
        nanorecsys=metadata.version("nanorecsys"),
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=parts.commit,
        dataset=parts.dataset,
        window=parts.window,
        events_read=parts.events_read,
        d=d,
        n_items=n_items,
        n_users=len(parts.user_ids),
        index_factory=parts.index_factory,
        index_search=parts.index_search,
        tower_variant=parts.tower_variant,
        tower_is_int8=parts.tower_is_int8,
        files={name: _listed(folder / name, arrays.get(name)) for name in FILES},
    )
    _write_manifest(folder, manifest)
    return manifest


def _listed(path: Path, array: np.ndarray | None) -> File:
    shape, dtype = (None, None) if array is None else (list(array.shape), array.dtype.str)
    return File(sha256=_sha256(path), bytes=path.stat().st_size, shape=shape, dtype=dtype)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    fields = msgspec.to_builtins(manifest)
    fields[_CHECKSUM] = _manifest_checksum(fields)
    content = msgspec.json.encode(fields, order="sorted")
    (folder / MANIFEST).write_bytes(msgspec.json.format(content, indent=2) + b"\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


# Putting in place


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Hold `parent` for the builds of this process; the lock ends with it, so a leftover found under it is dead."""
    handle = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BundleError(
                f"{parent}: another build of a bundle is at work there", "Wait for it, or end it."
            ) from None
        yield
    finally:
        os.close(handle)


def _clear(part: Path, aside: Path, target: Path) -> None:
    """Undo what a dead build left: finish nothing, lose nothing."""
    if aside.exists() and not target.exists():  # it died between its two renames
        aside.rename(target)
    for leftover in (part, aside):
        if leftover.exists():
            shutil.rmtree(leftover)


def _require_replaceable(target: Path) -> None:
    """Refuse a target that holds anything but a bundle's own files: replacing it would delete that."""
    if not target.exists():
        return
    held = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if MANIFEST not in held or held - {MANIFEST, *FILES}:
        strange = sorted(held - {MANIFEST, *FILES})
        found = (
            f"a folder with {strange[0]}"
            if strange
            else "a folder without a manifest"
            if held
            else "something else"
        )
        raise BundleError(
            f"{target}: expected a serving bundle or nothing at the target, found {found}",
            "Name another folder, or move away what is there.",
        )


def _put_in_place(part: Path, target: Path, aside: Path) -> None:
    """Move the whole new bundle to `target`; an old one ends at `part` or `aside`, and is deleted."""
    if not target.exists():
        part.rename(target)
    elif not _exchange(part, target):
        target.rename(aside)
        try:
            part.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot (Linux can, on most file systems)."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return swap is not None and swap(*paths, _RENAME_EXCHANGE) == 0
