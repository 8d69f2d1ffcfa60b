"""int8 in two ways.

Weights have 7 bits, so that a tower is right on every processor. Without int8 dot products ONNX
Runtime adds two products in 16 bits, which saturate with weights of 8 bits (its guide to
quantization, "When to use reduce-range and per-channel quantization?").
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import CalibrationDataReader, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process

from nanorecsys.export.torch_export import without_logs

Batch = tuple[np.ndarray, np.ndarray]


def dynamic(source: Path, target: Path, *, per_channel: bool) -> None:
    """Quantize weights to int8; activations are quantized in every call.

    Args:
        source: ONNX file in single precision.
        target: ONNX file to write.
        per_channel: Whether every column of a weight has its own scale.
    """
    with _prepared(source) as model:
        quantization.quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            reduce_range=True,
        )


def static(source: Path, target: Path, batches: Iterable[Batch]) -> None:
    """Quantize weights by channel, and activations by scales found on real histories (QDQ).

    Products come out in single precision, so that what follows them is as exact as without int8.

    Args:
        source: ONNX file in single precision.
        target: ONNX file to write.
        batches: Items and lengths to calibrate on.
    """
    with _prepared(source) as model:
        quantization.quantize_static(
            model,
            target,
            _Reader(batches),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Iterable[Batch]) -> None:
        self.inputs = ({"items": items, "lengths": lengths} for items, lengths in batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.inputs, None)


@contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """The model as the quantizers expect it: shapes inferred, constants folded."""
    with tempfile.TemporaryDirectory() as folder, without_logs():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        yield prepared


def quantized_nodes(path: Path) -> int:
    """Count the nodes that read int8 weights: MatMulInteger, and MatMul after DequantizeLinear."""
    nodes = onnx.load(path).graph.node
    dequantized = {o for n in nodes if n.op_type == "DequantizeLinear" for o in n.output}
    return sum(
        n.op_type == "MatMulInteger" or (n.op_type == "MatMul" and n.input[1] in dequantized)
        for n in nodes
    )
