"""The training loop of the retriever.

    batch      rows of the epoch's stream (batches.py), every process its share
    forward    vectors at every place and of every item, in bf16 where the processor has it
    loss       mean over the targets of the global batch (losses.py)
    step       gradients summed over the processes, clipped, fused AdamW
    epoch end  validation, early stopping, a line of the curve
    any step   a checkpoint, from which a killed run goes on (on the CPU to the very same result)

The step is eager on purpose. On a CPU most of its time is in matrix products already, and
torch.compile made it slower (2,700 against 2,900 tokens a second and core at the study shape,
AVX-512 with bf16), after 25 s of compiling.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from nanorecsys.data import Histories
from nanorecsys.models.retriever import Retriever
from nanorecsys.training import batches, checkpoint, distributed
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.losses import LOSSES

Validate = Callable[[Retriever], float]


@dataclass(frozen=True)
class TrainingConfig:
    """How the retriever is trained.

    Args:
        epochs: passes over the events that the schedule is laid out for.
        patience: stop after that many epochs without a better validation; 0 for never.
        loss: a name of `losses.LOSSES`.
        seen_negatives: a target is compared with the items that its user had before, too, which no
            ranking contains.
        batch_tokens: targets in a step of all processes together, rounded to whole windows.
        learning_rate: the highest: it rises over the first `warmup` of all steps and falls to 0 at
            the last.
        warmup: share of the steps.
        weight_decay: of the matrices, AdamW's.
        clip: norm that gradients are clipped to.
        seed: of weights, order, dropout and negatives.
        precision: "auto" takes bf16 where the processor multiplies it natively, fp32 elsewhere.
    """

    epochs: int = 12
    patience: int = 0
    loss: str = "full_softmax"
    seen_negatives: bool = False
    batch_tokens: int = 2000
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise TrainingError(
                f"there is no loss {self.loss!r}", f"Use one of {', '.join(LOSSES)}."
            )
        if min(self.epochs, self.batch_tokens) < 1:
            raise TrainingError(
                "epochs and batch_tokens must be at least 1", "Raise the one that is not."
            )


@dataclass(frozen=True)
class Trained:
    """What a run has to say; the model itself was trained in place.

    Args:
        curve: one row an epoch: epoch, loss, tokens, seconds (of training alone), validation (null
            without one).
        best_epoch: the epoch whose weights the model has: the best by validation, the last without
            one.
    """

    curve: pl.DataFrame
    best_epoch: int


def train(
    model: Retriever,
    histories: Histories,
    config: TrainingConfig,
    *,
    validate: Validate | None = None,
    stop_after: int | None = None,
    checkpoint_path: Path | None = None,
    checkpoint_steps: int = 100,
    device: torch.device | None = None,
    progress: bool = True,
) -> Trained:
    """Train in place. Under torchrun every process calls this with the same arguments.

    Args:
        model: fresh, or as an earlier training left it.
        histories: events to train on.
        validate: called after each epoch; higher is better, and the best epoch's weights are kept.
        stop_after: last epoch of the schedule that is run: a refit for as long as validation found
            best.
        checkpoint_path: written every `checkpoint_steps` steps and after each epoch; where it
            exists, the run goes on from it.
        device: a GPU if there is one, by default.

    Raises:
        TrainingError: nothing to train on, a loss that is not finite, a checkpoint of another run.
    """
    if not len(histories.items):
        raise TrainingError(
            "there is no event to train on", "Use a split that leaves events to train on."
        )
    device = device or best_device()
    run = Run(model.to(device), histories, config)
    if checkpoint_path:
        run.name = checkpoint.fingerprint(
            histories, model.config, config, validated=validate is not None
        )
        run.restore(checkpoint_path)
    last = min(config.epochs, stop_after or config.epochs)
    bar = tqdm(
        total=last * run.steps,
        desc="train",
        unit="step",
        disable=not progress or distributed.rank() > 0,
        initial=run.step,
    )
    with bar:
        while run.epoch < last and not run.is_stalled():
            for loss in run.steps_left():
                bar.set_postfix(epoch=f"{run.epoch + 1}/{last}", loss=f"{loss:.3f}", refresh=False)
                bar.update()
                if checkpoint_path and run.step % checkpoint_steps == 0:
                    run.save(checkpoint_path)
            run.finish_epoch(validate)
            if checkpoint_path:
                run.save(checkpoint_path)
    if run.best is not None:
        model.load_state_dict(run.best)
    return Trained(
        pl.DataFrame(run.curve, schema_overrides={"validation": pl.Float64}),
        run.best_epoch or run.epoch,
    )


def best_device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def device_name() -> str:
    """What `best_device` is, for records: the card's name, or CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 natively; elsewhere PyTorch emulates it, far slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return features.get("avx512_bf16", False) or features.get("amx_bf16", False)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that forward and loss run in, see `TrainingConfig.precision`."""
    enabled = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


class Run:
    """All that changes while a model trains, and what it takes to put it back."""

    def __init__(self, model: Retriever, histories: Histories, config: TrainingConfig) -> None:
        self.model, self.histories, self.config = model, histories, config
        self.device = next(model.parameters()).device
        self.loss = LOSSES[config.loss]
        self.offsets, self.items = (
            torch.tensor(a, device=self.device) for a in (histories.offsets, histories.items)
        )
        self.counts = torch.from_numpy(
            np.bincount(histories.items + 1, minlength=len(model.items.ids))
        ).to(self.device)
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in model.parameters() if p.dim() == 2],
                    "weight_decay": config.weight_decay,
                },
                {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        rows = batches.rows_of_epoch(len(histories.items), model.config.window)
        self.rows = max(1, round(config.batch_tokens / model.config.window))
        self.steps = -(-rows // self.rows)  # of an epoch
        self.warmup = max(1, round(config.warmup * self.steps * config.epochs))
        self.step = self.epoch = self.best_epoch = 0
        self.total, self.seconds = 0.0, 0.0  # summed loss and seconds of the epoch so far
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] | None = None
        self.name = ""  # what a checkpoint is known by
        # Dropout differs between the processes, negatives do not.
        torch.manual_seed(config.seed * 1000 + distributed.rank())
        cuda = self.device.type == "cuda"
        self.dropout = (
            torch.cuda.default_generators[self.device.index] if cuda else torch.default_generator
        )
        self.negatives = torch.Generator().manual_seed(config.seed)

    def steps_left(self) -> Iterator[float]:
        """Train to the end of the epoch, from wherever in it the run stands; the loss of each step."""
        self.model.train()
        rows = batches.epoch(
            self.histories,
            self.model.config.window,
            np.random.default_rng([self.config.seed, self.epoch]),
        )
        for i, batch in enumerate(batches.batches(rows, self.rows)):
            if i < self.step - self.epoch * self.steps:
                continue
            start = time.perf_counter()
            loss = self.take_step(batch)
            self.total += loss * int(batch.targets.count_nonzero())
            self.seconds += time.perf_counter() - start
            self.step += 1
            yield loss

    def take_step(self, batch: batches.Batch) -> float:
        """One step on a global batch; its loss."""
        targets = batch.targets[batch.targets > 0].to(self.device)
        candidates = self.loss.candidates(targets, self.counts, self.negatives)
        mine = batch.share(distributed.rank(), distributed.world()).to(self.device)
        loss = torch.zeros((), device=self.device)
        if len(mine.items):
            filled = mine.targets > 0
            with autocast(self.device, self.config.precision):
                users, table = self.model(mine.items, mine.segments)  # (R, L, D), (V + 1, D)
                users = (
                    users[filled] / self.model.config.temperature
                )  # (N, D): the head only where a target is
                weights = users.new_full((len(users),), 1 / len(targets))
                had = self.had_before(mine.events[filled], len(table) - 1)
                loss = self.loss(
                    users, table, mine.targets[filled], had, weights, candidates, self.counts
                )
            loss.backward()
        loss = distributed.sum_gradients(self.model.parameters(), loss.detach()).item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if not math.isfinite(loss + norm.item()):
            raise TrainingError(
                f"step {self.step + 1} (epoch {self.epoch + 1}) has loss {loss} and a gradient of norm {norm.item()}",
                "Lower learning_rate, raise temperature, or use precision fp32; a checkpoint holds the weights before.",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.schedule()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def had_before(self, events: Tensor, n_items: int) -> Tensor:
        """The items that each target is not compared with, bool (N, n_items + 1)."""
        if self.config.seen_negatives:
            return torch.zeros(len(events), n_items + 1, dtype=torch.bool, device=self.device)
        return batches.had_before(self.offsets, self.items, events, n_items)

    def schedule(self) -> float:
        """Share of the highest learning rate: up over the warm-up, then down to 0 on a line."""
        total = self.steps * self.config.epochs
        return min((self.step + 1) / self.warmup, (total - self.step) / (total - self.warmup + 1))

    def finish_epoch(self, validate: Validate | None) -> None:
        self.epoch += 1
        row = {
            "epoch": self.epoch,
            "loss": self.total / len(self.histories.items),
            "seconds": self.seconds,
        }
        value = None
        if validate:
            value = distributed.from_first(
                validate(self.model.eval()) if distributed.rank() == 0 else None
            )
            if value > max((past["validation"] for past in self.curve), default=-1.0):
                self.best_epoch = self.epoch
                self.best = {
                    name: tensor.clone() for name, tensor in self.model.state_dict().items()
                }
        self.curve.append({**row, "validation": value})
        self.total = self.seconds = 0.0

    def is_stalled(self) -> bool:
        return bool(
            self.config.patience
            and self.best
            and self.epoch - self.best_epoch >= self.config.patience
        )

    def save(self, path: Path) -> None:
        """Everything; dropout's state from every process, the rest from the first."""
        dropout = distributed.gather(self.dropout.get_state())
        if distributed.rank() == 0:
            state = {name: getattr(self, name) for name in _PLAIN}
            state |= {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "dropout": dropout,
            }
            checkpoint.save(
                path,
                self.name,
                state | {"negatives": self.negatives.get_state(), "best": self.best},
            )
        distributed.from_first(None)  # no process reads it before it is there

    def restore(self, path: Path) -> None:
        """Go back to where a checkpoint was written, if there is one."""
        state = checkpoint.load(path, self.name)
        if state is None:
            return
        if len(state["dropout"]) != distributed.world():
            raise TrainingError(
                f"{path} was written by {len(state['dropout'])} processes, and {distributed.world()} are running",
                "Start as many, or delete it to start anew.",
            )
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = state["best"]
        self.negatives.set_state(state["negatives"])
        self.dropout.set_state(state["dropout"][distributed.rank()])


_PLAIN = ("step", "epoch", "best_epoch", "total", "seconds", "curve")
