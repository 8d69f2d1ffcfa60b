"""The ways to run one user tower, from the earlier benchmark's to the fastest, each behind the same call."""

import shutil
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
from nanorecsys.export.errors import ExportError
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.names import (
    COMPILED,
    EXPORTED,
    FUSED,
    INT8_PADDED,
    INT8_ROWS,
    INT8_STATIC,
    INT8_TABLE,
    INT8_TENSOR,
    INT8_WEIGHTS,
    TORCH,
    TORCH_PADDED,
    VARIANTS,
)
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.models.retriever import EveryPosition, UserEncoder
from nanorecsys.serving.encoder import Encode, Encoder
from nanorecsys.serving.padding import padded

# What the earlier benchmark could export with: norms, positions and attention in their parts.
EARLIER_OPSET = 18


@dataclass(frozen=True)
class Variant:
    """One way to run the tower.

    Args:
        name: a key of `names.VARIANTS`.
        path: the ONNX file, None where PyTorch runs.
        encode: by number of threads: items int64 (B, L) and lengths int64 (B,) to unit vectors
            float32 (B, d).
        padded: whether a history is padded to the window whatever its length.
        quantized: number of quantized nodes, 0 in single precision.
        mib: size of the file, or of the weights.
        load_ms: median of three loads, None where PyTorch runs.
        encoders: that `encode` runs, none where PyTorch does.
    """

    name: str
    path: Path | None
    encode: dict[int, Encode]
    padded: bool
    quantized: int
    mib: float
    load_ms: float | None
    encoders: tuple[Encoder, ...] = ()

    def release(self) -> None:
        """Give back the memory of the largest call so far."""
        for encoder in self.encoders:
            encoder.release()


def build(
    encoder: UserEncoder,
    histories: Histories,
    folder: Path,
    names: Sequence[str] = (),
    threads: Sequence[int] = (1,),
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Variant]:
    """Write and load the variants.

    Args:
        encoder: the trained encoder.
        histories: CSR, what activations are calibrated on.
        folder: for the ONNX files.
        names: which of `names.VARIANTS`, all if empty. In its order.
        threads: numbers of threads that each is loaded for.
        progress: wraps the names, to show how far it is.

    Raises:
        ExportError: there is no such variant, or an export went wrong.
    """
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ExportError(
            f"there is no variant {unknown[0]!r}", f"Use any of {', '.join(VARIANTS)}."
        )
    if COMPILED in (names or VARIANTS) and not (shutil.which("g++") or shutil.which("clang++")):
        raise ExportError(
            "torch.compile needs a C++ compiler, and there is none", "Install g++, or leave it out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in progress([n for n in VARIANTS if n in (names or VARIANTS)]):
        if name in (TORCH_PADDED, TORCH, COMPILED):
            found.append(_torch(encoder, name, threads))
        else:
            found.append(_onnx(encoder, histories, folder, name, threads))
    return found


def in_torch(module: nn.Module, threads: int = 1) -> Encode:
    """A module of PyTorch behind the same call."""

    def encode(items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            return module(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()

    return encode


def _torch(encoder: UserEncoder, name: str, threads: Sequence[int]) -> Variant:
    module: nn.Module = encoder
    if name == TORCH_PADDED:
        module = EveryPosition(encoder).eval()
    elif name == COMPILED:
        module = torch.compile(encoder, dynamic=True)
    encode = {n: in_torch(module, n) for n in threads}
    if name == TORCH_PADDED:
        encode = {n: _to_window(run, encoder.tower.config.window) for n, run in encode.items()}
    weights = sum(t.numel() * t.element_size() for t in encoder.state_dict().values())
    return Variant(name, None, encode, name == TORCH_PADDED, 0, weights / 2**20, None)


def _onnx(
    encoder: UserEncoder, histories: Histories, folder: Path, name: str, threads: Sequence[int]
) -> Variant:
    window = encoder.tower.config.window
    path = folder / f"{name.replace(', ', ' ').replace(' ', '_')}.onnx"
    quantized = _write(encoder, histories, folder, name, path)
    loads = []
    for _ in range(3):
        start = time.perf_counter_ns()
        Encoder(path)
        loads.append((time.perf_counter_ns() - start) / 1e6)
    encoders = {n: Encoder(path, n) for n in threads}
    encode: dict[int, Encode] = dict(encoders)
    if name == INT8_PADDED:
        encode = {n: _to_window(run, window) for n, run in encode.items()}
    mib = path.stat().st_size / 2**20
    return Variant(
        name,
        path,
        encode,
        name == INT8_PADDED,
        quantized,
        mib,
        float(np.median(loads)),
        tuple(encoders.values()),
    )


def _write(encoder: UserEncoder, histories: Histories, folder: Path, name: str, path: Path) -> int:
    """Write a variant's file; returns its number of quantized nodes."""
    window = encoder.tower.config.window
    if name == EXPORTED:
        export_encoder(encoder, window, path)
        return 0
    if name == FUSED:
        onnx.save(fused_tower(encoder), path)
        return 0
    source = folder / "source.onnx"
    try:
        if name == INT8_PADDED:
            export_encoder(EveryPosition(encoder), window, source, EARLIER_OPSET)
        else:
            onnx.save(fused_tower(encoder, by_row=name in (INT8_ROWS, INT8_STATIC)), source)
        if name == INT8_STATIC:
            return quantize.static(source, path, calibration(histories, window))
        if name == INT8_WEIGHTS:
            return quantize.weight_only(source, path)
        return quantize.dynamic(
            source,
            path,
            per_channel=name not in (INT8_PADDED, INT8_TENSOR),
            tables=name == INT8_TABLE,
        )
    finally:
        source.unlink(missing_ok=True)


def calibration(
    histories: Histories, window: int, users: int = 64
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Users spread evenly over the lengths of history, one a batch: what int8 scales are found on."""
    known = np.argsort(histories.lengths, kind="stable")
    for user in known[np.linspace(0, len(known) - 1, min(users, len(known))).astype(int)]:
        yield padded(histories, np.array([user]), window)


def _to_window(run: Encode, window: int) -> Encode:
    """The same on rows padded to the window."""

    def encode(items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return run(np.pad(items, ((0, 0), (0, window - items.shape[1]))), lengths)

    return encode
