"""ONNX models in ONNX Runtime, as the server runs them: pinned threads, no spinning, no torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from nanorecsys.data import Histories
from nanorecsys.serving.errors import ServingError
from nanorecsys.serving.padding import padded_batches

# A function such as an `Encoder`: items int64 (B, L), lengths int64 (B,) -> vectors float32 (B, d).
Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]


def session(
    model: Path | bytes, threads: int = 1, *, profile: Path | None = None
) -> ort.InferenceSession:
    """A session on the CPU. It may be shared by threads.

    Args:
        model: Path of the ONNX file, or its bytes.
        threads: Number of threads per operator.
        profile: Prefix of the file for ONNX Runtime's profile; no profile where None.

    Raises:
        ServingError: ONNX Runtime cannot load the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A thread that spins takes the core from other threads that have work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen error types
        name = "the model" if isinstance(model, bytes) else model
        raise ServingError(
            f"ONNX Runtime cannot load {name}: {error}", "Export it again."
        ) from error


class Encoder:
    """A user tower: `encoder(items, lengths)` gives unit vectors.

    Args:
        model: Path of the ONNX file, or its bytes.
        threads: Number of threads per operator.
    """

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        self.session = session(model, threads)

    def __call__(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Encode histories as users' vectors, float32 (B, d).

        Args:
            items: int64 (B, L), L at most the window; vocabulary numbers, padded as by
                `serving.padding.padded`.
            lengths: int64 (B,), at least 1.
        """
        return self.session.run(None, {"items": items, "lengths": lengths})[0]

    def release(self) -> None:
        """Free the memory that ONNX Runtime keeps of the largest call; the next call is slower."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        one = np.ones((1, 1), np.int64)  # memory is freed at the end of a call, so make one
        self.session.run(None, {"items": one, "lengths": one[0]}, options)


def encode_users(
    encode: Encode,
    histories: Histories,
    window: int,
    users: np.ndarray | None = None,
    *,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Encode users after their histories, float32 (len(users), d), in batches of similar lengths.

    Args:
        encode: Function from items and lengths to vectors, such as an `Encoder`.
        histories: CSR; a history may be empty.
        window: Number of events of a history that are read, the last ones.
        users: User numbers, int; all users by default.
        batch_tokens: Number of padded positions per batch; 1 for one user at a time.

    Raises:
        ServingError: `users` is empty.
    """
    users = np.arange(len(histories.offsets) - 1) if users is None else users
    if not len(users):
        raise ServingError("there is no user to encode", "Pass at least one.")
    batches = [
        (batch, encode(items, lengths))
        for batch, items, lengths in padded_batches(histories, users, window, batch_tokens)
    ]
    order, vectors = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return vectors[np.argsort(order)]
