"""The ladder from the baseline to the final server, one change at a time."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nanorecsys.loadtest.bundles import BUNDLE_NAMES, CHOSEN, EVERY, FUSED, INDEXED, LAST, Bundles
from nanorecsys.loadtest.errors import LoadTestError

STEP = 1.4  # ratio of the rates of a search until one holds and one does not


@dataclass(frozen=True)
class Rung:
    """A server by its settings; the defaults are the first rung.

    Args:
        name: Name in the record.
        change: What is new against the rung before.
        engine: onnx or torch.
        bundle: Name of its bundle, see `bundles`.
        pad: Whether histories are padded to the window.
        whole_window: Whether all events of the window are read, or only as many as the bundle says.
        threads: Compute threads; 0 computes on the event loop.
        max_batch: Largest micro-batch.
        cache: Where answers are kept: none, memory, or the URL of a Redis.
        coalesce: Whether equal requests in flight are computed once.
        workers: Number of worker processes.
    """

    name: str = "torch"
    change: str = "PyTorch, eager fp32, every history padded, one blocking request at a time"
    engine: str = "torch"
    bundle: str = EVERY
    pad: bool = True
    whole_window: bool = True
    threads: int = 0
    max_batch: int = 1
    cache: str = "none"
    coalesce: bool = False
    workers: int = 1

    def arguments(self, bundles: Bundles) -> list[object]:
        """List the arguments of `python -m server`.

        Args:
            bundles: Bundles to serve; where this run has not built the rung's own, the next one.
        """
        names = BUNDLE_NAMES[BUNDLE_NAMES.index(self.bundle) :]
        built = [name for name in names if name in bundles.folders]
        values: dict[str, object] = {
            "--bundle": bundles.folders[built[0] if built else bundles.final],
            "--engine": self.engine,
            "--threads": self.threads,
            "--max-batch": self.max_batch,
            "--cache": self.cache,
            "--workers": self.workers,
            "--read-events": bundles.parts.window if self.whole_window else 0,
            "--lame-duck-s": 0,
        }
        if self.engine == "torch":
            values["--models"] = bundles.models
        switches = [
            "--pad" if self.pad else "--no-pad",
            "--coalesce" if self.coalesce else "--no-coalesce",
        ]
        return [*(part for pair in values.items() for part in pair), *switches]


def _rungs() -> tuple[Rung, ...]:
    found = [Rung()]
    for name, change, changed in (
        ("ONNX", "ONNX Runtime fp32, the model as PyTorch exports it", {"engine": "onnx"}),
        ("no padding", "histories at their own length", {"pad": False}),
        ("last position", "the last layer at the last position only", {"bundle": LAST}),
        ("fused", "ONNX Runtime's fused operators", {"bundle": FUSED}),
        ("chosen tower", "the tower that the export chapter chose", {"bundle": CHOSEN}),
        ("last events", "only as many events as validation found enough", {"whole_window": False}),
        ("pool", "computing in a thread beside the event loop", {"threads": 1}),
        ("micro-batches", "waiting requests of similar length computed together", {"max_batch": 8}),
        ("cache", "answers kept in memory", {"cache": "memory"}),
        ("coalescing", "equal requests in flight computed once", {"coalesce": True}),
        ("index", "the index of chapter 04 in place of exact search", {"bundle": INDEXED}),
        ("second worker", "two workers, each with a thread and a cache", {"workers": 2}),
        ("second thread", "one worker with two threads", {"workers": 1, "threads": 2}),
    ):
        found.append(dataclasses.replace(found[-1], name=name, change=change, **changed))
    return tuple(found)


RUNGS = _rungs()
FINAL = RUNGS[-1]
# The original's baseline had its cache too.
BASELINE = dataclasses.replace(
    RUNGS[0], name="torch with cache", change="the first rung with a cache", cache="memory"
)


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
