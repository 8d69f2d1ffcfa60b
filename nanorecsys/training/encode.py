"""Users' vectors for evaluation and for the chapters that follow."""

import numpy as np
import torch

from nanorecsys.data import Histories
from nanorecsys.models.retriever import Retriever
from nanorecsys.serving.padding import padded_batches


def encode_users(
    model: Retriever,
    histories: Histories,
    users: np.ndarray | None = None,
    *,
    events: int | None = None,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Unit vectors of users after their histories, float32 (B, d), in full precision.

    Args:
        histories: CSR; an empty one is allowed.
        users: int (B,); all by default.
        events: of a history that are read, the last ones, at most the model's window; the window by
            default.
        batch_tokens: places of a batch; users of like length share one, so few of them are padding.
    """
    users = np.arange(len(histories.offsets) - 1) if users is None else users
    vectors = np.empty((len(users), model.config.d), np.float32)
    device = next(model.parameters()).device
    encoder = model.encoder()
    with torch.inference_mode():
        for batch, *arrays in padded_batches(
            histories, users, events or model.config.window, batch_tokens
        ):
            items, lengths = (torch.from_numpy(a).to(device) for a in arrays)
            vectors[batch] = encoder(items, lengths).cpu().numpy()
    return vectors
