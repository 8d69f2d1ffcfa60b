"""The user tower through PyTorch's own exporter."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from nanorecsys.export.graph import OPSET
from nanorecsys.models.retriever import EveryPosition, UserEncoder


def export_encoder(
    encoder: UserEncoder | EveryPosition, window: int, path: Path, opset: int = OPSET
) -> None:
    """Write the encoder as ONNX with a symbolic batch and length.

    Args:
        encoder: The trained encoder.
        window: Longest history, in events.
        path: ONNX file to write.
        opset: Version of the standard operators, at least 18.
    """
    batch, length = torch.export.Dim("B", min=1, max=4096), torch.export.Dim("L", min=1, max=window)
    # Two rows and an odd length: the exporter takes ones for constants.
    example = torch.ones(2, min(7, window), dtype=torch.int64), torch.full((2,), min(7, window))
    with without_logs():
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
    assert program is not None  # with dynamo
    program.save(str(path))


@contextmanager
def without_logs() -> Iterator[None]:
    """Silence an exporter or quantizer: a log line per node, and advice to do what has been done.

    Nothing below an error is logged and no warning is shown.
    """
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
