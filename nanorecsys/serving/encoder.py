"""ONNX models in ONNX Runtime, as the server runs them: pinned threads, no spinning, no torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from nanorecsys.data import Histories
from nanorecsys.serving.errors import ServingError
from nanorecsys.serving.padding import padded_batches

# Users' vectors float32 (B, d) from items int64 (B, L) and lengths int64 (B,), such as an
# `Encoder`.
Encode = Callable[[np.ndarray, np.ndarray], np.ndarray]


def session(
    model: Path | bytes, threads: int = 1, *, profile: Path | None = None
) -> ort.InferenceSession:
    """A session on the CPU. It may be shared by threads.

    Args:
        model: a file, or its bytes.
        threads: for one operator.
        profile: where to write ONNX Runtime's own profile (it adds a date to the name); None for
            none.

    Raises:
        ServingError: ONNX Runtime does not take the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread takes the core from whoever else has work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen types of its own
        name = "the model" if isinstance(model, bytes) else model
        raise ServingError(
            f"ONNX Runtime does not take {name}: {error}", "Export it again."
        ) from error


class Encoder:
    """A user tower: `encoder(items, lengths)` gives unit vectors.

    Args:
        model: the ONNX file, or its bytes.
        threads: for one operator.
    """

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        self.session = session(model, threads)

    def __call__(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Users' vectors, float32 (B, d).

        Args:
            items: int64 (B, L), L at most the window: vocabulary numbers, laid out as by
                `serving.padding.padded`.
            lengths: int64 (B,), from 1.
        """
        return self.session.run(None, {"items": items, "lengths": lengths})[0]

    def release(self) -> None:
        """Give back what the largest call so far took. ONNX Runtime keeps it for the next, which then is slower."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        one = np.ones(
            (1, 1), np.int64
        )  # memory is given back at the end of a call, so it takes one
        self.session.run(None, {"items": one, "lengths": one[0]}, options)


def encode_users(
    encode: Encode,
    histories: Histories,
    window: int,
    users: np.ndarray | None = None,
    *,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Vectors of users after their histories, float32 (len(users), d), in batches of like lengths.

    Args:
        encode: such as an `Encoder`.
        histories: CSR; an empty one is allowed.
        window: events of a history that count, the last ones.
        users: int; all by default.
        batch_tokens: places of a batch; 1 for one user at a time.

    Raises:
        ServingError: there is no user.
    """
    users = np.arange(len(histories.offsets) - 1) if users is None else users
    if not len(users):
        raise ServingError("there is no user to encode", "Pass at least one.")
    vectors = None
    for batch, items, lengths in padded_batches(histories, users, window, batch_tokens):
        found = encode(items, lengths)
        if vectors is None:
            vectors = np.empty((len(users), found.shape[1]), np.float32)
        vectors[batch] = found
    return vectors
