"""Seconds and memory from a ratings.csv to prepared data.

`python -m nanorecsys.data.ingest CSV FOLDER` is the measured process: its peak memory is that of
the work alone.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from nanorecsys.data.errors import DataError
from nanorecsys.data.load import build_dataset
from nanorecsys.data.prepared import save_prepared
from nanorecsys.data.read import Source, open_events, read_events
from nanorecsys.data.result import IngestResult
from nanorecsys.data.split import global_temporal, leave_one_out
from nanorecsys.data.synthetic import write_ratings_csv
from nanorecsys.system.memory import peak_resident_bytes


def measure(
    directory: Path | str, n_ratings: int, n_users: int, n_items: int, seed: int
) -> IngestResult:
    """The ingest of a generated file of that size (`synthetic.write_ratings_csv`).

    Args:
        directory: a folder with room for the file, 27 bytes a rating, and the prepared data, 4;
            both are deleted.

    Raises:
        DataError: counts that cannot be met together, or a measured process that failed or was
            killed.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        csv = Path(folder) / "ratings.csv"
        write_ratings_csv(csv, n_ratings, n_users, n_items, seed)
        return measure_file(csv, Path(folder) / "prepared")


def measure_file(csv: Path, prepared: Path) -> IngestResult:
    """The ingest of a ratings.csv in MovieLens layout, in a process of its own.

    Args:
        prepared: folder for the prepared data, which stay there.

    Raises:
        DataError: the measured process failed or was killed.
    """
    command = [sys.executable, "-m", "nanorecsys.data.ingest", str(csv), str(prepared)]
    process = subprocess.run(command, capture_output=True, check=False)
    if process.returncode:
        raise DataError(
            f"{csv}: the ingest ended with status {process.returncode}: {process.stderr.decode().strip()}",
            "Mend what it says; status -9 without a word is memory that ran out: take fewer rows.",
        )
    return msgspec.json.decode(process.stdout, type=IngestResult)


def _ingest(csv: Path, prepared: Path) -> IngestResult:
    """Seconds of each step in this process, and its peak memory after them."""
    seconds = {}
    clock = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[step], clock = now - clock, now

    table = open_events(Source(str(csv), csv))
    events = read_events(table)
    lap("parse and check")
    dataset = build_dataset("ingest", table, events, movies=None)
    lap("number and sort")
    splits = [leave_one_out(dataset.interactions), global_temporal(dataset.interactions)]
    lap("both splits")
    save_prepared(prepared, dataset, splits)
    lap("save")
    return IngestResult(
        ratings=len(dataset.interactions),
        users=dataset.interactions.n_users,
        items=dataset.interactions.n_items,
        file_mib=csv.stat().st_size / 2**20,
        seconds=seconds,
        total_s=sum(seconds.values()),
        peak_rss_gib=peak_resident_bytes() / 2**30,
    )


if __name__ == "__main__":
    try:
        print(msgspec.json.encode(_ingest(*map(Path, sys.argv[1:]))).decode())
    except DataError as error:
        sys.exit(str(error))
