"""int8 in several ways, each checked to have quantized something: a quantizer that finds nothing says nothing.

Weights have 8 bits where the processor has int8 dot products, and 7 elsewhere: there ONNX Runtime
adds two products in 16 bits, which saturate (its guide to quantization, "When to use reduce-range
and per-channel quantization?").
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

from nanorecsys.export.errors import ExportError
from nanorecsys.export.quiet import quiet
from nanorecsys.system.processor import has_int8_dot_products

# Operators that multiply by int8 weights, as the quantizers write them.
INTEGER = {
    "MatMulInteger",
    "QLinearMatMul",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "MatMulNBits",
}
BLOCK = 32  # weights that share a scale in weight-only quantization
Batch = tuple[np.ndarray, np.ndarray]


def dynamic(source: Path, target: Path, *, per_channel: bool, tables: bool = False) -> int:
    """int8 weights, and activations that are quantized anew in every call.

    Args:
        per_channel: a scale for each column of a weight, rather than one for all of it.
        tables: what is looked up by item too, with one scale a table.

    Returns:
        the number of quantized nodes.
    """
    with _prepared(source) as model:
        quantization.quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul", "Gather"] if tables else ["MatMul"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            reduce_range=not has_int8_dot_products(),
        )
    return _checked(target)


def static(source: Path, target: Path, batches: Iterable[Batch]) -> int:
    """int8 weights by channel, and activations by scales that were found on real histories beforehand (QDQ).

    Products come out in single precision, so that what comes after them is as exact as without
    int8.

    Args:
        batches: items and lengths to calibrate on.

    Returns:
        the number of quantized nodes.
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
            reduce_range=not has_int8_dot_products(),
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    return _checked(target)


def weight_only(source: Path, target: Path) -> int:
    """8-bit weights with a scale for every 32 of them, multiplied in int8 by blocks (accuracy level 4).

    Returns:
        the number of quantized nodes.
    """
    with quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            MatMulNBitsQuantizer,  # it configures logging
        )

        model = onnx.load(source)
        quantizer = MatMulNBitsQuantizer(
            model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
    quantizer.model.save_model_to_file(str(target))
    return _checked(target)


def quantized_nodes(model: onnx.ModelProto) -> int:
    """Nodes that read int8 weights: integer products, and products between QuantizeLinear and DequantizeLinear."""
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    return sum(
        n.op_type in INTEGER or (n.op_type == "MatMul" and n.input[1] in dequantized)
        for n in model.graph.node
    )


class _Reader(CalibrationDataReader):
    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else dict(zip(("items", "lengths"), batch, strict=True))


@contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """The model as the quantizers want it: shapes inferred, constants folded."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        yield prepared


def _checked(target: Path) -> int:
    found = quantized_nodes(onnx.load(target))
    if not found:
        raise ExportError(
            f"{target.name} has no quantized node",
            "Look at the names of the operators it should have.",
        )
    return found
