"""Training throughput at the study shape: packed rows against the plain padded loop, in one run.

The limit is that of the project: at least 3 times the padded loop's tokens a second. See
`nanorecsys.training.throughput` for what each variant does.
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

from nanorecsys.data import DEFAULT_DATASET, histories, load_dataset
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import Retriever, RetrieverConfig
from nanorecsys.study import provenance
from nanorecsys.training import batches
from nanorecsys.training.loop import Run, TrainingConfig, best_device, device_name
from nanorecsys.training.throughput import measure, summarise

LIMIT = 3.0
LARGE = 2048  # rows and columns of the product that others are held against

EPILOG = """
examples:
  python benchmarks/training.py                               the study shape on the bundled data, about 3 minutes
  python benchmarks/training.py --d 64 --layers 2 --heads 2 --hidden 256     another shape
  python benchmarks/training.py --dataset ml-20m              another data set, by name or path
  OMP_NUM_THREADS=1 python benchmarks/training.py             on one core

Last come the matrix products of a packed step in fp32: their share of its time, and their rate beside that of a large
product alone. From these follows what a step could gain at most: were every product as fast as the large one, and were
nothing but products left of it.

How to read it: the variants take turns, so compare within one run only. Set OMP_WAIT_POLICY=passive on a machine that
does other work: OpenMP threads that wait spinning lose more than they win there. Exit status 1: the fastest packed
variant is below 3 times the padded loop. bf16 is left out where the processor does not multiply it natively.
"""


def products(run: Run, steps: int) -> tuple[float, float, float]:
    """Matrix products in steps of a run: their share of the time, their GFLOP/s, and those of a large one alone."""
    run.model.train()
    rows = batches.epoch(run.histories, run.model.config.window, np.random.default_rng(0))
    first, *others = list(batches.batches(rows, run.rows))[: steps + 1]
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
    shape = RetrieverConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default=DEFAULT_DATASET)
    for name in ("d", "layers", "heads", "hidden", "window"):
        parser.add_argument(f"--{name}", type=int, default=getattr(shape, name))
    parser.add_argument("--batch-tokens", type=int, default=TrainingConfig.batch_tokens)
    parser.add_argument("--steps", type=int, default=3, help="of each variant in a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw rows and the machine there")
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset)
    known = histories(dataset.interactions)
    content = item_content(dataset.items)
    shape = RetrieverConfig(
        **{name: getattr(arguments, name) for name in ("d", "layers", "heads", "hidden", "window")}
    )
    training = TrainingConfig(batch_tokens=arguments.batch_tokens)
    start = time.perf_counter()
    rows = measure(
        known,
        dataset.interactions.n_items,
        content,
        shape,
        training,
        steps=arguments.steps,
        repeats=arguments.repeats,
    )
    table = summarise(rows, known, shape.window)
    machine = {
        "cpu": provenance.machine().processor,
        "device": device_name(),
        "torch_threads": torch.get_num_threads(),
        **provenance.threads(),
    }
    print(f"\n{dataset.name}, {dataset.interactions.n_items} items; {machine}")
    print(f"{'':<16}{'tokens/s':>10}{'lowest':>9}{'highest':>9}{'sequences/s':>13}{'x padded':>10}")
    for row in table.iter_rows(named=True):
        print(
            f"{row['variant']:<16}{row['tokens_per_s']:>10.0f}{row['lowest']:>9.0f}{row['highest']:>9.0f}"
            f"{row['sequences_per_s']:>13.1f}{row['times_padded']:>10.2f}"
        )
    if best_device().type == "cpu":
        model = Retriever(shape, np.ones(dataset.interactions.n_items, bool), content)
        share, rate, large = products(
            Run(model, known, replace(training, precision="fp32")), arguments.steps
        )
        times = table.filter(table["variant"] == "packed, fp32")["times_padded"].item()
        faster, alone = times / (1 - share + share * rate / large), times / (share * rate / large)
        print(
            f"matrix products of packed, fp32: {share:.0%} of a step at {rate:.0f} GFLOP/s, a large one {large:.0f}; "
            f"at that rate {faster:.2f}x padded, and {alone:.2f}x if all else took no time"
        )
    peak_gib = psutil.Process().memory_info().rss / 2**30
    print(f"{time.perf_counter() - start:.0f} s, {peak_gib:.1f} GiB resident at the end")
    if arguments.json:
        record = {
            "machine": machine,
            "shape": asdict(shape),
            "rows": rows.to_dicts(),
            "table": table.to_dicts(),
        }
        arguments.json.write_text(json.dumps(record, indent=1))
    return int(table["times_padded"].max() < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
