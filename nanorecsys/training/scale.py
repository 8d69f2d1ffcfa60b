"""Training at the size of another data set: as many steps as show the rate, in a process of its own.

`python -m nanorecsys.training.scale RATINGS STEPS` is that process; its peak memory is that of
reading, splitting and training together.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from nanorecsys.data import leave_one_out, load_dataset
from nanorecsys.data.synthetic import write_ratings_csv
from nanorecsys.evaluation import make_task
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.system.memory import peak_resident_bytes
from nanorecsys.training import batches
from nanorecsys.training.errors import TrainingError
from nanorecsys.training.loop import Run, TrainingConfig, best_device, device_name
from nanorecsys.training.result import ScaleResult

WARM_UP = 2  # steps that are not counted


def measure(
    directory: Path, n_ratings: int, n_users: int, n_items: int, steps: int, seed: int = 0
) -> ScaleResult:
    """The rate of the study shape on a generated data set of that size (`synthetic.write_ratings_csv`).

    Args:
        directory: a folder with room for the file, 27 bytes a rating; it is deleted.
        steps: how many are timed, after two that are not.

    Raises:
        DataError: counts that cannot be met together.
        TrainingError: the measured process failed or was killed.
    """
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        csv = Path(folder) / "ratings.csv"
        write_ratings_csv(csv, n_ratings, n_users, n_items, seed)
        command = [sys.executable, "-m", "nanorecsys.training.scale", str(csv), str(steps)]
        process = subprocess.run(command, capture_output=True, check=False)
    if process.returncode:
        said = process.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise TrainingError(
            f"training at {n_ratings:,} ratings ended with status {process.returncode}, its last words: {said[-1]}",
            "Status -9: it ran out of memory; take a smaller size.",
        )
    return msgspec.json.decode(process.stdout, type=ScaleResult)


def _train(csv: Path, steps: int) -> ScaleResult:
    """Read, split and train for some steps; the rate is that of the counted ones."""
    start = time.perf_counter()
    interactions = load_dataset(csv).interactions
    task = make_task(interactions, leave_one_out(interactions), "validation")
    loaded = time.perf_counter() - start
    known = np.bincount(task.known.item, minlength=task.n_items) > 0
    config = RetrieverConfig(content=False)
    run = Run(Retriever(config, known).to(best_device()), task.seen, TrainingConfig())
    run.model.train()
    rows = batches.epoch(task.seen, config.window, np.random.default_rng(0))
    tokens = 0
    for i, batch in enumerate(batches.batches(rows, run.rows)):
        if i == WARM_UP:
            start = time.perf_counter()
        if i == WARM_UP + steps:
            break
        run.take_step(batch)
        run.step += 1
        tokens += int(batch.targets.count_nonzero()) * (i >= WARM_UP)
    rate = tokens / (time.perf_counter() - start)
    return ScaleResult(
        ratings=len(interactions),
        users=interactions.n_users,
        items=interactions.n_items,
        steps=steps,
        tokens_per_s=rate,
        hours_an_epoch=len(task.seen.items) / rate / 3600,
        load_s=loaded,
        peak_rss_gib=peak_resident_bytes() / 2**30,
        device=device_name(),
    )


if __name__ == "__main__":
    print(msgspec.json.encode(_train(Path(sys.argv[1]), int(sys.argv[2]))).decode())
