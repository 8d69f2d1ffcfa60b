"""The ladder from the original's servers in kind to the final one."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanorecsys.loadtest.bundles import CHOSEN, IN_KIND, SERVED, Bundles
from nanorecsys.loadtest.errors import LoadTestError

STEP = 1.4  # ratio of the rates of a search until one holds and one does not


@dataclass(frozen=True)
class Rung:
    """A server by its settings; the defaults are the original's PyTorch server in kind.

    All servers have a cache, and compute equal requests once.

    Args:
        name: Name in the record.
        before: Name of its neighbour, the rung that it is compared with.
        change: What is new against its neighbour.
        engine: Engine of the server: onnx, torch or torch-padded.
        bundle: Name of its bundle, see `bundles`; histories are padded to the window in kind.
        whole_window: Whether all events of the window are read, or only as many as the bundle says.
        threads: Compute threads of a worker; 0 computes on the event loop, which blocks it.
        max_batch: Largest micro-batch.
        workers: Number of worker processes.
    """

    name: str = "original, PyTorch"
    before: str = ""
    change: str = "in kind: eager, padded to the window, every position, a ranker"
    engine: str = "torch-padded"
    bundle: str = IN_KIND
    whole_window: bool = True
    threads: int = 0
    max_batch: int = 1
    workers: int = 1

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
            "--cache-size": max(1, len(bundles.served.user_ids) // (2 * self.workers)),
            "--read-events": bundles.served.window if self.whole_window else 0,
            "--lame-duck-s": 0,
        }
        pad = "--pad" if self.bundle == IN_KIND else "--no-pad"
        compiled = "--compile" if self.engine == "torch" else "--no-compile"
        return [*(part for pair in values.items() for part in pair), pad, compiled]

    def then(self, name: str, change: str, **changed: Any) -> "Rung":
        """Make a rung that is compared with this one and differs in the changed settings."""
        return dataclasses.replace(self, name=name, before=self.name, change=change, **changed)


ORIGINAL_PYTORCH = Rung()
ORIGINAL_ONNX = ORIGINAL_PYTORCH.then(
    "original, ONNX",
    "in kind: int8 export, a thread, two workers",
    engine="onnx",
    threads=1,
    workers=2,
)
OWN_LENGTHS = ORIGINAL_PYTORCH.then(
    "own lengths", "the served models, histories at their own lengths", engine="onnx", bundle=CHOSEN
)
LAST_EVENTS = OWN_LENGTHS.then("last events", "as many as validation needs", whole_window=False)
POOL = LAST_EVENTS.then("pool", "computing in a thread beside the event loop", threads=1)
BATCHES = POOL.then("micro-batches", "requests of similar length computed together", max_batch=8)
INDEX = BATCHES.then("index", "an index in place of exact search", bundle=SERVED)
FINAL = INDEX.then("second worker", "two workers, each with a thread and a cache", workers=2)
BEST_PYTORCH = FINAL.then("best PyTorch", "PyTorch, compiled, in place of ONNX", engine="torch")
OURS = (OWN_LENGTHS, LAST_EVENTS, POOL, BATCHES, INDEX, FINAL)
RUNGS = (ORIGINAL_PYTORCH, ORIGINAL_ONNX, *OURS, BEST_PYTORCH)


def choose(names: Sequence[str]) -> list[Rung]:
    """Choose rungs by name, in the order of the ladder; all if no name is given.

    Raises:
        LoadTestError: There is no such rung.
    """
    if unknown := set(names) - {rung.name for rung in RUNGS}:
        raise LoadTestError(
            f"there is no rung {min(unknown)!r}",
            f"Use any of {', '.join(rung.name for rung in RUNGS)}.",
        )
    return [rung for rung in RUNGS if not names or rung.name in names]


def climb(
    holds: Callable[[float], bool], first: float, tries: int, precision: float = 0.0
) -> float | None:
    """Search the highest rate that holds: up or down until it is bracketed, then by bisection.

    Args:
        holds: Tries a rate.
        first: First rate.
        tries: Number of tries at most.
        precision: Relative precision at which the search ends.

    >>> round(climb(lambda rate: rate <= 130, first=60, tries=5))
    118
    """
    low, high, rate = 0.0, np.inf, first
    for _ in range(tries):
        if holds(rate):
            low = rate
        else:
            high = rate
        if low and high / low <= 1 + precision:
            break
        if high == np.inf:
            rate = low * STEP
        elif low == 0:
            rate = high / STEP
        else:
            rate = (low * high) ** 0.5
    return low or None
