"""Serving bundles for the load test: the original's in kind, and those of the study's own ladder.

Their users are as many as the original had. Where the data set has fewer, they are bootstrapped
from the real histories and numbered from 1.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanorecsys.ann.bundle import TRAINING, fp32_tower, gather
from nanorecsys.export.quantize import dynamic
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.export.variants import EARLIER_OPSET
from nanorecsys.loadtest.population import bootstrap_histories
from nanorecsys.models.retriever import EveryPosition, load_retriever
from nanorecsys.serving.bundle import Parts, build_bundle

# in_kind: the original's int8 export of every position, its ranker, exact search.
# fp32: the export chapter's tower in fp32, exact search; the ranker only if the study serves it.
# chosen: the same with the tower that the export chapter chose.
# served: the bundle that the study serves, with the index of the index chapter.
IN_KIND, FP32, CHOSEN, SERVED = "in_kind", "fp32", "chosen", "served"


@dataclass(frozen=True, eq=False)
class Bundles:
    """Bundles, and what they have in common.

    Args:
        folders: Folder of each bundle by name.
        parts: Parts of each bundle by name.
        bootstrapped: Whether the users are drawn from fewer real ones.
        models: Folder of the PyTorch models.
    """

    folders: dict[str, Path]
    parts: dict[str, Parts]
    bootstrapped: bool
    models: Path

    @property
    def served(self) -> Parts:
        """Parts of the bundle that the study serves."""
        return self.parts[SERVED]


def build_bundles(
    run: Path,
    folder: Path,
    n_users: int,
    seed: int,
    serves_ranker: bool,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Bundles:
    """Export the original's tower, and build the bundles.

    Args:
        run: Folder of a run whose chapters 01 to 04 are read.
        folder: Folder for the bundles.
        n_users: Least number of users of each bundle.
        seed: Random seed of the bootstrap.
        serves_ranker: Whether the study serves the ranker.
        progress: Wraps the names to show progress.

    Raises:
        NanorecsysError: A chapter has not run there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    served = gather(run, with_ranker=True)
    bootstrapped = len(served.user_ids) < n_users
    if bootstrapped:
        users = bootstrap_histories(served.histories, n_users, seed)
        served = dataclasses.replace(served, histories=users, user_ids=np.arange(1, n_users + 1))
    flat = dataclasses.replace(served, index=None, index_factory="Flat", index_search="")
    ranker = served.ranker if serves_ranker else None
    parts = {
        IN_KIND: dataclasses.replace(
            flat,
            tower=_original_tower(run / TRAINING, served.window, folder),
            tower_variant="the original's",
            tower_is_int8=True,
        ),
        FP32: dataclasses.replace(
            flat, ranker=ranker, tower=fp32_tower(run), tower_variant=FP32, tower_is_int8=False
        ),
        CHOSEN: dataclasses.replace(flat, ranker=ranker),
        SERVED: dataclasses.replace(served, ranker=ranker),
    }
    folders = {name: folder / name for name in parts}
    for name in progress(list(parts)):
        build_bundle(folders[name], parts[name])
    return Bundles(folders, parts, bootstrapped, models=run / TRAINING)


def _original_tower(models: Path, window: int, folder: Path) -> Path:
    """Export the tower as the original did: every position, dynamic int8."""
    source, target = folder / "every_position.onnx", folder / "every_position_int8.onnx"
    encoder = load_retriever(models / "retriever.pt").encoder()
    export_encoder(EveryPosition(encoder), window, source, EARLIER_OPSET)
    dynamic(source, target, per_channel=False)
    return target
