"""Chapter 03: what ONNX and int8 cost in quality and save in time."""

from collections.abc import Callable
from typing import Any

from nanorecsys.data.registry import BOTH_DATASETS, DEFAULT_DATASET
from nanorecsys.export.result import ExportResult
from nanorecsys.study.chapters import Estimate
from nanorecsys.study.spread import Values

NEEDS = ("01_data", "02_training")
Result = ExportResult


def _at_study_size(result: ExportResult) -> bool:
    return result.dataset == DEFAULT_DATASET and result.is_study_shape


def _speed(result: ExportResult) -> Values:
    """Latency of the best PyTorch encoder over the served one's, range over the rounds."""
    return {result.dataset: result.times_torch.interval} if _at_study_size(result) else None


def _int8(result: ExportResult) -> Values:
    """Relative change of NDCG@10 by static int8, by data set."""
    if not _at_study_size(result) or result.int8_change.keys() != BOTH_DATASETS:
        return None
    return {name: change.relative for name, change in result.int8_change.items()}


FINDINGS: dict[str, Callable[[ExportResult], Values]] = {"speed": _speed, "int8": _int8}


def estimate(parameters: dict[str, Any]) -> Estimate:
    """PyTorch, the sessions with their weights, and each one's activations in the largest cell."""
    return Estimate(memory_gib=4.0, disk_gib=0.5)
