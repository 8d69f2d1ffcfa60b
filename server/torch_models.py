"""The models in PyTorch, in place of the bundle's, for comparison with ONNX Runtime.

Only `--engine torch` and `torch-padded` import this. They use one thread: two answer a single
request sooner, but take more of the processor.
"""

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch

from nanorecsys.models.errors import ModelError
from nanorecsys.models.inference import TorchEncoder
from nanorecsys.models.ranker import load_ranker
from nanorecsys.models.retriever import EveryPosition, load_retriever
from nanorecsys.serving.bundle import Bundle
from nanorecsys.serving.errors import ServingError

log = logging.getLogger("server")


class TorchModels:
    """`encode` and `rank` as the engine calls them; `rank` only for a bundle with a ranker.

    `id` names the files that were read, by the first digits of their SHA-256.

    Args:
        folder: Folder of retriever.pt and ranker.pt.
        bundle: Bundle whose sizes the models have to fit.
        every_position: Whether to compute every layer at every position, as the original does.
        compiled: Whether to compile the encoder; without a C++ compiler it stays eager.

    Raises:
        ServingError: A file is missing or damaged, or has another catalogue or window.
    """

    def __init__(self, folder: Path, bundle: Bundle, every_position: bool, compiled: bool) -> None:
        try:
            retriever = load_retriever(folder / "retriever.pt")
            self._ranker = load_ranker(folder / "ranker.pt") if bundle.ranker else None
        except ModelError as error:
            raise ServingError(error.message, error.remedy) from error
        read = ["retriever.pt", *(["ranker.pt"] if self._ranker else [])]
        content = b"".join((folder / name).read_bytes() for name in read)
        self.id = hashlib.sha256(content).hexdigest()[:12]
        encoder = retriever.encoder()
        n_items, d = retriever.item_vectors().shape
        found = (n_items, d, encoder.tower.config.window)
        expected = (bundle.manifest.n_items, bundle.manifest.d, bundle.manifest.window)
        if found != expected:
            raise ServingError(
                f"{folder}: expected models with (items, d, window) {expected}, found {found}",
                "Name the training chapter's folder of the run that the bundle was built from.",
            )
        module = EveryPosition(encoder) if every_position else encoder
        self.encode = TorchEncoder(module, compiled=compiled)
        if self.encode.why_eager:
            log.warning("the PyTorch encoder is not compiled: %s", self.encode.why_eager)

    def rank(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Scores float32 (B, C) of users float32 (B, d) and items int64 (B, C)."""
        assert self._ranker is not None
        with torch.inference_mode():
            read = self._ranker.items.read(torch.from_numpy(items))
            return self._ranker.ranker(torch.from_numpy(users), *read).numpy()
