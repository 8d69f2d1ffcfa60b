"""What a new user's request costs at best, part by part, beside what the server takes."""

import math
from pathlib import Path

import numpy as np
import onnx
import pandas as pd

from nanorecsys.ann.limits import Limits
from nanorecsys.export.arithmetic import operator_times, peaks
from nanorecsys.loadtest.result import Floor
from nanorecsys.loadtest.summary import COMPUTED
from nanorecsys.serving.bundle import RANKER, TOWER, open_bundle

CANDIDATES = 100  # items that the server retrieves


def find(
    folder: Path, limits: Limits, rows: pd.DataFrame, cold_cpu_ms: float, hit_cpu_ms: float
) -> Floor:
    """Compute the floor, and split the CPU time of a busy server.

    Args:
        folder: Bundle that the server has.
        limits: Measured memory bandwidth.
        rows: Rows of a run that kept the server busy with new users alone, see `summary`.
        cold_cpu_ms: CPU milliseconds of the server for each of their answers.
        hit_cpu_ms: The same for cached answers alone, which is the CPU time of the HTTP layer.
    """
    bundle = open_bundle(folder)
    m, lengths = bundle.manifest, bundle.histories.lengths
    served = np.minimum(lengths[lengths > 0], m.events_read)
    rate = peaks()
    gmacs = rate["int8" if m.tower_is_int8 else "fp32"]
    macs = operator_times(folder / TOWER, m.n_items, round(served.mean())).macs
    # What an index reads besides differs by library, but it reads the vectors that it finds.
    read = 4.0 * m.d * CANDIDATES
    floor = {"encode": macs / gmacs / 1e6, "retrieve": limits.read_ms(read)}
    if bundle.ranker:
        ranked = CANDIDATES * _weights(folder / RANKER)
        macs += ranked
        floor["rank"] = ranked / rate["fp32"] / 1e6
    floor["http"] = hit_cpu_ms
    measured = stage_cpu_ms(rows) | {"http": hit_cpu_ms}
    measured["rest"] = cold_cpu_ms - sum(measured.values())
    return Floor(
        length=float(served.mean()),
        macs=macs,
        gmacs=gmacs,
        read_mib=read / 2**20,
        floor_ms=floor,
        measured_ms=measured,
    )


def stage_cpu_ms(rows: pd.DataFrame) -> dict[str, float]:
    """CPU milliseconds a computed request by stage; each request tells those of its whole batch."""
    found = rows[~rows.warm_up & (rows.status == 200) & rows.encode_ms.notna()]
    columns = [f"{stage}_cpu_ms" for stage in COMPUTED]
    # Equal times to the microsecond in every stage are those of one batch.
    batches = found.drop_duplicates([*columns, *(f"{stage}_ms" for stage in COMPUTED)])
    spent = (batches[columns].sum() / len(found)).tolist()
    return {stage: ms for stage, ms in zip(COMPUTED, spent, strict=True) if ms}


def _weights(path: Path) -> int:
    """Count the ranker's weights that are multiplied once for each item."""
    graph = onnx.load(path).graph
    products = (node for node in graph.node if node.op_type == "MatMul")
    used = {name for node in products if node.input[0] != "users" for name in node.input}
    return sum(math.prod(t.dims) for t in graph.initializer if t.name in used)
