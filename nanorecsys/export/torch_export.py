"""The user tower through PyTorch's own exporter, and the tower as the earlier benchmark ran it."""

from pathlib import Path

import onnx
import torch

from nanorecsys.export.errors import ExportError
from nanorecsys.export.quiet import quiet
from nanorecsys.models.retriever import EveryPosition, UserEncoder

# The first opset with RMSNormalization and Attention; before it they are spelled out.
OPSET = 23


def export_encoder(
    encoder: UserEncoder | EveryPosition, window: int, path: Path, opset: int = OPSET
) -> None:
    """Write the encoder as ONNX with a symbolic batch and length.

    Args:
        window: the longest history.
        opset: of the standard operators, from 18.

    Raises:
        ExportError: the exporter made a dimension a constant.
    """
    batch, length = torch.export.Dim("B", min=1, max=4096), torch.export.Dim("L", min=1, max=window)
    # Two rows and an odd length: the exporter takes ones for constants.
    example = torch.ones(2, min(7, window), dtype=torch.int64), torch.full((2,), min(7, window))
    with quiet():
        program = torch.onnx.export(
            encoder.eval(),
            example,
            dynamo=True,
            opset_version=opset,
            input_names=["items", "lengths"],
            output_names=["vectors"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch}),
            verbose=False,
        )
    program.save(str(path))
    graph = onnx.load(path).graph
    for value, dimensions in zip(graph.input, (2, 1), strict=True):
        shape = value.type.tensor_type.shape.dim
        if len(shape) != dimensions or not all(d.dim_param for d in shape):
            raise ExportError(
                f"{value.name} was exported with constant dimensions",
                "Report it with your versions.",
            )
