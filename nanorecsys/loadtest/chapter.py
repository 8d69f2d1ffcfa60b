"""Chapter 06: how many requests a second, at what tail, and where the time goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanorecsys.loadtest.result import BASELINE, LAST, LoadtestResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.fingerprint import source_files
from nanorecsys.study.layout import layout
from nanorecsys.study.spread import Spread, Values, spread

NEEDS = ("01_data", "02_training", "03_export", "04_ann")
Result = LoadtestResult

# The load of the findings: share of cold users, bound in ms, share of requests that may be refused,
# and the overload as a multiple of the capacity.
SCALE_ITEMS = 3_000_000
COLD_SHARE, BOUND_MS, REFUSED_SHARE, OVERLOAD = 0.3, 100.0, 0.001, 1.5


def _is_defined(result: LoadtestResult) -> bool:
    """Whether model, catalogue and load are those of the findings' definitions."""
    load = result.cold_share, result.p99_bound_ms, result.refused_share, result.overload_times
    return result.is_study_shape and load == (COLD_SHARE, BOUND_MS, REFUSED_SHARE, OVERLOAD)


def _interval(result: LoadtestResult, values: Spread) -> Values:
    """The median of the rounds and their range, whose worse end decides."""
    if not _is_defined(result):
        return None
    return {result.dataset: values.interval}


def _rate(result: LoadtestResult) -> Values:
    rate = result.final.highest_per_s
    return _interval(result, rate) if result.is_full and rate else None


def _baseline(result: LoadtestResult) -> Values:
    times = result.times_cpu(BASELINE, LAST)
    return _interval(result, times) if times else None


def _computed_goodput(result: LoadtestResult) -> Values:
    shares = [found.computed_share for found in result.overload_rounds]
    return _interval(result, spread(np.array(shares))) if shares else None


def _overload_p99(result: LoadtestResult) -> Values:
    over = [found.p99_ms / BOUND_MS for found in result.overload_rounds if found.p99_ms is not None]
    is_whole = 0 < len(over) == len(result.overload_rounds)
    return _interval(result, spread(np.array(over))) if is_whole else None


def _served_scale(result: LoadtestResult) -> Values:
    found = result.served_scale
    ratio = found.ratio if found and found.index.n == SCALE_ITEMS else None
    return _interval(result, ratio) if result.is_full and ratio else None


FINDINGS: dict[str, Callable[[LoadtestResult], Values]] = {
    "rate": _rate,
    "baseline": _baseline,
    "computed_goodput": _computed_goodput,
    "overload_p99": _overload_p99,
    "served_scale": _served_scale,
}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Servers of PyTorch, two of them with two workers, and three bundles with all users."""
    bundle_gib = 0.13 + parameters["n_users"] * 1e3 / 2**30
    return Estimate(memory_gib=5.0, disk_gib=5 * bundle_gib + 0.3)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The server's files and what they import: it runs in separate processes."""
    root = layout().root
    files = sorted((root / "server").glob("*.py"))
    code = "\n".join(file.read_text() for file in files)
    return sorted({*files, *source_files(code, root)})
