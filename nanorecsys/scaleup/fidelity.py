"""The held-out test: can a generator that sees a tenth of the real items make up the other nine tenths?

A random tenth is kept, the generator expands it tenfold, and the curves of every family of indexes
on that catalogue are held against those on the real one, under the same real users. Over several
hidden subsets, and over several trainings of the indexes, so that their noise stays below the
differences.

What is judged is the search among items that the users have not seen. Their vectors lie close to
what they have seen last, nine tenths of which are hidden with the other items: no generator can
make up for each user what it has seen, and in a catalogue that is expanded from all real items
those are real.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from scipy import stats

from nanorecsys.data import Histories
from nanorecsys.scaleup.curves import (
    FAMILIES,
    Curve,
    mean_curve,
    recall_curves,
    relabelled,
    work_at,
)
from nanorecsys.scaleup.descriptors import Described, copy_share, describe, two_sample_auc
from nanorecsys.scaleup.errors import VectorsError
from nanorecsys.scaleup.generators.neighbours import nearest
from nanorecsys.scaleup.result import Gap, Judged
from nanorecsys.scaleup.shards import generate
from nanorecsys.system.environment import environment
from nanorecsys.system.files import atomic_path

REAL = "real"
JUDGED = ("IVF", "HNSW", "PQ")  # families that the rule reads
WORK_RECALL = 0.95
COPIES = (
    0.05  # of the made-up items that may lie so close to a real one, see `descriptors.copy_share`
)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
FEWEST = 50  # items kept, below which no generator could be judged
RULE = (
    "a generator is believable if in none of IVF, HNSW and PQ its mean recall among what users have not seen is "
    "further from the real one, at any setting, than the bound, and if at most one made-up item in twenty is nearly a "
    "copy"
)
Progress = Callable[[Iterable], Iterable]


@dataclass(frozen=True)
class Settings:
    """How much is tested.

    Args:
        subsets: hidden subsets.
        trainings: of every index on every catalogue.
        kept: share of the real items that a generator sees.
        bound: of the difference in recall.
        seed: of the subsets, the generators and the trainings.
        workers: processes, of one thread each.
        folder: keeps what is done, so that a run that was killed goes on; "" keeps nothing.
    """

    subsets: int = 5
    trainings: int = 2
    kept: float = 0.1
    bound: float = 0.03
    seed: int = 0
    workers: int = 2
    folder: str = ""


@dataclass(frozen=True, eq=False)
class Held:
    """What the test found: curves of the real catalogue, its descriptors, a verdict for each generator, raw rows.

    `noise` is by family the largest difference between one training on the real catalogue and their
    mean.
    """

    real: dict[str, Curve]
    noise: dict[str, float]
    described: Described
    judged: list[Judged]
    rows: pl.DataFrame


@dataclass(frozen=True, eq=False)
class _Task:
    generator: str
    subset: int
    training: int
    seed: int


class _Outcome(msgspec.Struct, frozen=True):
    """Curves of one training; descriptors and the share of copies at the first training of the first subset."""

    curves: dict[str, Curve]
    described: Described | None
    copies: float


def held_out(
    vectors: np.ndarray,
    queries: np.ndarray,
    seen: Histories,
    generators: Sequence[str],
    settings: Settings,
    progress: Progress = iter,
) -> Held:
    """Judge generators.

    Args:
        vectors: real items, unit float32 (n, d).
        queries: real users, unit float32 (q, d).
        seen: CSR by query, real items that the user has seen.
        generators: names of `GENERATORS`.
        settings: how much is tested.
        progress: wraps the results, one a generator, subset and training.

    Raises:
        VectorsError: too few items for the share that is kept.
    """
    kept = round(settings.kept * len(vectors))
    if kept < FEWEST:
        raise VectorsError(
            f"{settings.kept:.0%} of {len(vectors)} items are {kept}, fewer than the {FEWEST} that the test needs",
            "Keep a larger share, or take more items.",
        )
    # every difference is against the mean of these, so it has the noise of many trainings and not
    # of a few
    reals = [
        _Task(REAL, 0, t, settings.seed + t)
        for t in range(max(2, settings.subsets) * settings.trainings)
    ]
    made = [
        _Task(g, s, t, settings.seed + 100 * (s + 1) + t)
        for g in generators
        for s in range(settings.subsets)
        for t in range(settings.trainings)
    ]
    tasks = [*reals, *made]
    with (
        environment(ONE_THREAD),  # of every library, in each process
        ProcessPoolExecutor(
            settings.workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_take,
            initargs=(vectors, queries, seen, settings),
        ) as pool,
    ):
        results = list(progress(pool.map(_run_or_read, tasks)))
    found = list(zip(tasks, results, strict=True))
    trained = [outcome.curves for task, outcome in found if task.generator == REAL]
    real = {f: mean_curve([c[f] for c in trained]) for f in FAMILIES}
    noise = {
        f: float(max(np.abs(np.subtract(c[f].recall, real[f].recall)).max() for c in trained))
        for f in FAMILIES
    }
    described = next(
        o.described for task, o in found if task.generator == REAL and o.described is not None
    )
    judged = [
        _judge(g, [(task, result) for task, result in found if task.generator == g], real, settings)
        for g in generators
    ]
    return Held(real, noise, described, judged, _rows(found))


def subset(vectors: np.ndarray, settings: Settings, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are kept and those that are hidden, in random order."""
    order = np.random.default_rng((settings.seed, number)).permutation(len(vectors))
    kept = round(settings.kept * len(vectors))
    return order[:kept], order[kept:]


def choose(judged: Sequence[Judged]) -> Judged:
    """The generator to take: the least far off of the believable ones, else of those that do not copy, else of all."""
    believable = [j for j in judged if j.believable]
    return min(
        believable or [j for j in judged if j.copies <= COPIES] or judged, key=lambda j: j.worst
    )


_shared: dict[str, Any] = {}


def _take(vectors: np.ndarray, queries: np.ndarray, seen: Histories, settings: Settings) -> None:
    _shared.update(vectors=vectors, queries=queries, seen=seen, settings=settings)


def _run_or_read(task: _Task) -> _Outcome:
    settings: Settings = _shared["settings"]
    if not settings.folder:
        return _run(task)
    path = Path(settings.folder) / f"{task.generator}-{task.subset}-{task.training}.json"
    if not path.exists():
        with atomic_path(path) as part:
            part.write_bytes(msgspec.json.encode(_run(task)))
    return msgspec.json.decode(path.read_bytes(), type=_Outcome)


def _run(task: _Task) -> _Outcome:
    vectors, queries, seen, settings = (
        _shared[name] for name in ("vectors", "queries", "seen", "settings")
    )
    first = task.training == 0 and task.subset == 0
    if task.generator == REAL:
        described = describe(vectors, queries, seen, 0) if first else None
        return _Outcome(recall_curves(vectors, queries, seen, task.seed), described, 0.0)
    kept, hidden = subset(vectors, settings, task.subset)
    catalogue = generate(
        vectors[kept], len(vectors), task.generator, settings.seed + task.subset, threads=1
    )
    rows = np.full(len(vectors), -1)
    rows[kept] = np.arange(len(kept))
    seen = relabelled(seen, rows)
    described, copies = None, 0.0
    if first:
        new = catalogue[len(kept) :]
        described = describe(catalogue, queries, seen, 0, two_sample_auc(new, vectors[hidden], 0))
        copies = copy_share(new, vectors[kept], float(np.median(nearest(vectors, 2)[1][:, 1])))
    return _Outcome(recall_curves(catalogue, queries, seen, task.seed), described, copies)


def _judge(
    generator: str, found: list[tuple[_Task, _Outcome]], real: dict[str, Curve], settings: Settings
) -> Judged:
    gaps = []
    for family in FAMILIES:
        by_subset = [
            mean_curve([outcome.curves[family] for task, outcome in found if task.subset == s])
            for s in range(settings.subsets)
        ]
        gaps.append(_gap(family, by_subset, real[family]))
    first = next(outcome for _, outcome in found if outcome.described is not None)
    judged = [g for g in gaps if g.family in JUDGED]
    worst = max(abs(g.largest) for g in judged)
    worst_all = max(
        np.abs(np.subtract(g.curve.recall_all, real[g.family].recall_all)).max() for g in judged
    )
    off = [g.family for g in judged if abs(g.largest) > settings.bound]
    reasons = [f"{' and '.join(off)} too far off"] if off else []
    if first.copies > COPIES:
        reasons.append(f"{first.copies:.0%} of its items are nearly copies")
    return Judged(
        generator=generator,
        gaps=gaps,
        worst=worst,
        worst_all=float(worst_all),
        described=first.described,
        copies=first.copies,
        believable=not reasons,
        reason="; ".join(reasons) or "within the bound in every family",
    )


def _gap(family: str, by_subset: list[Curve], real: Curve) -> Gap:
    mean = mean_curve(by_subset)
    differences = np.array([c.recall for c in by_subset]) - real.recall
    at = int(np.abs(differences.mean(axis=0)).argmax())
    values = differences[:, at]
    half = 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    mine, theirs = work_at(mean, WORK_RECALL), work_at(real, WORK_RECALL)
    return Gap(
        family=family,
        largest=float(values.mean()),
        setting=mean.settings[at],
        low=float(values.mean() - half),
        high=float(values.mean() + half),
        by_subset=values.tolist(),
        work_ratio=None if mine is None or theirs is None else mine / theirs,
        curve=mean,
    )


def _rows(found: list[tuple[_Task, _Outcome]]) -> pl.DataFrame:
    """One row a catalogue, training, family and setting, with recall, work and the recall among all items."""
    rows = [
        (task.generator, task.subset, task.training, family, *point)
        for task, outcome in found
        for family, c in outcome.curves.items()
        for point in zip(c.settings, c.recall, c.work, c.recall_all, strict=True)
    ]
    names = ("generator", "subset", "training", "family", "setting", "recall", "work", "recall_all")
    return pl.DataFrame(rows, schema=names, orient="row")
