"""The training loop of the retriever.

    batch      rows of the epoch's stream (batches.py), every process its share
    forward    vectors at every place and of every item, in bf16 where the processor has it
    loss       mean over the targets of the global batch (losses.py)
    step       gradients summed over the processes, clipped, fused AdamW
    epoch end  validation, a row of the curve
    any step   a checkpoint, from which a killed run continues (on the CPU to the very same result)

The step is eager on purpose. On a CPU it spends most of its time in matrix products already, and
torch.compile made it slower (2,700 against 2,900 tokens per second and core at the study shape,
AVX-512 with bf16), after 25 s of compiling.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from nanorecsys.data import Histories
from nanorecsys.models.retriever import Retriever
from nanorecsys.system.files import atomic_path
from nanorecsys.training import batches, distributed
from nanorecsys.training.errors import TrainingError, check_names
from nanorecsys.training.losses import LOSSES

CHECKPOINT_STEPS = 100  # steps between two checkpoints; each epoch ends with another one
# Attributes of a `TrainingRun` that a checkpoint holds beside the states of model and optimiser.
SAVED = ("step", "epoch", "best_epoch", "best", "loss_sum", "seconds", "curve")

Validate = Callable[[Retriever], float]


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the retriever's training.

    Args:
        epochs: Passes over the events that the learning rate schedule is laid out for.
        loss: A name of `losses.LOSSES`.
        seen_negatives: Whether a target also competes with the items that its user had before.
        batch_tokens: Targets in a step of all processes together, rounded to whole windows.
        learning_rate: Peak rate: it rises over the first `warmup` of all steps and falls to 0 at
            the last one.
        warmup: Share of the steps in which the rate rises.
        weight_decay: AdamW's weight decay of matrices; vectors have none.
        clip: Norm that gradients are clipped to.
        seed: Random seed for weights, order, dropout and negatives.
        precision: Precision of the forward pass, "fp32", "bf16" or "auto", which takes bf16 where
            the processor multiplies it natively.
    """

    epochs: int = 12
    loss: str = "full_softmax"
    seen_negatives: bool = False
    batch_tokens: int = 2000
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_names("loss", [self.loss], LOSSES)
        check_names("precision", [self.precision], ["auto", "bf16", "fp32"])
        if min(self.epochs, self.batch_tokens) < 1:
            raise TrainingError("epochs and batch_tokens must be at least 1", "Raise them.")


@dataclass(frozen=True)
class Trained:
    """A trained retriever and the course of its training.

    Args:
        model: The retriever in evaluation mode, with the weights of the best epoch.
        curve: One row per epoch: epoch, loss, seconds of training alone, validation (missing
            without one).
        best_epoch: The best epoch by validation, the last epoch without one.
    """

    model: Retriever
    curve: pd.DataFrame
    best_epoch: int


def train(
    model: Retriever,
    histories: Histories,
    config: TrainingConfig,
    *,
    validate: Validate | None = None,
    stop_after: int | None = None,
    checkpoint_path: Path | None = None,
    progress: bool = True,
) -> Trained:
    """Train a model in place. Under torchrun every process calls this with the same arguments.

    Args:
        model: Retriever to train, fresh or trained before.
        histories: Events to train on.
        config: Training settings.
        validate: Function called after each epoch, higher is better; the best epoch's weights are
            kept.
        stop_after: Last epoch of the schedule to run, for a refit as long as validation found best.
        checkpoint_path: File written every `CHECKPOINT_STEPS` steps and after each epoch. If it
            exists, training continues from it.
        progress: Whether to show a progress bar.

    Raises:
        TrainingError: a loss that is not finite, a checkpoint of another run.
    """
    run = TrainingRun(model.to(best_device()), histories, config, validate)
    if checkpoint_path and checkpoint_path.exists():
        run.restore(checkpoint_path)
    last = min(config.epochs, stop_after or config.epochs)
    total = last * run.epoch_steps
    hidden = not progress or distributed.rank() > 0
    with tqdm(desc="train", total=total, initial=run.step, disable=hidden) as bar:
        while run.epoch < last:
            for loss in run.remaining_steps():
                bar.set_postfix(epoch=f"{run.epoch + 1}/{last}", loss=f"{loss:.3f}", refresh=False)
                bar.update()
                if checkpoint_path and run.step % CHECKPOINT_STEPS == 0:
                    run.save(checkpoint_path)
            run.finish_epoch()
            if checkpoint_path:
                run.save(checkpoint_path)
    if run.best is not None:
        model.load_state_dict(run.best)
    curve = pd.DataFrame(run.curve).astype({"validation": float})
    return Trained(model.eval(), curve, run.best_epoch or run.epoch)


def best_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively; emulated, it is far slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return features.get("avx512_bf16", False) or features.get("amx_bf16", False)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of forward pass and loss, see `TrainingConfig.precision`."""
    enabled = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


class TrainingRun:
    """All state that changes while a model trains: one step, one epoch, save and restore."""

    def __init__(
        self,
        model: Retriever,
        histories: Histories,
        config: TrainingConfig,
        validate: Validate | None = None,
    ) -> None:
        self.model, self.histories, self.config, self.validate = model, histories, config, validate
        self.device = next(model.parameters()).device
        self.loss = LOSSES[config.loss]
        self.offsets = torch.tensor(histories.offsets, device=self.device)
        self.items = torch.tensor(histories.items, device=self.device)
        self.counts = torch.bincount(self.items + 1, minlength=len(model.items.ids))
        matrices = [p for p in model.parameters() if p.dim() == 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.batch_rows = max(1, round(config.batch_tokens / model.config.window))
        self.epoch_steps = -(-len(histories.items) // (model.config.window * self.batch_rows))
        self.step = self.epoch = self.best_epoch = 0
        self.best: dict[str, Tensor] | None = None  # weights of the best epoch
        self.loss_sum = self.seconds = 0.0  # sums over the epoch so far
        self.curve: list[dict[str, Any]] = []

    def remaining_steps(self) -> Iterator[float]:
        """Train from the current step to the end of the epoch, and yield the loss of each step."""
        self.model.train()
        rng = np.random.default_rng([self.config.seed, self.epoch])
        rows = batches.epoch(self.histories, self.model.config.window, rng)
        done = self.step - self.epoch * self.epoch_steps
        for batch in rows.split(self.batch_rows, 1)[done:]:
            start = time.perf_counter()
            loss = self.take_step(batch)
            self.loss_sum += loss * int(batch[2].count_nonzero())
            self.seconds += time.perf_counter() - start
            yield loss

    def take_step(self, batch: Tensor) -> float:
        """Train on a global batch of rows (4, R, L), and return its loss."""
        # The step's number seeds its randomness, so a checkpoint needs no generator's state.
        # Negatives are the same in every process, dropout is not.
        seed = self.config.seed * 10**9 + self.step * 1000
        torch.manual_seed(seed + 1 + distributed.rank())
        negatives = torch.Generator().manual_seed(seed)
        all_targets = batch[2][batch[2] > 0].to(self.device)
        candidates = self.loss.candidates(all_targets, self.counts, negatives)
        share = batch[:, distributed.rank() :: distributed.world()].contiguous().to(self.device)
        items, segments, targets, events = share
        mean = torch.zeros((), device=self.device)
        if len(items):
            filled = targets > 0
            with autocast(self.device, self.config.precision):
                users, table = self.model(items, segments)  # (R, L, D), (V + 1, D)
                users = users[filled] / self.model.config.temperature  # (N, D), where targets are
                had = self.excluded(events[filled])
                weights = users.new_full((len(users),), 1 / len(all_targets))
                mean = self.loss(
                    users, table, targets[filled], had, weights, candidates, self.counts
                )
            mean.backward()
        loss = distributed.sum_gradients(self.model.parameters(), mean.detach()).item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip).item()
        if not math.isfinite(loss + norm):
            raise TrainingError(
                f"step {self.step + 1} (epoch {self.epoch + 1}) has loss {loss}, gradient {norm}",
                "Lower learning_rate, raise temperature, or use precision fp32.",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.schedule()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss

    def excluded(self, events: Tensor) -> Tensor:
        """Items that each target does not compete with, bool (N, n_items + 1)."""
        had = batches.had_before(self.offsets, self.items, events, len(self.counts) - 1)
        return had & (not self.config.seen_negatives)

    def schedule(self) -> float:
        """Share of the peak learning rate: linear up over the warm-up, then linear down to 0."""
        total = self.epoch_steps * self.config.epochs
        warmup = max(1, round(self.config.warmup * total))
        return min((self.step + 1) / warmup, (total - self.step) / (total - warmup + 1))

    def finish_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and add a row to the curve."""
        self.epoch += 1
        validation = None
        if self.validate:
            # Only the first process validates; the others get its value.
            first = distributed.rank() == 0
            validation = distributed.from_first(self.validate(self.model.eval()) if first else None)
            if validation > max((row["validation"] for row in self.curve), default=-1.0):
                self.best_epoch = self.epoch
                self.best = {name: w.clone() for name, w in self.model.state_dict().items()}
        loss = self.loss_sum / len(self.histories.items)
        row = {"epoch": self.epoch, "loss": loss, "seconds": self.seconds, "validation": validation}
        self.curve.append(row)
        self.loss_sum = self.seconds = 0.0

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the run: sha256 over its settings and training events."""
        settings = repr((self.config, self.model.config, self.validate is not None)).encode()
        events = self.histories.offsets.tobytes() + self.histories.items.tobytes()
        return hashlib.sha256(settings + events).hexdigest()

    def save(self, path: Path) -> None:
        """Write a checkpoint; a kill midway leaves the last one as it was."""
        if distributed.rank() == 0:
            state = {name: getattr(self, name) for name in SAVED}
            state["run"] = self.fingerprint
            state["model"] = self.model.state_dict()
            state["optimizer"] = self.optimizer.state_dict()
            with atomic_path(path) as part:
                torch.save(state, part)
        distributed.from_first(None)  # no process continues before the file exists

    def restore(self, path: Path) -> None:
        """Go back to a checkpoint.

        Raises:
            TrainingError: the file belongs to another run.
        """
        state = torch.load(path, weights_only=True)
        if state["run"] != self.fingerprint:
            raise TrainingError(
                f"{path} belongs to a run with other settings or other data",
                "Delete it to start over, or undo the change.",
            )
        vars(self).update({name: state[name] for name in SAVED})
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
