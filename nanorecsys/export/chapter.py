"""Chapter 03: what ONNX and int8 cost in quality and save in time."""

from collections.abc import Callable
from typing import Any

from nanorecsys.data.load import DEFAULT_DATASET
from nanorecsys.export.result import ExportResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.spread import Values

NEEDS = ("01_data", "02_training")
Result = ExportResult


def _speed(result: ExportResult) -> Values:
    """Latency of the best PyTorch encoder over the served one's, range over the rounds."""
    if result.dataset != DEFAULT_DATASET or not result.is_study_shape:
        return None
    return {result.dataset: result.times_torch.interval}


def _int8(result: ExportResult) -> Values:
    """Relative change of NDCG@10 by static int8, by data set."""
    changes = result.int8_change
    if result.dataset != DEFAULT_DATASET or not result.is_study_shape or len(changes) < 2:
        return None
    return {name: change.relative for name, change in changes.items()}


FINDINGS: dict[str, Callable[[ExportResult], Values]] = {"speed": _speed, "int8": _int8}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """PyTorch, the sessions with their weights, and each one's activations in the largest cell."""
    return Estimate(memory_gib=4.0, disk_gib=0.5)
