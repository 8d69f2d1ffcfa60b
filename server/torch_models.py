"""The study's baseline: both models in PyTorch, eager fp32, every history padded to the window.

Only `--engine torch` imports this. It uses one thread: two answer a single request sooner, but take
more of the processor.
"""

from pathlib import Path

import numpy as np
import torch

from nanorecsys.models.errors import ModelError
from nanorecsys.models.ranker import load_ranker
from nanorecsys.models.retriever import EveryPosition, load_retriever
from nanorecsys.serving.bundle import Bundle
from nanorecsys.serving.errors import ServingError


class TorchModels:
    """`encode` and `rank` as the engine calls them.

    Args:
        folder: Folder of retriever.pt and ranker.pt.
        bundle: Bundle whose sizes the models have to fit.

    Raises:
        ServingError: A file is missing or damaged, or has another catalogue or window.
    """

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        torch.set_num_threads(1)
        try:
            retriever = load_retriever(folder / "retriever.pt")
            self._ranker = load_ranker(folder / "ranker.pt")
        except ModelError as error:
            raise ServingError(error.message, error.remedy) from error
        encoder = retriever.encoder()
        n_items, d = retriever.item_vectors().shape
        found = (n_items, d, encoder.tower.config.window)
        expected = (bundle.manifest.n_items, bundle.manifest.d, bundle.manifest.window)
        if found != expected:
            raise ServingError(
                f"{folder}: expected models with (items, d, window) {expected}, found {found}",
                "Name the training chapter's folder of the run that the bundle was built from.",
            )
        self._encoder = EveryPosition(encoder).eval()

    def encode(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Users' vectors float32 (B, d) of items int64 (B, window) and lengths int64 (B,)."""
        with torch.inference_mode():
            return self._encoder(torch.from_numpy(items), torch.from_numpy(lengths)).numpy()

    def rank(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Scores float32 (B, C) of users float32 (B, d) and items int64 (B, C)."""
        with torch.inference_mode():
            candidates = torch.from_numpy(items)
            padding = torch.zeros_like(candidates, dtype=torch.bool)
            read = self._ranker.items.read(candidates, padding)
            return self._ranker.ranker(torch.from_numpy(users), *read).numpy()
