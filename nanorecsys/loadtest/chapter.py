"""Chapter 06: how many requests a second, at what tail, and where the time goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanorecsys.data.registry import DEFAULT_DATASET
from nanorecsys.loadtest.result import FULL_ROUNDS, LoadtestResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.fingerprint import source_files
from nanorecsys.study.layout import layout
from nanorecsys.study.spread import Spread, Values, spread

NEEDS = ("01_data", "02_training", "03_export", "04_ann", "05_scaleup")
Result = LoadtestResult

# The load of the findings: share of cold users, bound in ms, share of requests that may be refused,
# and the overload as a multiple of the capacity.
SCALE_ITEMS = 3_000_000
FEWEST_ROUNDS = 2  # one round shows no range
COLD_SHARE, BOUND_MS, REFUSED_SHARE, OVERLOAD = 0.3, 100.0, 0.001, 1.5


def _values(find: Callable[[LoadtestResult], Spread | None]) -> Callable[[LoadtestResult], Values]:
    """The median of the rounds and their range, whose worse end decides.

    There is none where data set, model or load are not those of the findings' definitions, and
    none of one round.
    """

    def values(result: LoadtestResult) -> Values:
        load = result.cold_share, result.p99_bound_ms, result.refused_share, result.overload_times
        is_defined = load == (COLD_SHARE, BOUND_MS, REFUSED_SHARE, OVERLOAD)
        is_defined &= result.is_study_shape and result.dataset == DEFAULT_DATASET
        enough = len(result.final.rounds) >= FEWEST_ROUNDS
        found = find(result) if is_defined and enough else None
        return {result.dataset: found.interval} if found else None

    return values


def _rate(result: LoadtestResult) -> Spread | None:
    """The highest rate by round; a round in which none is confirmed counts as 0."""
    rates = [found.highest_per_s or 0.0 for found in result.final.rounds]
    return spread(np.array(rates)) if result.is_full else None


def _computed_goodput(result: LoadtestResult) -> Spread | None:
    shares = [found.computed_share for found in result.overload_rounds]
    return spread(np.array(shares)) if shares else None


def _overload_p99(result: LoadtestResult) -> Spread | None:
    p99s_ms = np.array([found.p99_ms for found in result.overload_rounds], float)
    is_whole = len(p99s_ms) > 0 and not np.isnan(p99s_ms).any()
    return spread(p99s_ms / BOUND_MS) if is_whole else None


def _served_scale(result: LoadtestResult) -> Spread | None:
    found = result.served_scale
    is_whole = result.is_full and len(found.ratios) >= FULL_ROUNDS
    return found.ratio if is_whole and found.index.n == SCALE_ITEMS else None


FINDINGS: dict[str, Callable[[LoadtestResult], Values]] = {
    "rate": _values(_rate),
    "baseline": _values(lambda result: result.times_baseline),
    "computed_goodput": _values(_computed_goodput),
    "overload_p99": _values(_overload_p99),
    "served_scale": _values(_served_scale),
}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Servers of PyTorch with two workers, and bundles with all users.

    The large catalogue needs less memory than the chapter that builds it.
    """
    bundle_gib = 0.13 + parameters["n_users"] * 1e3 / 2**30
    return Estimate(memory_gib=5.0, disk_gib=6 * bundle_gib + 1.0)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The server's files and what they import: it runs in separate processes."""
    root = layout().root
    files = sorted((root / "server").glob("*.py"))
    code = "\n".join(file.read_text() for file in files)
    return sorted({*files, *source_files(code, root)})
