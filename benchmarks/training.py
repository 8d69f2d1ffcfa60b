"""Training throughput at the study shape: packed rows against the plain padded loop, in one run.

Each packed loop is compared with the padded loop of the same precision; see
`nanorecsys.training.throughput` for what each does.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from nanorecsys.data import DEFAULT_DATASET, leave_one_out, load_dataset
from nanorecsys.evaluation import make_task
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.study import provenance
from nanorecsys.training import batches
from nanorecsys.training.loop import TrainingConfig, TrainingRun, best_device
from nanorecsys.training.throughput import measure, summarise

LIMIT = 1.5  # times the padded loop of the same precision
LARGE = 2048  # rows and columns of the product that others are compared with

EPILOG = """
examples:
  python benchmarks/training.py                          the study shape on the bundled data
  python benchmarks/training.py --d 64 --layers 2 --heads 2 --hidden 256         another shape
  python benchmarks/training.py --dataset ml-20m         another data set, by name or path
  OMP_NUM_THREADS=1 python benchmarks/training.py        on one core

The last lines show the matrix products of a packed step in fp32: their share of its time, and their
rate beside that of a large product alone. They bound what a step can gain: all products as fast as
the large one, and nothing but products left.

How to read it: the loops take turns, so compare within one run only. Set OMP_WAIT_POLICY=passive on
a machine that does other work: OpenMP threads that wait spinning lose more than they win there.
Exit status 1: a packed loop is below 1.5 times the padded one of the same precision. An earlier
limit of 3 compared bf16 with fp32. bf16 is left out where the processor does not multiply it
natively.
"""


def products(run: TrainingRun, steps: int) -> tuple[float, float, float]:
    """Matrix products of a run: share of the time, GFLOP/s, GFLOP/s of a large one alone."""
    run.model.train()
    rows = batches.epoch(run.histories, run.model.config.window, np.random.default_rng(0))
    first, *others = rows.split(run.batch_rows, 1)[: steps + 1]
    run.take_step(first)  # warms up
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiled:
        for batch in others:
            run.take_step(batch)
    events = profiled.key_averages()
    multiplied = [event for event in events if event.flops]
    spent_us = sum(event.self_cpu_time_total for event in multiplied)
    matrix, took_s = torch.randn(LARGE, LARGE), []
    for _ in range(9):
        start = time.perf_counter()
        matrix @ matrix
        took_s.append(time.perf_counter() - start)
    return (
        spent_us / sum(event.self_cpu_time_total for event in events),
        sum(event.flops for event in multiplied) / spent_us / 1e3,
        2 * LARGE**3 / float(np.median(took_s)) / 1e9,
    )


def main() -> int:
    sizes = ("d", "layers", "heads", "hidden", "window")
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default=DEFAULT_DATASET)
    for name in sizes:
        parser.add_argument(f"--{name}", type=int, default=getattr(RetrieverConfig(), name))
    parser.add_argument("--batch-tokens", type=int, default=TrainingConfig.batch_tokens)
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each loop")
    parser.add_argument("--json", type=Path, help="file for the raw rows and the machine")
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset)
    task = make_task(dataset.interactions, leave_one_out(dataset.interactions), "validation")
    shape = RetrieverConfig(**{name: getattr(arguments, name) for name in sizes})
    training = TrainingConfig(batch_tokens=arguments.batch_tokens)
    start = time.perf_counter()
    rows = measure(task, dataset.items, shape, training, arguments.repeats)
    table = summarise(rows)
    table["hours_per_epoch"] = len(task.seen.items) / table["tokens_per_s"] / 3600
    machine = {
        "cpu": provenance.machine().processor,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch_threads": torch.get_num_threads(),
        **provenance.threads(),
    }
    print(f"\n{dataset.name}, {task.n_items} items; {machine}")
    print(table.round(2).to_string())
    if best_device().type == "cpu":
        model = Retriever(shape, np.ones(task.n_items, bool), item_content(dataset.items))
        run = TrainingRun(model, task.seen, replace(training, precision="fp32"))
        share, rate, large = products(run, steps=3)
        times = table["times_padded"]["packed, fp32"]
        faster, alone = times / (1 - share + share * rate / large), times / (share * rate / large)
        print(
            f"matrix products of packed, fp32: {share:.0%} of a step at {rate:.0f} GFLOP/s, "
            f"a large one {large:.0f}; at that rate {faster:.2f}x padded, "
            f"and {alone:.2f}x if all else took no time"
        )
    peak_gib = psutil.Process().memory_info().rss / 2**30
    print(f"{time.perf_counter() - start:.0f} s, {peak_gib:.1f} GiB resident at the end")
    if arguments.json:
        record = {
            "machine": machine,
            "shape": asdict(shape),
            "rows": rows.to_dict("records"),
            "table": table.reset_index().to_dict("records"),
        }
        arguments.json.write_text(json.dumps(record, indent=1))
    packed = table.index.str.startswith("packed")
    return int(table.loc[packed, "times_padded"].min() < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
