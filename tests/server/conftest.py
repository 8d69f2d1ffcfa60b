"""A bundle of small models in ONNX, and the PyTorch models that they came from."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from nanorecsys.data import Histories
from nanorecsys.export.graph import fused_tower
from nanorecsys.export.ranker import export_ranker
from nanorecsys.models.ranker import save_ranker
from nanorecsys.models.retriever import Retriever, RetrieverConfig, save_retriever
from nanorecsys.serving.bundle import RANKER, Parts, _write_manifest, build_bundle, check_bundle
from tests.export.test_ranker_export import fitted

N_ITEMS, N_USERS, D, WINDOW = 300, 40, 16, 10


@dataclass(frozen=True)
class Small:
    """Paths of the bundle and of the models, and the histories by user number.

    A user's id is its number + 1000, an item's id its number + 5.
    """

    bundle: Path
    models: Path
    histories: list[np.ndarray]
    vectors: np.ndarray


def build_small(folder: Path, seed: int = 0, target: Path | None = None) -> Small:
    """Build the bundle. Another seed makes other weights."""
    rng = np.random.default_rng(0)
    # user 0 has seen all but five items, user 1 nothing
    histories = [rng.permutation(N_ITEMS)[: N_ITEMS - 5], np.array([], int)]
    histories += [rng.integers(N_ITEMS, size=n) for n in rng.integers(1, 30, size=N_USERS - 2)]
    config = RetrieverConfig(
        d=D, layers=2, heads=2, hidden=24, window=WINDOW, dropout=0.0, content=False
    )
    target = target or folder / "bundle"
    vectors = export_bundle(folder, target, config, N_ITEMS, histories, 1000, 5, seed)
    return Small(target, folder, histories, vectors)


def export_bundle(
    folder: Path,
    target: Path,
    config: RetrieverConfig,
    n_items: int,
    histories: list[np.ndarray],
    first_user_id: int = 0,
    first_item_id: int = 0,
    seed: int = 0,
) -> np.ndarray:
    """Export random models into a bundle, and leave the PyTorch models in `folder`.

    Returns the item vectors.
    """
    folder.mkdir(exist_ok=True, parents=True)
    torch.manual_seed(seed)
    model = Retriever(config, np.ones(n_items, bool)).eval()
    with torch.no_grad():
        for weight in model.tower.parameters():
            # Attention and positions matter as much as after training.
            weight.mul_(10 if weight.dim() == 2 else 1)
    ranker = fitted(n_items, config.d, seed=seed)
    save_retriever(folder / "retriever.pt", model)
    save_ranker(folder / "ranker.pt", ranker)
    onnx.save(fused_tower(model.encoder(), by_row=True), folder / "tower.onnx")
    export_ranker(ranker, folder / "ranker.onnx")
    events = np.concatenate(histories).astype(np.int32)
    vectors = model.item_vectors()
    build_bundle(
        target,
        Parts(
            tower=folder / "tower.onnx",
            ranker=folder / "ranker.onnx",
            item_vectors=vectors,
            items=pd.DataFrame(
                {
                    "item": np.arange(n_items, dtype=np.int32),
                    "item_id": np.arange(first_item_id, first_item_id + n_items),
                    "title": [f"Film {i} (1990)" for i in range(n_items)],
                    "year": pd.array([1990] * n_items, dtype="Int16"),
                    "genres": [["Drama"]] * n_items,
                }
            ),
            histories=Histories(np.cumsum([0, *map(len, histories)]), events),
            user_ids=np.arange(first_user_id, first_user_id + len(histories)),
            popularity=np.bincount(events, minlength=n_items),
            dataset="random",
            commit="0123456789ab",
            window=config.window,
            events_read=config.window,
            tower_variant="fp32, fused operators by row",
            tower_is_int8=False,
        ),
    )
    return vectors


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A bundle for tests that only read it."""
    return build_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own(small, tmp_path):
    """A bundle that a test may replace."""
    shutil.copytree(small.bundle, tmp_path / "bundle.d" / "copy")
    (tmp_path / "bundle").symlink_to("bundle.d/copy")
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def unranked(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle without a ranker."""
    folder = Path(shutil.copytree(small.bundle, tmp_path_factory.mktemp("unranked") / "bundle"))
    manifest = check_bundle(folder)
    (folder / RANKER).unlink()
    files = {name: file for name, file in manifest.files.items() if name != RANKER}
    _write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return folder
