"""Training throughput at the study shape: packed rows against the plain padded loop, in one run.

The limit is that of the project: at least 3 times the padded loop's tokens a second. See
`nanorecsys.training.throughput` for what each variant does.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from nanorecsys.data import DEFAULT_DATASET, histories, load_dataset
from nanorecsys.models.items import item_content
from nanorecsys.models.retriever import RetrieverConfig
from nanorecsys.study import provenance
from nanorecsys.training.loop import TrainingConfig, device_name
from nanorecsys.training.throughput import measure, summarise

LIMIT = 3.0

EPILOG = """
examples:
  python benchmarks/training.py                               the study shape on the bundled data, about 3 minutes
  python benchmarks/training.py --d 64 --layers 2 --heads 2 --hidden 256     another shape
  python benchmarks/training.py --dataset ml-20m              another data set, by name or path
  OMP_NUM_THREADS=1 python benchmarks/training.py             on one core

How to read it: the variants take turns, so compare within one run only. Set OMP_WAIT_POLICY=passive on a machine that
does other work: OpenMP threads that wait spinning lose more than they win there. Exit status 1: the fastest packed
variant is below 3 times the padded loop. bf16 is left out where the processor does not multiply it natively.
"""


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
    shape = RetrieverConfig(**{name: getattr(arguments, name) for name in ("d", "layers", "heads", "hidden", "window")})
    training = TrainingConfig(batch_tokens=arguments.batch_tokens)
    start = time.perf_counter()
    rows = measure(
        known,
        dataset.interactions.n_items,
        item_content(dataset.items),
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
    peak_gib = psutil.Process().memory_info().rss / 2**30
    print(f"{time.perf_counter() - start:.0f} s, {peak_gib:.1f} GiB resident at the end")
    if arguments.json:
        record = {"machine": machine, "shape": asdict(shape), "rows": rows.to_dicts(), "table": table.to_dicts()}
        arguments.json.write_text(json.dumps(record, indent=1))
    return int(table["times_padded"].max() < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
