"""Catalogues of any size, in memory or in a file, made shard by shard.

A shard is a run of synthetic rows with a random stream of its own, derived from the seed and the
shard's number, and is made on one thread from start to end. So the bytes do not depend on the order
of the shards, on the number of threads or on where a killed run was taken up again.
"""

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nanorecsys.scaleup.errors import DiskSpaceError, OtherRunError, VectorsError
from nanorecsys.scaleup.generators import Fitted, by_name, check_vectors
from nanorecsys.system.files import atomic_path

SHARD_ROWS = 16_384  # 16 MiB at d 256: some hundred shards at 3 million items
SPARE = 64 << 20  # bytes that the disk should have left when the catalogue is written

Put = Callable[[slice, np.ndarray], int]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that the bytes of a catalogue depend on."""

    generator: str
    version: int
    seed: int
    n: int
    keep_real: bool
    shard_rows: int
    vectors_sha256: str

    def differences(self, other: "Recipe") -> str:
        """What `other` has instead, in words."""
        mine, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return ", ".join(
            f"{name} {theirs[name]!r} instead of {mine[name]!r}"
            for name in mine
            if mine[name] != theirs[name]
        )


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a catalogue's file: its recipe, and the CRC-32 of each shard that is in place."""

    recipe: Recipe
    shards: dict[int, int]


def generate(
    vectors: np.ndarray,
    n: int,
    generator: str = "local",
    seed: int = 0,
    *,
    keep_real: bool = True,
    threads: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """A catalogue of n items in memory, unit float32 (n, d).

    Args:
        vectors: real items, unit float32 (items, d).
        n: items of the catalogue, at least as many as there are real ones.
        generator: a name of `GENERATORS`.
        seed: of the random streams.
        keep_real: the real items are the first rows, so that their ids stay valid; otherwise all
            rows are synthetic.
        threads: that make shards at the same time, by default one for each core; the bytes are the
            same.
        progress: draw a bar.

    Raises:
        UnknownGeneratorError, VectorsError
    """
    plan = _Plan(vectors, n, generator, seed, keep_real)
    catalogue = np.empty((n, plan.d), np.float32)
    catalogue[: len(plan.real)] = plan.real

    def put(rows: slice, made: np.ndarray) -> int:
        catalogue[rows] = made
        return 0

    for _ in plan.run(range(plan.n_shards), put, threads, progress):
        pass
    return catalogue


def write_catalogue(
    path: Path | str,
    vectors: np.ndarray,
    n: int,
    generator: str = "local",
    seed: int = 0,
    *,
    keep_real: bool = True,
    threads: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The catalogue that `generate` makes, in a .npy file and never whole in memory.

    While it grows it is `path` with .part added; `path` with .json added records the recipe and
    which shards are in place. A call after a kill takes up those whose checksums hold; a call for a
    finished catalogue opens it.

    Returns:
        the file, memory-mapped and read-only, float32 (n, d).

    Raises:
        UnknownGeneratorError, VectorsError
        OtherRunError: the files are those of another recipe, or of none.
        DiskSpaceError: the disk is too small; nothing was written.
    """
    path = Path(path)
    part, record = (path.with_name(path.name + suffix) for suffix in (".part", ".json"))
    plan = _Plan(vectors, n, generator, seed, keep_real)
    claimed = _claimed(path, part, record, plan.recipe)
    if not path.exists():
        _check_disk(path, part, 4 * n * plan.d)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "r+b" if part.exists() else "w+b") as file:
            _fill(file, plan, claimed, record, threads, progress)
        part.replace(path)
    return np.load(path, mmap_mode="r")


def _fill(
    file: BinaryIO,
    plan: "_Plan",
    claimed: dict[int, int],
    record: Path,
    threads: int | None,
    progress: bool,
) -> None:
    """Write header, real rows and the shards that are missing; `claimed` are those said to be there already."""
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (plan.recipe.n, plan.d)}
    )
    begin, row_bytes, handle = file.tell(), 4 * plan.d, file.fileno()
    file.write(np.ascontiguousarray(plan.real))
    file.flush()

    def holds(shard: int, crc: int) -> bool:
        rows = plan.rows(shard)
        return (
            zlib.crc32(
                os.pread(
                    handle, row_bytes * (rows.stop - rows.start), begin + row_bytes * rows.start
                )
            )
            == crc
        )

    def put(rows: slice, made: np.ndarray) -> int:
        # positional writes and no writable map, whose pages would count as memory of this process
        os.pwrite(handle, made.data, begin + row_bytes * rows.start)
        return zlib.crc32(made.data)

    done = {shard: crc for shard, crc in claimed.items() if holds(shard, crc)}
    missing = [shard for shard in range(plan.n_shards) if shard not in done]
    _save(record, plan.recipe, done)
    for shard, crc in plan.run(missing, put, threads, progress):
        done[shard] = crc
        _save(record, plan.recipe, done)
    os.fsync(handle)


def _save(record: Path, recipe: Recipe, shards: dict[int, int]) -> None:
    with atomic_path(record) as temporary:
        temporary.write_bytes(msgspec.json.encode(Record(recipe=recipe, shards=shards)))


def _claimed(path: Path, part: Path, record: Path, recipe: Recipe) -> dict[int, int]:
    """The shards that the record says are in place; empty where there are no files yet."""
    remedy = f"Name another file, or delete {path.name}* in {path.parent} first."
    if not record.exists():
        for file in (path, part):
            if file.exists():
                raise OtherRunError(
                    f"{file} has no {record.name} beside it that says what made it.", remedy
                )
        return {}
    try:
        found = msgspec.json.decode(record.read_bytes(), type=Record)
    except msgspec.MsgspecError as error:
        raise OtherRunError(
            f"{record} is not the record of a catalogue: {error}.", remedy
        ) from error
    if found.recipe != recipe:
        raise OtherRunError(
            f"{path} belongs to another run: {recipe.differences(found.recipe)}.",
            remedy,
        )
    return found.shards if part.exists() else {}


def _check_disk(path: Path, part: Path, size: int) -> None:
    there = part.stat().st_blocks * 512 if part.exists() else 0
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size - there + SPARE:
        raise DiskSpaceError(
            f"{path} needs {(size - there + SPARE) / 2**30:.2f} GiB more, {folder} has {free / 2**30:.2f} GiB free.",
            "Free space there, name a file on another disk, or ask for fewer items.",
        )


class _Plan:
    """Which rows are real, which shard holds which of the others, and how to make them.

    Raises:
        UnknownGeneratorError, VectorsError
    """

    def __init__(
        self, vectors: np.ndarray, n: int, generator: str, seed: int, keep_real: bool
    ) -> None:
        maker = by_name(generator)
        check_vectors(vectors, maker.neighbours)
        if keep_real and n < len(vectors):
            raise VectorsError(
                f"A catalogue of {n} items cannot keep {len(vectors)} real ones.",
                f"Ask for at least {len(vectors)} items, or pass fewer vectors.",
            )
        self.recipe = Recipe(
            generator=generator,
            version=maker.version,
            seed=seed,
            n=n,
            keep_real=keep_real,
            shard_rows=SHARD_ROWS,
            vectors_sha256=hashlib.sha256(np.ascontiguousarray(vectors)).hexdigest(),
        )
        self.real = vectors if keep_real else vectors[:0]
        self.d = vectors.shape[1]
        self.n_shards = -(-(n - len(self.real)) // SHARD_ROWS)
        self._vectors = vectors
        self._maker = maker

    def rows(self, shard: int) -> slice:
        """The rows of the catalogue that a shard fills."""
        start = len(self.real) + shard * SHARD_ROWS
        return slice(start, min(start + SHARD_ROWS, self.recipe.n))

    def run(
        self, shards: Iterable[int], put: Put, threads: int | None, progress: bool
    ) -> Iterator[tuple[int, int]]:
        """Make shards and hand each to `put`; yields the shard's number and what `put` returned, as they end."""
        shards = list(shards)
        if not shards:
            return
        threads = threads or len(os.sched_getaffinity(0))
        # one thread of the linear algebra in each of ours: sums then have one order whatever the
        # number of threads
        with (
            threadpool_limits(1),
            tqdm(total=len(shards), unit="shard", disable=not progress) as bar,
        ):
            fitted = self._maker.fit(self._vectors, self.recipe.n)
            pool = ThreadPoolExecutor(threads)
            waiting: set[Future[tuple[int, int]]] = set()
            try:
                for shard in shards:
                    waiting.add(pool.submit(self._make, fitted, shard, put))
                    if len(waiting) > threads:
                        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        bar.update(len(ended))
                        yield from (future.result() for future in ended)
                for future in waiting:
                    bar.update()
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _make(self, fitted: Fitted, shard: int, put: Put) -> tuple[int, int]:
        rows = self.rows(shard)
        stream = np.random.Generator(
            np.random.SFC64(np.random.SeedSequence(self.recipe.seed, spawn_key=(shard,)))
        )
        return shard, put(rows, fitted.sample(rows.stop - rows.start, stream))
