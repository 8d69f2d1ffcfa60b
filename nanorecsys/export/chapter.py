"""Chapter 03: what ONNX and int8 cost in quality and save in time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanorecsys.export.names import EXPORTED, INT8_PADDED, ORIGINAL_RANKER, RANKER, TORCH_PADDED
from nanorecsys.export.result import COMPANY, ExportResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target, keeps_time

NEEDS = ("01_data", "02_training")
Result = ExportResult


def _study_shape(
    value: Callable[[ExportResult], float | None],
) -> Callable[[ExportResult], float | None]:
    """A figure that is claimed of the study shape alone."""
    return lambda r: value(r) if r.is_study_shape else None


def _against(r: ExportResult, other: str) -> float | None:
    """How many times the chosen variant's latency another variant takes."""
    if other not in r.variants:
        return None
    return r.variants[other].mean_ms / r.variants[r.chosen].mean_ms


CLAIMS = (
    Claim(
        id="export.torch_padded",
        statement="Over real histories the served encoder is six times as fast as PyTorch padded to the window.",
        value=_study_shape(lambda r: _against(r, TORCH_PADDED)),
        unit="x",
        target=Target(">=", 6.0, limit=5.0),
        original="2x (75 ms to 36 ms, on other hardware)",
    ),
    Claim(
        id="export.int8_padded",
        statement="And four times as fast as the earlier benchmark's own path, dynamic int8 padded to the window.",
        value=_study_shape(lambda r: _against(r, INT8_PADDED)),
        unit="x",
        target=Target(">=", 4.0, limit=2.5),
        original="23 ms",
    ),
    Claim(
        id="export.at_window",
        statement="At a full window it takes at most half the time of the fp32 export.",
        value=_study_shape(
            lambda r: (
                r.variants[r.chosen].at_window_ms / r.variants[EXPORTED].at_window_ms
                if EXPORTED in r.variants
                else None
            )
        ),
        unit="x",
        target=Target("<=", 0.5, limit=0.6),
    ),
    Claim(
        id="export.ranker",
        statement="The ranker takes at most half the time of the earlier benchmark's shape for the same candidates.",
        value=_study_shape(lambda r: r.rankers[RANKER].ms / r.rankers[ORIGINAL_RANKER].ms),
        unit="x",
        target=Target("<=", 0.5, limit=0.75),
        original="2 ms",
    ),
    Claim(
        id="export.parity",
        statement="No entry of a vector of the fp32 exports differs from PyTorch's by more than 1e-4.",
        value=lambda r: max(
            (v.closeness.max_difference for v in r.variants.values() if v.quantized_nodes == 0),
            default=None,
        ),
        unit="",
        target=Target("<=", 1e-4),
        agrees="exact",
    ),
    Claim(
        id="export.overlap",
        statement="The served encoder keeps 97 % of each user's hundred best items.",
        value=_study_shape(lambda r: r.variants[r.chosen].closeness.overlap),
        unit="",
        target=Target(">=", 0.97, limit=0.95),
    ),
    Claim(
        id="export.company",
        statement="No entry of a served vector changes by more than 2e-4 with what else is in its batch.",
        value=lambda r: r.variants[r.chosen].closeness.company,
        unit="",
        target=Target("<=", COMPANY),
        agrees="exact",
    ),
    keeps_time("export", "6 minutes in full, 2 in quick, 30 s in smoke"),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """PyTorch, the sessions with their weights, and in each of them the activations of the grid's largest cell."""
    return Estimate(memory_gib=5.5 if parameters["all_variants"] else 4.0, disk_gib=0.5)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Nothing outside the run."""
    return []


def headline(result: ExportResult) -> list[tuple[str, str]]:
    """What the landing page says of this chapter."""
    chosen = result.variants[result.chosen]
    rows = [
        (
            f"Mean time of one user's vector, one thread ({result.chosen})",
            f"{chosen.mean_ms:.1f} ms",
        )
    ]
    times = _against(result, TORCH_PADDED)
    return rows + (
        [("That of PyTorch padded to the window, over it", f"{times:.1f}x")] if times else []
    )
