"""The held-out test: can a generator that sees a tenth of the real items make up the others?

A random tenth is kept, and the generator expands it tenfold. Every index of the chapter is built on
that catalogue and on the real one, and the same real users search both. A case is an index at one
setting and one metric (see `curves`), and its difference is the mean recall in the made-up
catalogues minus that in the real one.

The largest difference of any case judges a generator. Its interval is over users, hidden subsets
and trainings of the indexes, which a bootstrap draws at once. The same users search both
catalogues, so their differences are paired.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nanorecsys.ann.bench import call_once, fingerprint, start_worker
from nanorecsys.scaleup.catalogue import generate
from nanorecsys.scaleup.curves import Case, relabelled, user_recalls
from nanorecsys.scaleup.datasets import RealCatalogue
from nanorecsys.scaleup.generators import nearest
from nanorecsys.scaleup.result import BELIEFS, Belief, Difference, Fidelity, Judged
from nanorecsys.study.provenance import THREAD_VARIABLES
from nanorecsys.study.spread import Interval
from nanorecsys.system.environment import environment

REAL = "real"
COPY = 0.5  # an item closer to a real one than this share of the usual distance is almost a copy
COPIES = 0.05  # share of synthetic items that may be almost copies
KEPT = 0.1  # share of the real items that a generator sees
BOUND = 0.03  # difference in recall that lets a generator be believed
FEWEST = 50  # items that are kept, unless they are more than half
LEVEL = 0.95  # coverage of every interval
RESAMPLES = 2000
RULE = (
    "A generator is believable if every index of this chapter finds as much in its catalogues as "
    "in the real one, at every setting, among unseen items and among all. The interval of the "
    "largest difference has to lie inside the bound, on every data set, and at most one synthetic "
    "item in twenty may be almost a copy. An interval outside the bound refutes a generator, one "
    "that crosses it leaves the verdict undecided."
)


@dataclass(frozen=True, eq=False)
class HeldOutTest:
    """The real catalogue, its users, and how much to test.

    Args:
        real: Real items and users.
        indexes: Specifications, one of each family.
        subsets: Number of hidden subsets.
        trainings: Trainings of every index on every catalogue.
        kept: Share of the real items that a generator sees.
        seed: Random seed of the subsets, generators and trainings.
        workers: Processes, of one thread each.
    """

    real: RealCatalogue
    indexes: tuple[str, ...]
    subsets: int = 5
    trainings: int = 2
    kept: float = KEPT
    seed: int = 0
    workers: int = 2

    def expanded(self, generator: str, subset: int) -> tuple[np.ndarray, np.ndarray]:
        """Keep some real items, and expand them to the size of the real catalogue.

        Returns:
            Rows of the real items that are kept, int (kept,), in random order; and the catalogue,
            unit float32 (n, d), whose first items they are.
        """
        n = len(self.real.vectors)
        kept = np.random.default_rng((self.seed, subset)).permutation(n)[: kept_items(self.kept, n)]
        given, seed = self.real.vectors[kept], self.seed + subset
        return kept, generate(given, n, generator, seed, threads=1)

    def copies(self, generator: str) -> float:
        """Share of the items of a generator that are almost copies of real ones."""
        kept, catalogue = self.expanded(generator, subset=0)
        usual = float(np.median(nearest(self.real.vectors, 2)[1][:, 1]))
        return copy_share(catalogue[len(kept) :], catalogue[: len(kept)], usual)


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Results of the test on one data set.

    Args:
        judged: Judgement of each generator.
        rows: Mean recall by generator, subset, training, family, setting and metric.
        recalls: Recall of each user, float32 (trainings, cases, users), in the order of `rows`.
    """

    judged: dict[str, Fidelity]
    rows: pd.DataFrame
    recalls: np.ndarray


@dataclass(frozen=True)
class Training:
    """One training of all indexes on the catalogue of a generator and a hidden subset."""

    generator: str
    subset: int
    number: int
    seed: int


def kept_items(share: float, n: int) -> int:
    """Items of n that a generator sees: a share of them, or more of a small catalogue.

    >>> kept_items(0.1, 9_066), kept_items(0.1, 300), kept_items(0.1, 60)
    (907, 50, 30)
    """
    return max(round(share * n), min(FEWEST, n // 2))


def judge_generators(test: HeldOutTest, generators: Sequence[str], folder: Path) -> Verdicts:
    """Judge generators on one data set, with a progress bar.

    Args:
        test: The test.
        generators: Names of `GENERATORS`.
        folder: Folder with a file per training, from which a killed run goes on with the same
            test.
    """
    # Every difference is against the mean of these, so it should have the noise of many trainings.
    repeats = max(2, test.subsets) * test.trainings
    trainings = [Training(REAL, 0, t, test.seed + t) for t in range(repeats)]
    trainings += [
        Training(name, subset, t, test.seed + 100 * (subset + 1) + t)
        for name in generators
        for subset in range(test.subsets)
        for t in range(test.trainings)
    ]
    context = multiprocessing.get_context("spawn")
    with (
        environment(dict.fromkeys(THREAD_VARIABLES, "1")),
        ProcessPoolExecutor(test.workers, context, start_worker) as pool,
    ):
        kept = folder / fingerprint(test)
        paths = [kept / f"{t.generator}-{t.subset}-{t.number}" for t in trainings]
        running = pool.map(call_once, paths, repeat(train), repeat(test), trainings)
        found = list(tqdm(running, f"held-out test, {test.real.name}", len(trainings)))
    cases = list(found[0])
    recalls = np.stack([np.stack([own[case] for case in cases]) for own in found])
    rows = pd.DataFrame(
        [
            (t.generator, t.subset, t.number, *case, recall)
            for t, own in zip(trainings, recalls.mean(axis=2), strict=True)
            for case, recall in zip(cases, own, strict=True)
        ],
        columns=["generator", "subset", "training", "family", "setting", "metric", "recall"],
    )
    of = np.array([t.generator for t in trainings])
    judged = {}
    for name in generators:
        shape = (test.subsets, test.trainings, *recalls.shape[1:])
        made = recalls[of == name].reshape(shape).mean(axis=1)
        worst, largest = differences(cases, made, recalls[of == REAL], test.seed)
        copies = test.copies(name)
        said = verdict(worst, copies, BOUND)
        judged[name] = Fidelity(worst=worst, largest=largest, copies=copies, verdict=said)
    return Verdicts(judged, rows, recalls)


def train(test: HeldOutTest, training: Training) -> dict[Case, np.ndarray]:
    """Measure the users' recalls after one training, in a worker process."""
    real = test.real
    catalogue, seen = real.vectors, real.seen
    if training.generator != REAL:
        kept, catalogue = test.expanded(training.generator, training.subset)
        rows = np.full(len(catalogue), -1)
        rows[kept] = np.arange(len(kept))
        seen = relabelled(seen, rows)
    return user_recalls(catalogue, real.queries, seen, real.apart, test.indexes, seed=training.seed)


def copy_share(made: np.ndarray, given: np.ndarray, distance: float) -> float:
    """Return the share of synthetic items closer to a given item than `COPY` times a distance.

    Args:
        made: Synthetic items, unit float32 (a, d).
        given: Items that the generator was fitted on, unit float32 (b, d).
        distance: Usual distance from a real item to the nearest other one.
    """
    closest = (made @ given.T).max(axis=1)
    return float((np.sqrt(np.maximum(2 - 2 * closest, 0)) < COPY * distance).mean())


def differences(
    cases: Sequence[Case], made: np.ndarray, real: np.ndarray, seed: int = 0
) -> tuple[Interval, list[Difference]]:
    """Compare recalls in made-up catalogues with those in the real one, case by case.

    The upper end of the worst case is the farthest end of any case's own interval: a generator is
    believed only if every case is inside the bound, which needs no correction for their number. The
    lower end allows for the largest deviation among all cases, so that one noisy case of many does
    not refute a generator.

    Args:
        cases: Labels of the cases.
        made: Recalls by hidden subset, float32 (subsets, cases, users).
        real: Recalls by training on the real catalogue, float32 (trainings, cases, users).
        seed: Random seed of the bootstrap.

    Returns:
        Size of the largest difference with its interval, and for each family and metric the
        setting with the largest one.
    """
    found = (made.mean(axis=0) - real.mean(axis=0)).mean(axis=1)  # (cases,)
    resampled = _resampled(made, real, seed)
    tail = (1 - LEVEL) / 2
    size, sizes = np.abs(found), np.abs(resampled)
    deviation = np.quantile(np.abs(resampled - found).max(axis=1), LEVEL)
    farthest = np.quantile(sizes, 1 - tail, axis=0).max()
    worst = Interval(
        float(size.max()), float(max(size.max() - deviation, 0)), float(max(size.max(), farthest))
    )
    ends = np.quantile(resampled, (tail, 1 - tail), axis=0)
    table = pd.DataFrame(cases, columns=["family", "setting", "metric"])
    table["interval"] = [Interval(*map(float, own)) for own in zip(found, *ends, strict=True)]
    order = [table["family"], table["metric"]]
    largest = table.loc[pd.Series(size).groupby(order, sort=False).idxmax()]
    return worst, [Difference(**row) for row in largest.to_dict("records")]


def _resampled(made: np.ndarray, real: np.ndarray, seed: int) -> np.ndarray:
    """Draw users, hidden subsets and trainings with replacement, (RESAMPLES, cases).

    Drawing both at once makes the intervals rather too wide than too narrow (Owen 2007, "The
    pigeonhole bootstrap").
    """
    rng = np.random.default_rng(seed)

    def shares(count: int) -> np.ndarray:
        drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
        return (drawn / count).astype(np.float32)

    users = shares(made.shape[2])
    means = []
    for own in (made, real):
        by_repeat = np.einsum("bu,rcu->brc", users, own, optimize=True)
        means.append(np.einsum("br,brc->bc", shares(len(own)), by_repeat))
    return means[0] - means[1]


def verdict(worst: Interval, copies: float, bound: float) -> Belief:
    """Judge a generator on one data set by its worst case and its share of copies.

    >>> [verdict(Interval(0.02, 0.01, high), 0.0, 0.03) for high in (0.03, 0.04)]
    ['believable', 'undecided']
    """
    if copies > COPIES or worst.low > bound:
        return "not believable"
    return "believable" if worst.high <= bound else "undecided"


def combined(by_set: Mapping[str, Verdicts]) -> list[Judged]:
    """Judge each generator over all data sets, the first of which chose its settings."""
    found = []
    for name in next(iter(by_set.values())).judged:
        own = {dataset: verdicts.judged[name] for dataset, verdicts in by_set.items()}
        first = next(iter(own.values()))
        found.append(
            Judged(
                generator=name,
                worst=first.worst.estimate,
                verdict=max((f.verdict for f in own.values()), key=BELIEFS.index),
                by_set=own,
            )
        )
    return found


def choose(judged: Sequence[Judged]) -> Judged:
    """Choose the generator that is least wrong on the first data set, if possible no copier."""
    original = [j for j in judged if next(iter(j.by_set.values())).copies <= COPIES]
    return min(original or judged, key=lambda j: j.worst)


def worst_case(judged: Fidelity) -> Difference:
    """Return the largest difference of any family and metric."""
    return max(judged.largest, key=lambda own: abs(own.interval.estimate))
