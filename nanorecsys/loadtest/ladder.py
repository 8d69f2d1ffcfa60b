"""The ladder from the original's servers in kind to the final one, and threads and workers."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanorecsys.loadtest.bundles import CHOSEN, FP32, IN_KIND, SERVED, Bundles
from nanorecsys.loadtest.errors import LoadTestError
from nanorecsys.loadtest.result import BASELINE, LAST, ONNX, PYTORCH

STEP, LARGEST_STEP = 1.2, 2.0  # first and largest ratio of rates before they bracket the highest
TRIES = 16  # tries of a search, at most
DEADLINE_MS = 150.0  # longest wait in the queue of a server that rejects early
PATIENT_MS = 60_000.0  # the same of a server that rejects nothing in time
UNKNOWN = ("not measured",)  # in place of findings


@dataclass(frozen=True)
class Rung:
    """A server by its settings; the defaults are the original's PyTorch server in kind.

    All servers have a cache, and compute equal requests once.

    Args:
        name: Name in the record.
        before: Name of the rung that it is compared with.
        change: What is new against that rung.
        findings: Ids of the findings that say what the change does to quality; none if it changes
            the speed alone.
        without: Ids of the findings about parts that this rung leaves out.
        engine: Engine of the server: onnx, torch or torch-padded.
        bundle: Name of its bundle, see `bundles`; histories are padded to the window in kind.
        whole_window: Whether all events of the window are read, or only as many as the bundle says.
        threads: Compute threads of a worker; 0 computes on the event loop, which blocks it.
        max_batch: Largest micro-batch.
        workers: Number of worker processes.
        is_patient: Whether requests may queue for long; otherwise a deadline rejects them early.
    """

    name: str = PYTORCH
    before: str = ""
    change: str = "in kind: padded to the window, every position, a ranker"
    findings: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    engine: str = "torch-padded"
    bundle: str = IN_KIND
    whole_window: bool = True
    threads: int = 0
    max_batch: int = 1
    workers: int = 1
    is_patient: bool = True

    def arguments(self, bundles: Bundles) -> list[object]:
        """List the arguments of `python -m server`.

        The caches together keep the answers of half of the users, so a cold user who returns after
        all others is cold again.
        """
        values: dict[str, object] = {
            "--bundle": bundles.folders[self.bundle],
            "--engine": self.engine,
            "--models": bundles.models,
            "--threads": self.threads,
            "--max-batch": self.max_batch,
            "--workers": self.workers,
            "--deadline-ms": PATIENT_MS if self.is_patient else DEADLINE_MS,
            "--cache-size": max(1, len(bundles.served.user_ids) // (2 * self.workers)),
            "--read-events": bundles.served.window if self.whole_window else 0,
            "--lame-duck-s": 0,
        }
        pad = "--pad" if self.bundle == IN_KIND else "--no-pad"
        compiled = "--compile" if self.engine == "torch" else "--no-compile"
        return [*(part for pair in values.items() for part in pair), pad, compiled]

    def then(self, name: str, change: str, **changed: Any) -> "Rung":
        """Make a rung that is compared with this one and differs in the changed settings."""
        told = {"before": self.name, "findings": (), "without": ()}
        return dataclasses.replace(self, name=name, change=change, **told | changed)


ORIGINAL_PYTORCH = Rung()
ORIGINAL_ONNX = ORIGINAL_PYTORCH.then(
    ONNX,
    "in kind: int8 export, a thread, two workers",
    engine="onnx",
    threads=1,
    workers=2,
    findings=UNKNOWN,
)
OWN_LENGTHS = ORIGINAL_PYTORCH.then(
    "ONNX, no padding",
    "the served models in ONNX Runtime, own lengths, last position",
    engine="onnx",
    bundle=FP32,
    without=("training.ranker",),
)
INT8 = OWN_LENGTHS.then(
    "int8 encoder", "weights and activations in 8 bits", bundle=CHOSEN, findings=("export.int8",)
)
LAST_EVENTS = INT8.then(
    "last events only",
    "as many events as validation needs, not the window",
    whole_window=False,
    findings=("training.events_read",),
)
THREAD = LAST_EVENTS.then(
    "thread and batches",
    "a compute thread, batches of similar length, early rejection",
    threads=1,
    max_batch=8,
    is_patient=False,
)
INDEX = THREAD.then(
    "index", "an index in place of exact search", bundle=SERVED, findings=("ann.end_task",)
)
FINAL = INDEX.then(LAST, "two workers, each with a thread and a cache", workers=2)
# Without a deadline; nobody tried what one would change.
BEST_PYTORCH = FINAL.then(
    BASELINE,
    "the served models, own lengths, last position, fewer events, compiled, index, a thread and "
    "batches, two workers",
    before=PYTORCH,
    engine="torch",
    is_patient=True,
    findings=("training.events_read", "ann.end_task"),
    without=("training.ranker",),
)
RUNGS = (
    *(ORIGINAL_PYTORCH, ORIGINAL_ONNX, BEST_PYTORCH),
    *(OWN_LENGTHS, INT8, LAST_EVENTS, THREAD, INDEX, FINAL),
)
WHOLE_WINDOW = FINAL.then(
    "final server, whole window",
    "all events of the window, as the model was trained",
    whole_window=True,
    without=("training.events_read",),
)


def choose(numbers: Sequence[int]) -> list[Rung]:
    """Choose rungs by their numbers from 1, in the order of the ladder; all if there is no number.

    Raises:
        LoadTestError: There is no such rung.
    """
    found = dict(enumerate(RUNGS, start=1))
    if unknown := set(numbers) - found.keys():
        raise LoadTestError(
            f"there is no rung {min(unknown)}",
            "Use any of " + "; ".join(f"{number}: {rung.name}" for number, rung in found.items()),
        )
    return [rung for number, rung in found.items() if not numbers or number in numbers]


def grid(threads: Iterable[int]) -> list[Rung]:
    """List the final server with one and two workers, and these numbers of threads for each."""
    known = {(rung.workers, rung.threads): rung for rung in (INDEX, FINAL)}
    made = [
        FINAL.then(f"{workers} x {number}", "", workers=workers, threads=number)
        for workers in (1, 2)
        for number in threads
    ]
    return [known.get((rung.workers, rung.threads), rung) for rung in made]


def climb(holds: Callable[[float], bool], first: float, precision: float) -> float | None:
    """Search the highest rate that holds: up or down until it is bracketed, then by bisection.

    Args:
        holds: Tries a rate.
        first: First rate, a guess.
        precision: Relative distance of a rate that holds and one that does not, at the end.

    >>> round(climb(lambda rate: rate <= 130, first=60, precision=0.05))
    129
    """
    low, high, rate, step = 0.0, np.inf, first, STEP
    for _ in range(TRIES):
        if holds(rate):
            low = rate
        else:
            high = rate
        if low and high / low <= 1 + precision:
            break
        if low and high < np.inf:
            rate = (low * high) ** 0.5
        else:
            rate = low * step if low else high / step
            step = min(step * step, LARGEST_STEP)
    return low or None
