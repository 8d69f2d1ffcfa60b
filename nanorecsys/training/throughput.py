"""Training speed beside the loop that most code bases have, at equal precision.

    padded    one row per user, its last events padded to the window; logits at every place of
              every row
    packed    rows without padding; logits by chunks, only where a target is and without the items
              that its user had before; dropout by random bytes

Each runs in fp32, and in bf16 where the processor multiplies it natively, as
`TrainingConfig.precision` "auto" does. All train the same model with the same number of rows per
step and torch's fused AdamW. The loops take turns with a few steps each, so that a slow phase of
the machine slows all of them. The rate counts targets: a padding place costs work but is no token.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from tqdm import tqdm

from nanorecsys.evaluation import Task
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.serving.padding import padded
from nanorecsys.training import batches
from nanorecsys.training.loop import TrainingConfig, TrainingRun, autocast, best_device, has_bf16

STEPS = 3  # steps of each loop in a repeat

Step = Callable[[], int]


def measure(
    task: Task,
    items: pd.DataFrame,
    model: RetrieverConfig,
    training: TrainingConfig,
    repeats: int = 3,
) -> pd.DataFrame:
    """Raw timings, one row per repeat of a loop: loop, repeat, tokens, seconds.

    Args:
        task: Task whose known events are trained on.
        items: One row per item, as in `nanorecsys.data.Dataset`.
        model: Sizes of the retriever.
        training: Training settings.
        repeats: Timed repeats, after a warm-up.
    """
    device = best_device()
    content = item_content(items) if model.content else None

    def fresh() -> Retriever:
        torch.manual_seed(training.seed)
        return Retriever(model, np.ones(task.n_items, bool), content).to(device).train()

    loops = {
        f"{rows}, {precision}": step(
            TrainingRun(fresh(), task.seen, replace(training, precision=precision))
        )
        for precision in (["fp32", "bf16"] if has_bf16(device) else ["fp32"])
        for rows, step in (("padded", _padded_step), ("packed", _packed_step))
    }
    timed = []
    for repeat in tqdm(range(repeats + 1), desc="throughput"):
        for name, step in loops.items():
            start = time.perf_counter_ns()
            tokens = sum(step() for _ in range(STEPS))  # counting them waits for the device
            timed.append((name, repeat, tokens, (time.perf_counter_ns() - start) / 1e9))
    timings = pd.DataFrame(timed, columns=["loop", "repeat", "tokens", "seconds"])
    return timings[timings["repeat"] > 0]


def summarise(timings: pd.DataFrame) -> pd.DataFrame:
    """Medians and spread of `measure`, one row per loop, named by the index.

    Returns:
        tokens_per_s with its lowest and highest; times_padded, the median over the repeats of the
        rate divided by that of the padded loop of the same precision in the same repeat.
    """
    rated = timings.assign(rate=timings["tokens"] / timings["seconds"])
    rates = rated.pivot(index="repeat", columns="loop", values="rate")[rated["loop"].unique()]
    beside = [loop.replace("packed", "padded") for loop in rates]
    return pd.DataFrame(
        {
            "tokens_per_s": rates.median(),
            "lowest": rates.min(),
            "highest": rates.max(),
            "times_padded": (rates / rates[beside].to_numpy()).median(),
        }
    )


def _packed_step(run: TrainingRun) -> Step:
    """A step of `loop.train` over one epoch again and again; it returns its tokens."""
    rng = np.random.default_rng(run.config.seed)
    rows = batches.epoch(run.histories, run.model.config.window, rng)
    queue = itertools.cycle(rows.split(run.batch_rows, 1))

    def step() -> int:
        batch = next(queue)
        run.take_step(batch)
        return int(batch[2].count_nonzero())

    return step


def _padded_step(run: TrainingRun) -> Step:
    """A step of the plain loop; it returns its tokens."""
    model, config, device = run.model, run.model.config, run.device
    rng = np.random.default_rng(run.config.seed)
    known = np.flatnonzero(run.histories.lengths > 1)

    def step() -> int:
        rows, _ = padded(run.histories, rng.choice(known, run.batch_rows), config.window + 1)
        rows = np.pad(rows, ((0, 0), (0, config.window + 1 - rows.shape[1])))
        items = torch.from_numpy(rows[:, :-1]).to(device)
        targets = torch.from_numpy(rows[:, 1:]).to(device)
        with autocast(device, run.config.precision):
            table = model.items(config.id_dropout)
            users = model.tower.everywhere(table[items])
            logits = users @ table.T / config.temperature  # (B, L, V + 1)
            loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.config.clip)
        run.optimizer.step()
        run.optimizer.zero_grad()
        return int(targets.count_nonzero())

    return step
