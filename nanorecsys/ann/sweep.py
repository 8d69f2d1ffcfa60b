"""A sweep over indexes: each built in a process of its own, all measured in another, raw rows kept.

sweep = Sweep(folder, corpus, queries, task, settings)
built = sweep.build(specs)              # seconds, bytes, memory; or a named error
rows = sweep.measure(built)             # recall, ranks, latency
again = sweep.confirm(points, rounds)   # a few points, taking turns
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from nanorecsys.ann.build_worker import Outcome, Request
from nanorecsys.ann.corpus import Corpus, Queries
from nanorecsys.ann.errors import AnnError
from nanorecsys.ann.indexes import BuildOptions, check_neighbours
from nanorecsys.ann.limits import Limits
from nanorecsys.ann.measure_worker import Entry, Finished, Plan, Point
from nanorecsys.ann.result import Failure
from nanorecsys.ann.specs import BASELINE, Specification, settings
from nanorecsys.evaluation import Task

POINTS = {"point": pl.Int32, "factory": pl.String, "family": pl.String, "search": pl.String}
Progress = Callable[[Iterable], Iterable]


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        k: neighbours asked for.
        points: search settings a specification may try, the same for all.
        rounds: of everything timed.
        queries: one at a time, of each point in each round.
        threads: of building, and of the throughput measure.
        seed: of orders and samples.
        options: bounds of the builds.
    """

    k: int = 100
    points: int = 8
    rounds: int = 3
    queries: int = 300
    threads: int = 2
    seed: int = 0
    options: BuildOptions = field(default_factory=BuildOptions)


@dataclass(frozen=True)
class Built:
    """An index in the sweep's folder, and what building it took; bytes are those of its file and of resident memory."""

    spec: Specification
    file: str
    build_s: float
    save_s: float
    index_bytes: int
    peak_bytes: int


@dataclass(frozen=True, eq=False)
class Measured:
    """Raw rows by name (see `measure_worker`), the points they are of, the limits, and what failed.

    `points` has the columns point, factory, family, search.
    """

    points: pl.DataFrame
    rows: dict[str, pl.DataFrame]
    limits: Limits
    failures: list[Failure]


class Sweep:
    """One corpus with its queries, in a folder that the sweep makes its own."""

    def __init__(
        self,
        folder: Path,
        corpus: Corpus,
        queries: Queries,
        task: Task | None,
        settings: Settings,
        training: Queries | None = None,
    ) -> None:
        """Write what the processes read.

        Args:
            folder: for vectors and indexes; may be deleted afterwards.
            corpus: what is searched.
            queries: with what.
            task: whose held-out items are ranked, one a user; None for no ranks.
            settings: how much is measured.
            training: of other users, which indexes may be fitted on.

        Raises:
            AnnError: a user is among both.
            NeighboursError: more neighbours asked for than there are vectors.
        """
        check_neighbours(settings.k, len(corpus.vectors))
        if training is not None and len(shared := np.intersect1d(training.users, queries.users)):
            raise AnnError(
                f"{len(shared)} users are both fitted on and measured",
                "Use nanorecsys.ann.corpus.set_apart.",
            )
        self.folder, self.settings = folder, settings
        self.n = len(corpus.vectors)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "corpus.npy", corpus.vectors)
        np.save(folder / "queries.npy", queries.vectors)
        self.training = "" if training is None else str(folder / "training_queries.npy")
        if training is not None:
            np.save(self.training, training.vectors)
        if task is not None:
            np.savez(folder / "task.npz", **_task_arrays(task, queries))

    def build(
        self, specs: Sequence[Specification], progress: Progress = iter
    ) -> tuple[dict[str, Built], list[Failure]]:
        """Build every specification; one that fails is written down by its error's name.

        Args:
            specs: Flat among them.
            progress: wraps them, to show how far it is.

        Raises:
            AnnError: Flat itself failed, so that nothing could be measured against it.
        """
        built, failures = {}, []
        for number, spec in enumerate(progress(specs)):
            outcome = self._build(spec.factory, f"{number}.index")
            if outcome.error:
                failures.append(Failure(spec.factory, outcome.error, outcome.message))
                continue
            o = outcome
            built[spec.factory] = Built(
                spec, f"{number}.index", o.build_s, o.save_s, o.index_bytes, o.peak_bytes
            )
        if BASELINE not in built:
            reason = next(
                (f.message for f in failures if f.factory == BASELINE),
                "it is not among the specifications",
            )
            raise AnnError(
                f"the baseline {BASELINE} was not built: {reason}",
                "Mend the vectors; all is held against it.",
            )
        return built, failures

    def measure(self, built: dict[str, Built], progress: Progress = iter) -> Measured:
        """Measure every built index at its settings, all points in every round.

        Args:
            built: what `build` returned.
            progress: wraps the lines that the measuring process prints, one a point and round.
        """
        entries, rows, number = [], [], 0
        for factory, index in built.items():
            points = []
            for search in settings(factory, self.settings.points):
                points.append(Point(number, search))
                rows.append((number, factory, index.spec.family, search))
                number += 1
            entries.append(Entry(factory, index.file, points))
        table = pl.DataFrame(rows, schema=POINTS, orient="row")
        s = self.settings
        plan = Plan(
            entries=entries,
            k=s.k,
            cutoffs=sorted({min(10, s.k), s.k}),
            rounds=s.rounds,
            queries=s.queries,
            threads=s.threads,
            seed=s.seed,
        )
        return self._run(plan, table, progress)

    def confirm(
        self,
        built: dict[str, Built],
        chosen: pl.DataFrame,
        rounds: int,
        progress: Progress = iter,
    ) -> Measured:
        """Time a few points again, one query at a time, taking turns, with Flat on a tenth of the vectors (point -1).

        Args:
            built: what `build` returned.
            chosen: rows of `Measured.points`.
            rounds: of all of them.
            progress: wraps the lines that the measuring process prints.
        """
        entries = [
            Entry(
                factory,
                built[factory].file,
                [Point(*row) for row in points.select("point", "search").rows()],
            )
            for (factory,), points in chosen.group_by("factory", maintain_order=True)
        ]
        s = self.settings
        plan = Plan(
            entries=entries,
            k=s.k,
            cutoffs=[],
            rounds=rounds,
            queries=s.queries,
            threads=s.threads,
            alternate=True,
            tenth=self.n >= 10 * s.k,
            seed=s.seed + 1,
        )
        return self._run(plan, chosen, progress)

    def _build(self, factory: str, name: str) -> Outcome:
        s = self.settings
        options = replace(s.options, threads=s.threads)
        vectors, out = str(self.folder / "corpus.npy"), str(self.folder / name)
        request = Request(factory, vectors, out, s.k, options, self.training)
        path = self.folder / "request.json"
        path.write_bytes(msgspec.json.encode(request))
        command = [sys.executable, "-m", "nanorecsys.ann.build_worker", str(path)]
        done = subprocess.run(command, capture_output=True, env=_environment(s.threads))
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return Outcome(
                error="CrashError", message=f"the build ended with status {done.returncode}: {last}"
            )
        return msgspec.json.decode(done.stdout, type=Outcome)

    def _run(self, plan: Plan, points: pl.DataFrame, progress: Progress) -> Measured:
        path = self.folder / "plan.json"
        for old in self.folder.glob("*.parquet"):
            old.unlink()
        path.write_bytes(msgspec.json.encode(plan))
        command = [sys.executable, "-m", "nanorecsys.ann.measure_worker", str(path)]
        log = self.folder / "measure.log"
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(plan.threads),
            ) as process,
        ):
            for _ in progress(process.stdout):
                continue
        if process.returncode:
            raise AnnError(
                f"measuring ended with status {process.returncode}: {log.read_text(errors='replace').strip()[-500:]}",
                "Status -9 is memory that ran out: take fewer vectors or specifications.",
            )
        finished = msgspec.json.decode((self.folder / "finished.json").read_bytes(), type=Finished)
        named = {
            number: f"{factory} {search}"
            for number, factory, _, search in points.select(*POINTS).rows()
        }
        failures = [
            Failure(named[n].strip(), error, message)
            for n, (error, message) in finished.failures.items()
        ]
        rows = {p.stem: pl.read_parquet(p) for p in sorted(self.folder.glob("*.parquet"))}
        failed = list(finished.failures)
        return Measured(
            points.filter(~pl.col("point").is_in(failed)), rows, finished.limits, failures
        )


def _task_arrays(task: Task, queries: Queries) -> dict[str, np.ndarray]:
    """Vectors after whole histories, seen items as CSR, and the first held-out item, of each user of the queries."""
    users = queries.users
    seen = task.seen.take(users)
    return {
        "users": users,
        "vectors": queries.whole,
        "offsets": seen.offsets,
        "items": seen.items,
        "targets": task.targets.items[task.targets.offsets[users]],
    }


def _environment(threads: int) -> dict[str, str]:
    """Thread pools of the libraries begin at this size; how many of a pool work is set call by call.

    Threads that wait do so asleep: k-means by threads that spin takes ten times as long where
    another process has work.
    """
    pools = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)
    )
    return os.environ | pools | {"OMP_WAIT_POLICY": "PASSIVE"}
