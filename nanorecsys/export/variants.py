"""The ways to run one user tower, from the earlier benchmark's to the fastest, behind one call."""

import timeit
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from tqdm import tqdm

from nanorecsys.data import Histories
from nanorecsys.export import quantize
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.models.inference import TorchEncoder
from nanorecsys.models.retriever import EveryPosition, UserEncoder
from nanorecsys.serving.encoder import Encode, Encoder
from nanorecsys.serving.padding import padded

TORCH_PADDED, TORCH, TORCH_COMPILED = "torch, padded", "torch", "torch, compiled"
INT8_PADDED, EXPORTED, FUSED = "int8, padded", "fp32, as exported", "fp32, fused"
INT8_ROWS, INT8_STATIC = "int8 by row", "int8 static"

VARIANTS = {
    TORCH_PADDED: "PyTorch, every history padded, all layers at every position: the earlier "
    "benchmark's",
    TORCH: "PyTorch, no padding, the last layer at the last position only",
    TORCH_COMPILED: "the same under torch.compile, for all lengths and batches",
    INT8_PADDED: "the first one as ONNX (opset 18) with dynamic int8: the earlier benchmark's "
    "optimized one",
    EXPORTED: "the second one as ONNX, as PyTorch exports it (opset 23)",
    FUSED: "ONNX Runtime's fused operators, the first layer's projections looked up",
    INT8_ROWS: "fused, int8 products with activations quantized in the call; one scale per "
    "position before the last product of a feed-forward, where activations have outliers",
    INT8_STATIC: "the same with all other scales found beforehand, so that the result does not "
    "depend on the batch",
}
IN_PYTORCH = (TORCH_PADDED, TORCH, TORCH_COMPILED)
PADDED = (TORCH_PADDED, INT8_PADDED)

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
        quantized_nodes: Number of quantized nodes, 0 in single precision.
        mib: Size of the file or of the weights.
        load_ms: Median time of three loads, None where PyTorch runs.
        compile_s: Seconds of torch.compile, 0 without it.
        missing: Reason why this machine cannot run it, "" if it can.
    """

    name: str
    path: Path | None
    encode: dict[int, Encode]
    quantized_nodes: int = 0
    mib: float = 0.0
    load_ms: float | None = None
    compile_s: float = 0.0
    missing: str = ""

    @property
    def padded(self) -> bool:
        """Whether every history is padded to the largest number of events that is read."""
        return self.name in PADDED

    def reading(self, events: int, threads: int = 1) -> Encode:
        """The encoder of histories of at most `events`, to which a padded variant pads them."""
        run = self.encode[threads]
        if not self.padded:
            return run
        return lambda items, lengths: run(
            np.pad(items, ((0, 0), (0, events - items.shape[1]))), lengths
        )


def build(
    encoder: UserEncoder,
    histories: Histories,
    folder: Path,
    threads: Sequence[int] = (1,),
    names: Sequence[str] = tuple(VARIANTS),
) -> list[Variant]:
    """Write and load variants.

    Args:
        encoder: The trained encoder.
        histories: CSR on which static scales are calibrated.
        folder: Folder for the ONNX files.
        threads: Numbers of threads that each variant is loaded for.
        names: Keys of `VARIANTS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _in_pytorch(encoder, name, threads)
        if name in IN_PYTORCH
        else _in_onnx(encoder, histories, folder, name, threads)
        for name in tqdm(names, desc="variants")
    ]


def _in_pytorch(encoder: UserEncoder, name: str, threads: Sequence[int]) -> Variant:
    module = EveryPosition(encoder) if name == TORCH_PADDED else encoder
    runs = {n: TorchEncoder(module, n, compiled=name == TORCH_COMPILED) for n in threads}
    weights = sum(t.nbytes for t in encoder.state_dict().values())
    return Variant(
        name=name,
        path=None,
        encode=dict(runs),
        mib=weights / 2**20,
        compile_s=runs[threads[0]].compile_s,
        missing=runs[threads[0]].why_eager,
    )


def _in_onnx(
    encoder: UserEncoder, histories: Histories, folder: Path, name: str, threads: Sequence[int]
) -> Variant:
    path = folder / f"{name.replace(', ', ' ').replace(' ', '_')}.onnx"
    _write(encoder, histories, name, path)
    loads_s = timeit.repeat(partial(Encoder, path), number=1, repeat=3)
    return Variant(
        name=name,
        path=path,
        encode={n: Encoder(path, n) for n in threads},
        quantized_nodes=quantize.quantized_nodes(path),
        mib=path.stat().st_size / 2**20,
        load_ms=1000 * float(np.median(loads_s)),
    )


def _write(encoder: UserEncoder, histories: Histories, name: str, path: Path) -> None:
    window = encoder.tower.config.window
    if name == EXPORTED:
        export_encoder(encoder, window, path)
    elif name == FUSED:
        onnx.save(fused_tower(encoder), path)
    elif name == INT8_PADDED:
        export_encoder(EveryPosition(encoder), window, path, EARLIER_OPSET)
        quantize.dynamic(path, path, per_channel=False)
    else:
        onnx.save(fused_tower(encoder, by_row=True), path)
        if name == INT8_ROWS:
            quantize.dynamic(path, path, per_channel=True)
        else:
            quantize.static(path, path, _calibration(histories, window))


def _calibration(histories: Histories, window: int, users: int = 64) -> Iterator[quantize.Batch]:
    """Users spread evenly over the lengths of history, one per batch."""
    by_length = np.argsort(histories.lengths, kind="stable")
    users = min(users, len(by_length))
    for user in by_length[np.linspace(0, len(by_length) - 1, users).astype(int)]:
        yield padded(histories, np.array([user]), window)
