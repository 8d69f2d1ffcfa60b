"""Seconds and memory that a ratings.csv of ML-20M's size takes from file to prepared data.

A fresh process reads and checks the file, numbers and sorts the events, splits them twice and saves
them. The limits are those of the project: 60 s and 4 GiB on 2 virtual CPUs.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from generated_ratings import write_ratings_csv

from nanorecsys.data import global_temporal, leave_one_out, save_prepared
from nanorecsys.data.load import build_dataset
from nanorecsys.data.read import DataFile, open_events, read_events
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.system.memory import peak_resident_bytes

LIMIT_S, LIMIT_GIB = 60, 4
TOTAL, PEAK = f"total, s (limit {LIMIT_S})", f"peak memory, GiB (limit {LIMIT_GIB})"

EPILOG = """
examples:
  python benchmarks/ingest.py                      20,000,263 rows as in ML-20M, 541 MB, a minute
  python benchmarks/ingest.py --scale 0.05         a twentieth of it, to try the benchmark itself
  python benchmarks/ingest.py --keep /tmp/ml-20m   keep the files, and reuse the generated one
  python benchmarks/ingest.py --csv ratings.csv    your own file in MovieLens layout
  OMP_NUM_THREADS=1 python benchmarks/ingest.py    on one core

The peak is the resident memory of the measured process. Exit status 1: a limit was exceeded (the
limits are for the full size, and for an otherwise idle machine).
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--scale", type=float, default=1.0, help="share of ML-20M's rows and users (default 1)"
    )
    source.add_argument("--csv", type=Path, help="measure this file instead of a generated one")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="folder for the files (default: temporary)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument(
        "--repeats", type=int, default=1, help="measured processes, one after another (default 1)"
    )
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes,
    ):
        folder = args.keep or Path(temporary)
        csv = args.csv or generate(folder, args.scale)
        results = [
            processes.submit(ingest, csv, folder / "prepared").result() for _ in range(args.repeats)
        ]
    print(f"{os.cpu_count()} CPUs, load average of the last minute {os.getloadavg()[0]:.1f}")
    figures = pd.DataFrame(results)
    print(figures.T.to_string(header=False, float_format="{:,.2f}".format))
    if args.json:
        args.json.write_text(figures.to_json(orient="records", indent=2))
    if (figures[TOTAL] > LIMIT_S).any() or (figures[PEAK] > LIMIT_GIB).any():
        sys.exit(1)


def generate(folder: Path, scale: float) -> Path:
    """Write the generated file, unless it is there from an earlier run of the same size."""
    n_ratings, n_users = round(20_000_263 * scale), round(138_493 * scale)
    csv = folder / f"ratings-{n_ratings}.csv"
    if not csv.exists():
        start = time.perf_counter()
        write_ratings_csv(csv, n_ratings, n_users)
        print(f"wrote {csv.stat().st_size / 1e6:,.0f} MB in {time.perf_counter() - start:.1f} s")
    return csv


def ingest(csv: Path, prepared: Path) -> dict[str, float]:
    """Seconds of each step in this process, and its peak memory after them."""
    clock = [time.perf_counter()]
    table = open_events(DataFile(str(csv), csv))
    events = read_events(table)
    clock.append(time.perf_counter())
    dataset = build_dataset("ingest", table, events, movies=None)
    clock.append(time.perf_counter())
    interactions = dataset.interactions
    splits = [leave_one_out(interactions), global_temporal(interactions)]
    clock.append(time.perf_counter())
    save_prepared(prepared, dataset, splits)
    clock.append(time.perf_counter())
    steps = ("parse and check, s", "number and sort, s", "both splits, s", "save, s")
    seconds = [end - start for start, end in itertools.pairwise(clock)]
    return {
        "ratings": len(interactions),
        "users": interactions.n_users,
        "items": interactions.n_items,
        **dict(zip(steps, seconds, strict=True)),
        TOTAL: sum(seconds),
        PEAK: peak_resident_bytes() / 2**30,
    }


if __name__ == "__main__":
    try:
        main()
    except NanorecsysError as error:
        sys.exit(f"ingest: {error}")
