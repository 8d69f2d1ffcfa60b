"""Serving bundles for the load test: one for each model and index that a rung of the ladder serves.

Their users are as many as the original had. Where the data set has fewer, they are bootstrapped
from the real histories and numbered from 1.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from nanorecsys.ann.bundle import TRAINING, gather
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.loadtest.population import bootstrap_histories
from nanorecsys.models.retriever import EveryPosition, load_retriever
from nanorecsys.serving.bundle import Parts, build_bundle

# The bundles in order, each by what is new against the one before it.
BUNDLE_NAMES = ("every position", "last position", "fused", "chosen", "indexed")
EVERY, LAST, FUSED, CHOSEN, INDEXED = BUNDLE_NAMES
FLAT = "Flat"


@dataclass(frozen=True, eq=False)
class Bundles:
    """Bundles, and what they have in common.

    Args:
        folders: Folder of each bundle by name, in order.
        changed: Parts of each bundle by name.
        parts: Parts of the bundle that the study serves.
        bootstrapped: Whether the users are drawn from fewer real ones.
        lengths: Events of each user that the final server reads, int64 (n_users,).
        models: Folder of the PyTorch models.
    """

    folders: dict[str, Path]
    changed: dict[str, Parts]
    parts: Parts
    bootstrapped: bool
    lengths: np.ndarray
    models: Path

    @property
    def final(self) -> str:
        """Name of the bundle that the study serves."""
        return list(self.folders)[-1]


def build_bundles(
    run: Path,
    folder: Path,
    n_users: int,
    seed: int,
    names: Collection[str] = (),
    progress: Callable[[Iterable], Iterable] = iter,
) -> Bundles:
    """Export the towers that differ, and build the bundles.

    Args:
        run: Folder of a run whose chapters 01 to 04 are read.
        folder: Folder for the bundles.
        n_users: Number of users of each bundle.
        seed: Random seed of the bootstrap.
        names: Names of the bundles, all if empty; the one with the chosen tower and the study's own
            are always built.
        progress: Wraps the names to show progress.

    Raises:
        NanorecsysError: A chapter has not run there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = gather(run)
    bootstrapped = len(parts.user_ids) < n_users
    if bootstrapped:
        parts = dataclasses.replace(
            parts,
            histories=bootstrap_histories(parts.histories, n_users, seed, parts.events_read),
            user_ids=np.arange(1, n_users + 1),
        )
    models = run / TRAINING
    wanted = set(names or (EVERY, LAST, FUSED))
    changed = _changes(parts, _export(models, parts, folder, wanted))
    for name in progress(list(changed)):
        build_bundle(folder / name.replace(" ", "_"), changed[name])
    return Bundles(
        folders={name: folder / name.replace(" ", "_") for name in changed},
        changed=changed,
        parts=parts,
        bootstrapped=bootstrapped,
        lengths=np.clip(parts.histories.lengths, 1, parts.events_read),
        models=models,
    )


def _changes(parts: Parts, towers: dict[str, Path]) -> dict[str, Parts]:
    """List the parts of each bundle, each with one change against the one before."""
    flat = dataclasses.replace(parts, index=None, index_factory=FLAT, index_search="")
    found = {
        name: dataclasses.replace(flat, tower=tower, tower_variant=name, tower_is_int8=False)
        for name, tower in towers.items()
    }
    found[CHOSEN] = flat
    if parts.index_factory != FLAT:
        found[INDEXED] = parts
    return found


def _export(models: Path, parts: Parts, folder: Path, names: Collection[str]) -> dict[str, Path]:
    """Export the fp32 towers: every position, the last position only, and fused operators."""
    encoder = load_retriever(models / "retriever.pt").encoder()
    paths = {
        name: folder / f"{name.replace(' ', '_')}.onnx"
        for name in (EVERY, LAST, FUSED)
        if name in names
    }
    if EVERY in paths:
        export_encoder(EveryPosition(encoder), parts.window, paths[EVERY])
    if LAST in paths:
        export_encoder(encoder, parts.window, paths[LAST])
    if FUSED in paths:
        onnx.save(fused_tower(encoder), paths[FUSED])
    return paths
