"""Chapter 06: how many requests a second, at what tail, and where the time goes."""

from pathlib import Path
from typing import Any

from nanorecsys.loadtest.result import LoadtestResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target
from nanorecsys.study.fingerprint import source_files
from nanorecsys.study.layout import layout

NEEDS = ("01_data", "02_training", "03_export", "04_ann")
Result = LoadtestResult


def _rate(result: LoadtestResult) -> float | None:
    """The confirmed rate; 0 where the server kept none, None where the generator was late."""
    if not (result.is_study_shape and result.is_full):
        return None
    if result.highest:
        return result.highest.offered_per_s
    verdicts = {row.verdict for row in result.loads if row.scenario == "confirming"}
    return None if verdicts == {"VOID"} else 0.0


def _goodput_share(result: LoadtestResult) -> float | None:
    return result.overload.goodput_share if result.is_study_shape and result.overload else None


def _overload_p99(result: LoadtestResult) -> float | None:
    """P99 of the answered in an overload, over the bound."""
    if not result.is_study_shape or not result.overload or result.overload.verdict == "VOID":
        return None
    return result.overload.p99_ms / result.p99_bound_ms


CLAIMS = (
    Claim(
        id="loadtest.rate",
        statement="The server keeps 500 requests/s at a P99 of 100 ms, without an error, for 60 s, "
        "with the generator on the same two cores.",
        value=_rate,
        unit="requests/s",
        target=Target(">=", 500.0, limit=250.0),
        original="~80 at P99 580 ms",
    ),
    Claim(
        id="loadtest.goodput",
        statement="At twice the highest rate, goodput is at least 90 % of that at the highest.",
        value=_goodput_share,
        unit="",
        target=Target(">=", 0.9, limit=0.75),
        agrees="ratio",
    ),
    Claim(
        id="loadtest.overload_p99",
        statement="At twice the highest rate, P99 of the answered stays within twice the bound.",
        value=_overload_p99,
        unit="of the bound",
        target=Target("<=", 2.0, limit=3.0),
    ),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """Two servers, one with PyTorch, and a bundle with all users for each rung that needs one."""
    bundle_gib = 0.13 + parameters["n_users"] * 1e3 / 2**30
    return Estimate(memory_gib=4.0, disk_gib=7 * bundle_gib + 0.3)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """The server's files and what they import: it runs in separate processes."""
    root = layout().root
    files = sorted((root / "server").glob("*.py"))
    code = "\n".join(file.read_text() for file in files)
    return sorted({*files, *source_files(code, root)})
