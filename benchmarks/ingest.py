"""Seconds and memory that a ratings.csv of ML-20M's size takes from file to prepared data.

A fresh process reads and checks the file, numbers and sorts, splits twice and saves. The limits are
those of the
project: 60 s and 4 GiB on 2 virtual CPUs.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from nanorecsys.data.ingest import measure_file
from nanorecsys.data.result import IngestResult
from nanorecsys.data.synthetic import write_ratings_csv
from nanorecsys.system.errors import NanorecsysError

LIMIT_S, LIMIT_GIB = 60, 4

EPILOG = """
examples:
  python benchmarks/ingest.py                          ML-20M's size: 20,000,263 rows, 541 MB, about a minute
  python benchmarks/ingest.py --scale 0.05             a twentieth of it, to try the benchmark itself
  python benchmarks/ingest.py --keep /tmp/ml-20m-like  keeps file and prepared data; reuses the file when there
  python benchmarks/ingest.py --csv ratings.csv        your own file in MovieLens layout
  OMP_NUM_THREADS=1 python benchmarks/ingest.py          on one core

The peak is the measured process's resident memory, the mapped file included. Exit status 1: a limit was exceeded
(the limits are for the full size, and for an otherwise idle machine).
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
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        csv = args.csv or generate(folder, args.scale)
        runs = [measure_file(csv, folder / "prepared") for _ in range(args.repeats)]
    report(runs)
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(runs)))
    if any(run.total_s > LIMIT_S or run.peak_rss_gib > LIMIT_GIB for run in runs):
        sys.exit(1)


def generate(folder: Path, scale: float) -> Path:
    """The generated file, written unless it is there from an earlier run with the same size."""
    n_ratings, n_users = round(20_000_263 * scale), round(138_493 * scale)
    csv = folder / f"ratings-{n_ratings}.csv"
    if not csv.exists():
        start = time.perf_counter()
        write_ratings_csv(csv, n_ratings, n_users)
        print(f"wrote {csv.stat().st_size / 1e6:,.0f} MB in {time.perf_counter() - start:.1f} s")
    return csv


def report(runs: list[IngestResult]) -> None:
    """The figures as a table, a column a run."""
    first = runs[0]
    print(
        f"{first.ratings:,} ratings, {first.users:,} users, {first.items:,} items; {os.cpu_count()} CPUs, "
        f"load average of the last minute {os.getloadavg()[0]:.1f}"
    )
    rows = [(f"{step}, s", [run.seconds[step] for run in runs]) for step in first.seconds]
    rows.append((f"total, s (limit {LIMIT_S})", [run.total_s for run in runs]))
    rows.append((f"peak memory, GiB (limit {LIMIT_GIB})", [run.peak_rss_gib for run in runs]))
    for name, values in rows:
        print(f"{name:<30}" + "".join(f"{value:>8.2f}" for value in values))


if __name__ == "__main__":
    try:
        main()
    except NanorecsysError as error:
        sys.exit(f"ingest: {error}")
