"""The held-out test: can a generator that sees a tenth of the real items make up the others?

A random tenth is kept, and the generator expands it tenfold. The recall curves of every family of
indexes on that catalogue are compared with those on the real one, under the same real users. The
test is repeated over several hidden subsets and trainings of the indexes, so that their noise stays
below the differences.

The test judges the search among items that the users have not seen. User vectors lie close to what
the users saw last, and nine tenths of that is hidden with the other items. No generator can make it
up for each user, and in a catalogue that is expanded from all real items it is real.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from nanorecsys.ann.bench import THREAD_VARIABLES, call_once, fingerprint
from nanorecsys.data import Histories
from nanorecsys.scaleup.catalogue import generate
from nanorecsys.scaleup.curves import FAMILIES, recall_curves, relabelled
from nanorecsys.scaleup.descriptors import Description, copy_share, describe, two_sample_auc
from nanorecsys.scaleup.errors import GeneratorInputError
from nanorecsys.scaleup.generators.neighbourhoods import nearest
from nanorecsys.scaleup.result import Gap, Judged
from nanorecsys.system.environment import environment

REAL = "real"
COPIES = 0.05  # share of synthetic items that may be almost copies, see `descriptors.copy_share`
FEWEST = 50  # items that must be kept
RULE = (
    "a generator is believable if in none of IVF, HNSW and PQ its mean recall among what users "
    "have not seen is further from the real one, at any setting, than the bound, and if at most "
    "one synthetic item in twenty is almost a copy"
)
CURVE = ["family", "setting"]


@dataclass(frozen=True, eq=False)
class HeldOutTest:
    """The real catalogue, its users, and how much to test.

    Args:
        vectors: Real items, unit float32 (n, d).
        queries: Real users, unit float32 (q, d).
        seen: CSR by query, real items that the user has seen.
        subsets: Number of hidden subsets.
        trainings: Trainings of every index on every catalogue.
        kept: Share of the real items that a generator sees.
        bound: Difference in recall that lets a generator be believed.
        seed: Random seed of the subsets, generators and trainings.
        workers: Processes, of one thread each.
    """

    vectors: np.ndarray
    queries: np.ndarray
    seen: Histories
    subsets: int = 5
    trainings: int = 2
    kept: float = 0.1
    bound: float = 0.03
    seed: int = 0
    workers: int = 2

    def split(self, subset: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that are kept and those that are hidden, in random order."""
        order = np.random.default_rng((self.seed, subset)).permutation(len(self.vectors))
        kept = round(self.kept * len(self.vectors))
        return order[:kept], order[kept:]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Results of the test.

    Args:
        noise: By family, the largest difference of one training on the real catalogue from the
            mean.
        description: Description of the real catalogue.
        judged: Verdict on each generator.
        rows: The columns of `recall_curves` with generator, subset and training.
    """

    noise: dict[str, float]
    description: Description | None
    judged: list[Judged]
    rows: pd.DataFrame


@dataclass(frozen=True)
class Training:
    """One training of all indexes on the catalogue of a generator and a hidden subset."""

    generator: str
    subset: int
    number: int
    seed: int

    @property
    def first(self) -> bool:
        """Whether the catalogue is described as well, which is done once per generator."""
        return self.subset == self.number == 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """Curves of a training; the description and the share of copies if it is the first."""

    curves: pd.DataFrame
    description: Description | None = None
    copies: float = 0.0


def judge_generators(test: HeldOutTest, generators: Sequence[str], folder: Path) -> Verdicts:
    """Judge generators, with a progress bar.

    Args:
        test: The test.
        generators: Names of `GENERATORS`.
        folder: Folder with a file per training, from which a killed run goes on with the same
            test.

    Raises:
        GeneratorInputError: There are too few items for the share that is kept.
    """
    kept = round(test.kept * len(test.vectors))
    if kept < FEWEST:
        raise GeneratorInputError(
            f"{test.kept:.0%} of {len(test.vectors)} items are {kept}, but the test needs {FEWEST}",
            "Keep a larger share, or use more items.",
        )
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
        ProcessPoolExecutor(test.workers, context) as pool,
    ):
        keep = partial(_keep_training, folder / fingerprint(test), test)
        running = pool.map(keep, trainings)
        outcomes = list(tqdm(running, "held-out test", len(trainings)))
    rows = pd.concat(
        [
            outcome.curves.assign(generator=t.generator, subset=t.subset, training=t.number)
            for t, outcome in zip(trainings, outcomes, strict=True)
        ],
        ignore_index=True,
    )
    of_real = rows[rows["generator"] == REAL].set_index(CURVE)
    real = of_real.groupby(CURVE)[["recall", "recall_all"]].mean()
    noise = (of_real["recall"] - real["recall"]).abs().groupby("family").max()
    first = {t.generator: o for t, o in zip(trainings, outcomes, strict=True) if t.first}
    judged = [_judge(first[name], name, rows, real, test.bound) for name in generators]
    return Verdicts(noise.to_dict(), first[REAL].description, judged, rows)


def _keep_training(folder: Path, test: HeldOutTest, training: Training) -> Outcome:
    name = f"{training.generator}-{training.subset}-{training.number}"
    return call_once(folder / name, train, test, training)


def train(test: HeldOutTest, training: Training) -> Outcome:
    """Measure the curves of one training, in a worker process."""
    vectors, queries, seen = test.vectors, test.queries, test.seen
    if training.generator == REAL:
        description = describe(vectors) if training.first else None
        return Outcome(recall_curves(vectors, queries, seen, training.seed), description)
    kept, hidden = test.split(training.subset)
    made_with = test.seed + training.subset
    catalogue = generate(vectors[kept], len(vectors), training.generator, made_with, threads=1)
    rows = np.full(len(vectors), -1)
    rows[kept] = np.arange(len(kept))
    curves = recall_curves(catalogue, queries, relabelled(seen, rows), training.seed)
    if not training.first:
        return Outcome(curves)
    new = catalogue[len(kept) :]
    description = describe(catalogue, two_sample_auc(new, vectors[hidden], 0))
    usual = float(np.median(nearest(vectors, 2)[1][:, 1]))
    return Outcome(curves, description, copy_share(new, vectors[kept], usual))


def choose(judged: Sequence[Judged]) -> Judged:
    """Choose the least wrong of the believable generators, else of those that do not copy."""
    believable = [j for j in judged if j.believable]
    original = [j for j in judged if j.copies <= COPIES]
    return min(believable or original or judged, key=lambda j: j.worst)


def _judge(
    first: Outcome, generator: str, rows: pd.DataFrame, real: pd.DataFrame, bound: float
) -> Judged:
    own = rows[rows["generator"] == generator]
    by_subset = own.groupby([*CURVE, "subset"])["recall"].mean().unstack()
    differences = by_subset.sub(real["recall"], axis=0)
    gaps = [_gap(family, differences.loc[family]) for family in FAMILIES]
    off = [gap.family for gap in gaps if abs(gap.largest) > bound]
    reasons = [f"{' and '.join(off)} too far off"] if off else []
    if first.copies > COPIES:
        reasons.append(f"{first.copies:.0%} of its items are almost copies")
    with_seen = own.groupby(CURVE)["recall_all"].mean() - real["recall_all"]
    return Judged(
        generator=generator,
        gaps=gaps,
        worst=max(abs(gap.largest) for gap in gaps),
        worst_all=float(with_seen.abs().max()),
        description=first.description,
        copies=first.copies,
        believable=not reasons,
        reason="; ".join(reasons) or "within the bound in every family",
    )


def _gap(family: str, differences: pd.DataFrame) -> Gap:
    """Find the largest mean difference; rows are settings, columns hidden subsets."""
    setting = differences.mean(axis=1).abs().idxmax()
    values = differences.loc[setting].to_numpy()
    mean, half = float(values.mean()), 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Gap(
        family=family,
        largest=mean,
        setting=int(setting),
        low=mean - half,
        high=mean + half,
        by_subset=values.tolist(),
    )
