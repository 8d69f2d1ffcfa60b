"""How fast training is, against the loop that most code bases have.

    padded, fp32    one row a user, its last events padded to the window; logits at every place of
    every row; AdamW as
                    it comes; fp32
    packed, fp32    rows without padding, the head by chunks and only where a target is, without the
    items that its user
                    had before; dropout by random bytes; fused AdamW
    packed, bf16    the same, with matrix products in bf16: only where the processor multiplies bf16
    natively, as
                    `TrainingConfig.precision` "auto" does

All train the same model at the same number of rows a step, a few steps of each in turn, so that a
machine that slows down slows them all. What is counted is targets: a place that is padding is work,
but no token.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from torch.nn import functional
from tqdm import tqdm

from nanorecsys.data import Histories
from nanorecsys.models.items import ItemContent
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.serving.padding import padded
from nanorecsys.training import batches
from nanorecsys.training.loop import Run, TrainingConfig, best_device, has_bf16

Step = Callable[[], int]


def measure(
    histories: Histories,
    n_items: int,
    content: ItemContent | None,
    model: RetrieverConfig,
    training: TrainingConfig,
    *,
    steps: int = 3,
    repeats: int = 5,
    progress: bool = True,
) -> pl.DataFrame:
    """Raw timings: one row a repeat of a variant: variant, repeat, tokens, seconds.

    Args:
        histories: their lengths decide how much of a padded row is padding.
        n_items: size of the catalogue.
        content: features of the items, if the model wants them.
        steps: of a variant in each repeat.
        repeats: after one that warms up and is not counted.
    """

    def fresh() -> Retriever:
        torch.manual_seed(training.seed)
        return Retriever(model, np.ones(n_items, bool), content if model.content else None).to(
            best_device()
        )

    variants: dict[str, Step] = {
        "padded, fp32": _padded(fresh(), histories, training),
        "packed, fp32": _packed(fresh(), histories, replace(training, precision="fp32")),
    }
    if has_bf16(best_device()):
        variants["packed, bf16"] = _packed(fresh(), histories, replace(training, precision="bf16"))
    rows = []
    for repeat in tqdm(range(repeats + 1), desc="throughput", disable=not progress):
        for variant, step in variants.items():
            start = time.perf_counter_ns()
            tokens = sum(step() for _ in range(steps))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = (time.perf_counter_ns() - start) / 1e9
            rows.append(
                {"variant": variant, "repeat": repeat, "tokens": tokens, "seconds": seconds}
            )
    return pl.DataFrame(rows).filter(pl.col("repeat") > 0)


def summarise(rows: pl.DataFrame, histories: Histories, window: int) -> pl.DataFrame:
    """Medians and spread of `measure`: one row a variant.

    Returns:
        variant; tokens_per_s with its lowest and highest; sequences_per_s, users' histories of at
        most a window; times_padded, the median over the repeats of the rate against the padded
        loop's in the same repeat.
    """
    mean_length = np.minimum(histories.lengths[histories.lengths > 0], window).mean()
    rate = pl.col("tokens") / pl.col("seconds")
    rows = rows.with_columns(rate=rate)
    padded = rows.filter(pl.col("variant") == "padded, fp32").select("repeat", padded="rate")
    return (
        rows.join(padded, on="repeat")
        .group_by("variant", maintain_order=True)
        .agg(
            tokens_per_s=pl.col("rate").median(),
            lowest=pl.col("rate").min(),
            highest=pl.col("rate").max(),
            sequences_per_s=pl.col("rate").median() / mean_length,
            times_padded=(pl.col("rate") / pl.col("padded")).median(),
        )
    )


def _packed(model: Retriever, histories: Histories, training: TrainingConfig) -> Step:
    """The steps of `loop.train`, over and over the same epoch."""
    run = Run(model, histories, training)
    rows = batches.epoch(histories, model.config.window, np.random.default_rng(training.seed))
    queue = list(batches.batches(rows, run.rows))
    model.train()

    def step() -> int:
        batch = queue[run.step % len(queue)]
        run.take_step(batch)
        run.step += 1
        return int(batch.targets.count_nonzero())

    return step


def _padded(model: Retriever, histories: Histories, training: TrainingConfig) -> Step:
    """The plain loop."""
    config, device = model.config, next(model.parameters()).device
    rng = np.random.default_rng(training.seed)
    size = max(1, training.batch_tokens // config.window)
    users = np.flatnonzero(histories.lengths > 1)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    model.train()

    def step() -> int:
        rows, _ = padded(histories, rng.choice(users, size), config.window + 1)
        rows = np.pad(rows, ((0, 0), (0, config.window + 1 - rows.shape[1])))
        items, targets = (torch.from_numpy(part).to(device) for part in (rows[:, :-1], rows[:, 1:]))
        table = model.items()
        x, rotation = model.tower.begin(table[items], torch.arange(config.window, device=device))
        for block in model.tower.blocks:
            x = block(x, rotation, None)
        logits = model.tower.end(x) @ table.T / config.temperature  # (B, L, V + 1)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
        return int(targets.count_nonzero())

    return step
