"""Checkpoints that are whole or not there, and refuse to continue another run."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nanorecsys.data import Histories
from nanorecsys.system.files import atomic_path
from nanorecsys.training.errors import TrainingError


def fingerprint(histories: Histories, *configs: Any, validated: bool) -> str:
    """What a run is: sha256 over its dataclass configurations, its training histories, and if it is validated."""
    settings = [validated, *(asdict(config) for config in configs)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(histories.offsets)
    digest.update(histories.items)
    return digest.hexdigest()


def save(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write the tensors and plain values of the run with that fingerprint; killed midway, the last file stays."""
    with atomic_path(path) as part:
        torch.save({"run": run, **state}, part)


def load(path: Path, run: str) -> dict[str, Any] | None:
    """The state at `path`, or None where there is none.

    Args:
        run: the fingerprint that it was saved with.

    Raises:
        TrainingError: the file is no checkpoint, or one of another run.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
        saved = state["run"]
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise TrainingError(
            f"{path} is not a checkpoint: {error}", "Delete it to start anew."
        ) from error
    if saved != run:
        raise TrainingError(
            f"{path} belongs to a run with other settings or other data",
            "Delete it to start anew, or undo the change.",
        )
    return state
