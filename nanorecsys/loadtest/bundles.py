"""Serving bundles for the load test: the study's own with as many users as the original had, and one for each model
and index that a rung of the ladder serves.

The users are bootstrapped from the run's real histories and numbered from 1, unless the data set
has as many itself.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from nanorecsys.ann import bundle as command
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.torch_export import export_encoder
from nanorecsys.loadtest.population import bootstrap_histories
from nanorecsys.models.retriever import EveryPosition, load_retriever
from nanorecsys.serving.bundle import Parts, build_bundle

# The bundles by what is new in each against the one before it.
EVERY, LAST, FUSED, CHOSEN, INDEXED = (
    "every position",
    "last position",
    "fused",
    "chosen",
    "indexed",
)
FLAT = "Flat"


@dataclass(frozen=True, eq=False)
class Bundles:
    """The bundles' folders and parts by name, and what they have in common.

    `bootstrapped` says that the users are drawn again from real ones; `lengths` are the events of
    each that the final server reads, int64 (n_users,); `models` is the folder of the PyTorch
    models.
    """

    folders: dict[str, Path]
    changed: dict[str, Parts]
    parts: Parts
    bootstrapped: bool
    lengths: np.ndarray
    models: Path

    @property
    def final(self) -> str:
        """The name of the bundle that the study serves."""
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
        run: the run's folder, whose chapters 01 to 04 are read.
        folder: where the bundles go.
        n_users: users of each; real ones where the data set has as many or more.
        seed: of the bootstrap.
        names: which bundles, all if empty; the flat one of the chosen tower and the study's own are
            always there.
        progress: wraps the names, to show how far it is.

    Raises:
        NanorecsysError: a chapter has not run there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = command.gather(run)
    bootstrapped = len(parts.user_ids) < n_users
    if bootstrapped:
        parts = dataclasses.replace(
            parts,
            histories=bootstrap_histories(parts.histories, n_users, seed, parts.events_read),
            user_ids=np.arange(1, n_users + 1),
        )
    models = run / command.TRAINING
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
    """The parts of each bundle, each changed in one thing against the one before; the last is the study's own."""
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
    """The towers in fp32: all layers at every position, the last layer at the last one only, and that from fused
    operators."""
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
