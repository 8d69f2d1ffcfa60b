"""The study's baseline: both models in PyTorch, eager fp32, every history padded to the window.

Only `--engine torch` imports this. One thread: two answer a single request sooner, and take more of
the processor.
"""

from pathlib import Path

import numpy as np
import torch

from nanorecsys.models.ranker import load_ranker
from nanorecsys.models.retriever import EveryPosition, load_retriever
from nanorecsys.serving.bundle import Bundle
from server.errors import SettingsError


class TorchModels:
    """`encode` and `rank` as the engine calls them.

    Args:
        folder: with retriever.pt and ranker.pt.
        bundle: whose sizes they have to fit.

    Raises:
        ModelError: a file is missing or damaged.
        SettingsError: the models are of another catalogue or window.
    """

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        torch.set_num_threads(1)
        retriever = load_retriever(folder / "retriever.pt")
        encoder = retriever.encoder()
        manifest = bundle.manifest
        found = (len(encoder.table) - 1, encoder.table.shape[1], encoder.tower.config.window)
        if found != (manifest.n_items, manifest.d, manifest.window):
            raise SettingsError(
                f"the models in {folder} have (items, d, window) {found}, the bundle "
                f"{(manifest.n_items, manifest.d, manifest.window)}",
                "Name the training chapter's folder of the run that the bundle was built from.",
            )
        self._encoder = EveryPosition(encoder).eval()
        self._ranker = load_ranker(folder / "ranker.pt")

    def encode(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Users' vectors float32 (B, d) of items int64 (B, window) and lengths int64 (B,)."""
        with torch.inference_mode():
            return self._encoder(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()

    def rank(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Scores float32 (B, C) of users float32 (B, d) and items int64 (B, C)."""
        with torch.inference_mode():
            candidates = torch.from_numpy(items)
            read = self._ranker.items.read(
                candidates, torch.zeros_like(candidates, dtype=torch.bool)
            )
            return self._ranker.ranker(torch.from_numpy(users), *read).numpy()
