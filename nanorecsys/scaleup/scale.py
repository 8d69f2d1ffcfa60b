"""Indexes over the first n items of one catalogue: each built in a process of its own and measured in another.

ladder = Ladder(folder, catalogue, queries, truth, settings)
row = ladder.row("IVF2048,SQ8", 300_000)      # builds, measures, keeps; again it only reads what
was kept
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from nanorecsys.ann.errors import AnnError, SpecificationError
from nanorecsys.ann.exact import Exact
from nanorecsys.ann.indexes import BuildOptions
from nanorecsys.ann.limits import MIB, Limits
from nanorecsys.ann.result import Failure
from nanorecsys.ann.specs import BASELINE
from nanorecsys.scaleup import build_worker, search_worker
from nanorecsys.scaleup.build import Plan
from nanorecsys.scaleup.result import Row
from nanorecsys.scaleup.specs import Parts, parts

PROBES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 56, 64, 72, 80, 96, 112, 128, 192, 256)
FACTORS = (
    2,
    4,
    6,
    8,
    12,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    64,
)  # of k: candidates that are compared again
BEAMS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
FLAT_QUERIES = 20  # a round of exact search of the largest catalogue takes some seconds


@dataclass(frozen=True)
class Settings:
    """How much is built and measured.

    Args:
        k: neighbours asked for.
        floor: of recall.
        choosing: queries, the first, under which a setting is chosen; its recall is that under the
            others.
        points: of the sample for each list.
        iterations: of k-means.
        block_rows: items of a block.
        rounds: of what is timed.
        timed: queries in each round.
        threads: of building, and of the throughput measure.
        memory_gib: that exact search may take for the vectors; above it they are mapped from the
            file.
        seed: of everything random.
        options: of graphs.
    """

    k: int = 10
    floor: float = 0.95
    choosing: int = 200
    points: int = 64
    iterations: int = 8
    block_rows: int = 262_144
    rounds: int = 2
    timed: int = 100
    threads: int = 2
    memory_gib: float = 8.0
    seed: int = 0
    options: BuildOptions = field(default_factory=BuildOptions)


class Ladder:
    """One catalogue at several sizes, in a folder that keeps what is done."""

    def __init__(
        self,
        folder: Path,
        generator: str,
        catalogue: Path,
        queries: np.ndarray,
        truth: dict[int, Exact],
        limits: Limits,
        settings: Settings,
        users: np.ndarray | None = None,
    ) -> None:
        """Write what the processes read.

        Args:
            folder: for indexes and rows.
            generator: that made the catalogue.
            catalogue: .npy of unit float32 (N, d).
            queries: float32 (q, d).
            truth: exact neighbours by size, see `truth.exact_prefixes`.
            limits: of the machine.
            settings: how much is done.
            users: unit float32 (u, d), other users than those who query, on whom projections are
                fitted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.generator, self.catalogue = folder, generator, catalogue
        self.limits, self.settings = limits, settings
        self.failures: list[Failure] = []
        self.d = queries.shape[1]
        np.save(folder / "queries.npy", queries)
        self.users = "" if users is None else str(folder / "users.npy")
        if users is not None:
            np.save(self.users, users)
        for n, exact in truth.items():
            search_worker.save_truth(folder / f"truth-{n}.npz", exact, settings.k)

    def row(self, specification: str, n: int, on_disk: bool = False) -> Row | None:
        """Build and measure one index over the first n items; None where it cannot be built, with the reason kept."""
        try:
            p = parts(specification, n)
        except SpecificationError as error:
            self.failures.append(
                Failure(f"{specification} at {n:,}", type(error).__name__, error.message)
            )
            return None
        name = p.factory.replace(",", "-") + ("-disk" if on_disk else "")
        kept = self.folder / f"{n}" / name
        if (kept / "row.json").exists():
            return msgspec.json.decode((kept / "row.json").read_bytes(), type=Row)
        kept.mkdir(parents=True, exist_ok=True)
        outcome = (
            self._flat(n) if p.factory == BASELINE else self._build(specification, n, on_disk, kept)
        )
        if outcome.error:
            self.failures.append(Failure(f"{p.factory} at {n:,}", outcome.error, outcome.message))
            return None
        row = self._row(p, n, on_disk, outcome, self._measure(p, n, outcome, kept))
        (kept / "row.json").write_bytes(msgspec.json.encode(row))
        return row

    def recalls(self, n: int) -> dict[tuple[str, str], float]:
        """Mean recall over the first n items of every index that was measured at every setting of its grid."""
        found = {}
        for path in (self.folder / f"{n}").glob("*/search.json"):
            plan = msgspec.json.decode(path.read_bytes(), type=search_worker.Plan)
            measured = msgspec.json.decode(
                (path.parent / "measured.json").read_bytes(), type=search_worker.Measured
            )
            found |= {
                (plan.factory, s): r for s, r in zip(plan.settings, measured.recalls, strict=True)
            }
        return found

    def _flat(self, n: int) -> build_worker.Outcome:
        return build_worker.Outcome(path=str(self.catalogue), index_bytes=4 * n * self.d)

    def _build(self, specification: str, n: int, on_disk: bool, kept: Path) -> build_worker.Outcome:
        s = self.settings
        plan = Plan(
            specification=specification,
            catalogue=str(self.catalogue),
            n=n,
            folder=str(self.folder / f"{n}" / "steps"),
            points=s.points,
            iterations=s.iterations,
            block_rows=s.block_rows,
            threads=s.threads,
            on_disk=on_disk,
            seed=s.seed,
            options=s.options,
            users=self.users,
        )
        path, outcome = kept / "build.json", kept / "outcome.json"
        path.write_bytes(msgspec.json.encode(plan))
        outcome.unlink(missing_ok=True)
        self._run(
            "nanorecsys.scaleup.build_worker",
            [path, outcome],
            f"building {specification} over {n:,} items",
        )
        return msgspec.json.decode(outcome.read_bytes(), type=build_worker.Outcome)

    def _measure(
        self, p: Parts, n: int, outcome: build_worker.Outcome, kept: Path
    ) -> search_worker.Measured:
        s = self.settings
        flat = p.factory == BASELINE
        plan = search_worker.Plan(
            factory=p.factory,
            index=outcome.path,
            n=n,
            queries=str(self.folder / "queries.npy"),
            truth=str(self.folder / f"truth-{n}.npz"),
            settings=grid(p, s.k, n),
            k=s.k,
            floor=s.floor,
            choosing=0 if flat else s.choosing,
            rounds=s.rounds,
            timed=min(s.timed, FLAT_QUERIES) if flat else s.timed,
            threads=s.threads,
            in_memory=4 * n * self.d <= s.memory_gib * 2**30,
            seed=s.seed,
        )
        path = kept / "search.json"
        path.write_bytes(msgspec.json.encode(plan))
        self._run(
            "nanorecsys.scaleup.search_worker", [path], f"searching {p.factory} over {n:,} items"
        )
        return msgspec.json.decode(
            (kept / "measured.json").read_bytes(), type=search_worker.Measured
        )

    def _run(self, module: str, arguments: list[Path], doing: str) -> None:
        pools = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
            str(self.settings.threads),
        )
        # threads that wait do so asleep; FAISS's memory is in large pages as numpy's arrays are,
        # those of exact search among them: lists and codes lie all over it, and each small page
        # would cost a look-up
        environment = (
            os.environ
            | pools
            | {"OMP_WAIT_POLICY": "PASSIVE", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        )
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            env=environment,
        )
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip()[-500:]
            raise AnnError(
                f"{doing} ended with status {done.returncode}: {last}",
                "Status -9 is memory that ran out: take fewer items. A new run takes up what is done.",
            )

    def _row(
        self,
        p: Parts,
        n: int,
        on_disk: bool,
        outcome: build_worker.Outcome,
        found: search_worker.Measured,
    ) -> Row:
        read = found.read_bytes
        return Row(
            generator=self.generator,
            n=n,
            factory=p.factory + (" on disk" if on_disk else ""),
            family=p.family + (", on disk" if on_disk else ""),
            search=found.search,
            recall=found.recall,
            p50_ms=found.p50_ms,
            p99_ms=found.p99_ms,
            queries_per_s=found.queries_per_s,
            bytes_a_vector=outcome.index_bytes / n,
            build_s=outcome.build_s + outcome.shared_s,
            shared_s=outcome.shared_s,
            build_peak_gib=outcome.peak_bytes / 2**30,
            search_peak_gib=found.peak_bytes / 2**30,
            read_mib=None if read is None else read / MIB,
            floor_ms=None if read is None else self.limits.read_ms(read, read),
        )


def frames(ladders: Iterable[Ladder]) -> dict[str, pl.DataFrame]:
    """Raw rows of all that was measured, see `search_worker`, with generator, n and index beside them."""
    found = {}
    for name in ("accuracy", "latency"):
        parquets = [
            (ladder, path)
            for ladder in ladders
            for path in sorted(ladder.folder.glob(f"*/*/{name}.parquet"))
        ]
        found[name] = pl.concat(
            pl.read_parquet(path).with_columns(
                generator=pl.lit(ladder.generator),
                n=pl.lit(int(path.parts[-3])),
                index=pl.lit(path.parts[-2]),
            )
            for ladder, path in parquets
        )
    return found


def grid(p: Parts, k: int, n: int) -> list[str]:
    """The settings that an index may try.

    >>> grid(parts("IVF4,SQ8", 1000), 10, 1000)
    ['nprobe=1', 'nprobe=2', 'nprobe=4']
    """
    if p.factory == BASELINE:
        return [""]
    if p.links:
        return [f"efSearch={b}" for b in BEAMS]
    probes = [x for x in PROBES if x <= p.lists]
    factors = [f for f in FACTORS if f * k <= n] if p.refined else [0]
    found = []
    for nprobe in probes:
        coarse = f",quantizer_efSearch={max(16, 2 * nprobe)}" if p.coarse_links else ""
        found += [f"nprobe={nprobe}{coarse}{f',k_factor_rf={f}' if f else ''}" for f in factors]
    return found
