"""The ladder from the baseline to the final server, one change at a time."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanorecsys.loadtest import bundles as b
from nanorecsys.loadtest.bundles import Bundles
from nanorecsys.system.errors import NanorecsysError

STEP = 1.4  # between the tries of a search, until one is valid and one is not


@dataclass(frozen=True)
class Rung:
    """A server by what distinguishes it; `change` says what is new against the one before.

    `whole` has it read all events of a window, and not only those that the bundle says.
    """

    name: str
    change: str
    engine: str
    bundle: str
    pad: bool
    whole: bool
    threads: int
    max_batch: int
    cache: str
    coalesce: bool
    workers: int = 1

    def arguments(self, bundles: Bundles, folder: Path | None = None) -> list[str]:
        """Of `python -m server`.

        Args:
            bundles: of which its own is taken; where this run has not made that, the next one.
            folder: another bundle to serve.
        """
        names = (b.EVERY, b.LAST, b.FUSED, b.CHOSEN, b.INDEXED)
        later = [n for n in names[names.index(self.bundle) :] if n in bundles.folders]
        folder = folder or bundles.folders[later[0] if later else bundles.final]
        values = [
            *(
                "--bundle",
                folder,
                "--engine",
                self.engine,
                "--threads",
                self.threads,
                "--max-batch",
                self.max_batch,
            ),
            *(
                "--cache",
                self.cache,
                "--workers",
                self.workers,
                "--pad" if self.pad else "--no-pad",
            ),
            *("--read-events", bundles.parts.window if self.whole else 0),
            *("--coalesce" if self.coalesce else "--no-coalesce", "--lame-duck-s", 0),
        ]
        if self.engine == "torch":
            values += ["--models", bundles.models]
        return [str(value) for value in values]


def _rungs() -> tuple[Rung, ...]:
    first = Rung(
        name="torch",
        change="PyTorch, eager fp32, every history padded, one blocking request at a time",
        engine="torch",
        bundle=b.EVERY,
        pad=True,
        whole=True,
        threads=0,
        max_batch=1,
        cache="none",
        coalesce=False,
    )
    found = [first]
    for name, change, changed in (
        ("ONNX", "ONNX Runtime fp32, the same model as PyTorch exports it", {"engine": "onnx"}),
        ("no padding", "histories at their own length", {"pad": False}),
        ("last position", "the last layer at the last position only", {"bundle": b.LAST}),
        ("fused", "ONNX Runtime's fused operators", {"bundle": b.FUSED}),
        ("chosen tower", "the tower that the export chapter chose", {"bundle": b.CHOSEN}),
        (
            "last events",
            "the last events of a history alone, as many as validation found enough",
            {"whole": False},
        ),
        ("pool", "computing in a thread beside the event loop", {"threads": 1}),
        ("micro-batches", "waiting requests of like length together", {"max_batch": 8}),
        ("cache", "answers kept in memory", {"cache": "memory"}),
        ("coalescing", "equal requests in flight computed once", {"coalesce": True}),
        (
            "index",
            "the index that chapter 04 recommends in place of exact search",
            {"bundle": b.INDEXED},
        ),
        (
            "second worker",
            "two workers of a compute thread each, with a cache each",
            {"workers": 2},
        ),
        (
            "second thread",
            "one worker again, with two compute threads",
            {"workers": 1, "threads": 2},
        ),
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
    """Rungs by name, in the order of the ladder; all if no name is given.

    Raises:
        NanorecsysError: there is no such rung.
    """
    if unknown := set(names) - {r.name for r in RUNGS}:
        raise NanorecsysError(
            f"there is no rung {sorted(unknown)[0]!r}",
            f"Use any of {', '.join(r.name for r in RUNGS)}.",
        )
    return [r for r in RUNGS if not names or r.name in names]


def climb(
    attempt: Callable[[float], bool], first: float, tries: int, step: float = STEP
) -> float | None:
    """The highest rate that held, in few tries: up or down by `step` until it is bracketed, then halfway.

    >>> round(climb(lambda rate: rate <= 130, first=60, tries=5))
    118
    """
    low, high, rate = 0.0, np.inf, first
    for _ in range(tries):
        if attempt(rate):
            low = rate
        else:
            high = rate
        rate = low * step if high == np.inf else high / step if low == 0 else (low * high) ** 0.5
    return low or None
