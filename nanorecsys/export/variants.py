"""The ways to run one user tower, from the earlier benchmark's to the fastest, behind one call."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from nanorecsys.data import Histories
from nanorecsys.export import quantize
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.models.retriever import EveryPosition, UserEncoder
from nanorecsys.serving.encoder import Encode, Encoder
from nanorecsys.serving.padding import padded

TORCH_PADDED, TORCH = "torch, padded", "torch"
INT8_PADDED, EXPORTED, FUSED = "int8, padded", "fp32, as exported", "fp32, fused"
INT8_ROWS, INT8_STATIC = "int8 by row", "int8 static"

VARIANTS = {
    TORCH_PADDED: "PyTorch, every history padded to the window, all layers at every position: "
    "the earlier benchmark's",
    TORCH: "PyTorch, no padding, the last layer at the last position only",
    INT8_PADDED: "the first one as ONNX (opset 18) with dynamic int8: the earlier benchmark's "
    "optimized one",
    EXPORTED: "the second one as ONNX, as PyTorch exports it (opset 23)",
    FUSED: "ONNX Runtime's fused operators, the first layer's projections looked up",
    INT8_ROWS: "fused, int8 products with activations quantized in the call; one scale per "
    "position before the last product of a feed-forward, where activations have outliers",
    INT8_STATIC: "the same with all other scales found beforehand, so that the result does not "
    "depend on the batch",
}

# The opset that the earlier benchmark exported with: norms, positions and attention in their parts.
EARLIER_OPSET = 18


@dataclass(frozen=True)
class Variant:
    """One way to run the tower.

    Args:
        name: Key of `VARIANTS`.
        path: ONNX file, None where PyTorch runs.
        encode: Encoders by number of threads: items int64 (B, L), lengths int64 (B,) -> unit
            vectors float32 (B, d).
        padded: Whether every history is padded to the window.
        quantized_nodes: Number of quantized nodes, 0 in single precision.
        mib: Size of the file or of the weights.
        load_ms: Median time of three loads, None where PyTorch runs.
        sessions: Encoders that keep memory between calls, none where PyTorch runs.
    """

    name: str
    path: Path | None
    encode: dict[int, Encode]
    padded: bool
    quantized_nodes: int
    mib: float
    load_ms: float | None
    sessions: tuple[Encoder, ...] = ()


def build(
    encoder: UserEncoder,
    histories: Histories,
    folder: Path,
    threads: Sequence[int] = (1,),
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> list[Variant]:
    """Write and load every variant.

    Args:
        encoder: The trained encoder.
        histories: CSR on which static scales are calibrated.
        folder: Folder for the ONNX files.
        threads: Numbers of threads that each variant is loaded for.
        progress: Wrapper of the names that shows progress, such as tqdm.

    Raises:
        ExportError: An export has constant dimensions, or a quantizer found nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _in_pytorch(encoder, name, threads)
        if name in (TORCH_PADDED, TORCH)
        else _in_onnx(encoder, histories, folder, name, threads)
        for name in progress(list(VARIANTS))
    ]


def in_torch(module: nn.Module, threads: int = 1) -> Encode:
    """Wrap a PyTorch module as a function of NumPy arrays."""

    def encode(items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return module(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()

    return encode


def _in_pytorch(encoder: UserEncoder, name: str, threads: Sequence[int]) -> Variant:
    is_padded = name == TORCH_PADDED
    module = EveryPosition(encoder).eval() if is_padded else encoder
    encode = {n: in_torch(module, n) for n in threads}
    if is_padded:
        encode = {n: _to_window(run, encoder.tower.config.window) for n, run in encode.items()}
    weights = sum(t.numel() * t.element_size() for t in encoder.state_dict().values())
    return Variant(name, None, encode, is_padded, 0, weights / 2**20, None)


def _in_onnx(
    encoder: UserEncoder, histories: Histories, folder: Path, name: str, threads: Sequence[int]
) -> Variant:
    path = folder / f"{name.replace(', ', ' ').replace(' ', '_')}.onnx"
    quantized_nodes = _write(encoder, histories, name, path)
    loads = []
    for _ in range(3):
        start = time.perf_counter_ns()
        Encoder(path)
        loads.append((time.perf_counter_ns() - start) / 1e6)
    sessions = {n: Encoder(path, n) for n in threads}
    encode: dict[int, Encode] = dict(sessions)
    if name == INT8_PADDED:
        encode = {n: _to_window(run, encoder.tower.config.window) for n, run in sessions.items()}
    return Variant(
        name=name,
        path=path,
        encode=encode,
        padded=name == INT8_PADDED,
        quantized_nodes=quantized_nodes,
        mib=path.stat().st_size / 2**20,
        load_ms=float(np.median(loads)),
        sessions=tuple(sessions.values()),
    )


def _write(encoder: UserEncoder, histories: Histories, name: str, path: Path) -> int:
    """Write a variant's file; returns its number of quantized nodes."""
    window = encoder.tower.config.window
    if name == EXPORTED:
        export_encoder(encoder, window, path)
        return 0
    if name == FUSED:
        onnx.save(fused_tower(encoder), path)
        return 0
    source = path.with_name("source.onnx")
    if name == INT8_PADDED:
        export_encoder(EveryPosition(encoder), window, source, EARLIER_OPSET)
        quantized_nodes = quantize.dynamic(source, path, per_channel=False)
    else:
        onnx.save(fused_tower(encoder, by_row=True), source)
        if name == INT8_ROWS:
            quantized_nodes = quantize.dynamic(source, path, per_channel=True)
        else:
            quantized_nodes = quantize.static(source, path, _calibration(histories, window))
    source.unlink()
    return quantized_nodes


def _calibration(
    histories: Histories, window: int, users: int = 64
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Users spread evenly over the lengths of history, one per batch."""
    by_length = np.argsort(histories.lengths, kind="stable")
    users = min(users, len(by_length))
    for user in by_length[np.linspace(0, len(by_length) - 1, users).astype(int)]:
        yield padded(histories, np.array([user]), window)


def _to_window(encode: Encode, window: int) -> Encode:
    """The same encoder on rows padded to the window."""

    def encode_padded(items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return encode(np.pad(items, ((0, 0), (0, window - items.shape[1]))), lengths)

    return encode_padded
