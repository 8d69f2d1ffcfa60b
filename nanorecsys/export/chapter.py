"""Chapter 03: what ONNX and int8 cost in quality and save in time."""

from pathlib import Path
from typing import Any

from nanorecsys.export.result import ExportResult
from nanorecsys.export.variants import TORCH_PADDED
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.claims import Claim, Target

NEEDS = ("01_data", "02_training")
Result = ExportResult


def _times_torch_padded(result: ExportResult) -> float:
    """Latency of PyTorch padded to the window, over the chosen variant's."""
    return result.variants[TORCH_PADDED].mean_ms / result.variants[result.chosen].mean_ms


CLAIMS = (
    Claim(
        id="export.torch_padded",
        statement="Over real histories the served encoder is six times as fast as PyTorch padded "
        "to the window.",
        value=lambda r: _times_torch_padded(r) if r.is_study_shape else None,
        unit="x",
        target=Target(">=", 6.0, limit=5.0),
        original="2x (75 ms to 36 ms, on other hardware)",
    ),
    Claim(
        id="export.parity",
        statement="No entry of a vector of the fp32 exports differs from PyTorch's by more than "
        "1e-4.",
        value=lambda r: max(
            v.parity.max_difference for v in r.variants.values() if v.quantized_nodes == 0
        ),
        unit="",
        target=Target("<=", 1e-4),
        agrees="exact",
    ),
)


def estimate(parameters: dict[str, Any]) -> Estimate:
    """PyTorch, the sessions with their weights, and each one's activations in the largest cell."""
    return Estimate(memory_gib=4.0, disk_gib=0.5)


def inputs(parameters: dict[str, Any]) -> list[Path]:
    """Nothing outside the run."""
    return []
