"""Vectors per second of each generator of synthetic catalogues.

The generators take turns. Each repeat fits the generator and makes one catalogue on all cores; its
synthetic rows are counted. The limits are for 2 virtual CPUs at d 256.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from nanorecsys.scaleup import GENERATORS, generate, write_catalogue
from nanorecsys.scaleup.generators import normalised
from nanorecsys.study.provenance import machine, threads
from nanorecsys.system.errors import NanorecsysError

LIMITS = {"independent": 150_000, "local": 50_000}

EPILOG = """
\b
examples:
  python benchmarks/generators.py                              random items, about a minute
  python benchmarks/generators.py --vectors item_vectors.npy   trained ones; the time is the same
  python benchmarks/generators.py --to-disk --n 3000000        into a file, as the chapter does
  python benchmarks/generators.py --threads 1 -g local         one generator on one core

The time of a fit is part of a small catalogue's time, so the figure grows with --n. Exit status 1:
a median is below its limit (they are for an otherwise idle machine).
"""


@click.command(
    help=__doc__, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--n", default=500_000, show_default=True, help="items of the catalogue")
@click.option("--items", default=9_066, show_default=True, help="real items, if none are given")
@click.option("--d", default=256, show_default=True, help="dimensions, if no items are given")
@click.option(
    "--vectors",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="real items, a .npy file",
)
@click.option(
    "-g",
    "--generator",
    "names",
    multiple=True,
    type=click.Choice(list(GENERATORS)),
    help="default: all",
)
@click.option("--repeats", default=5, show_default=True)
@click.option("--threads", "n_threads", type=int, help="default: one for each core")
@click.option("--to-disk", is_flag=True, help="write the catalogue to a file")
def main(
    n: int,
    items: int,
    d: int,
    vectors: Path | None,
    names: tuple[str, ...],
    repeats: int,
    n_threads: int | None,
    to_disk: bool,
) -> None:
    """Measure and print a table."""
    real = (
        np.load(vectors)
        if vectors
        else normalised(np.random.default_rng(0).standard_normal((items, d), np.float32))
    )
    names = names or tuple(GENERATORS)
    rates: dict[str, list[float]] = {name: [] for name in names}
    try:
        for _ in range(repeats):
            for name in names:
                rates[name].append((n - len(real)) / seconds(real, n, name, n_threads, to_disk))
    except NanorecsysError as error:
        raise click.ClickException(str(error)) from error
    cpu = machine().processor
    print(f"{len(real)} items of d {real.shape[1]} to {n}, {repeats} repeats")
    print(f"{cpu}, {n_threads or 'all'} threads")
    print(f"environment: {threads()}")
    print(f"{'vectors/s':<14}{'median':>10}{'lowest':>10}{'highest':>10}{'limit':>10}")
    for name, values in rates.items():
        limit = LIMITS.get(name, "-")
        print(
            f"{name:<14}{statistics.median(values):>10.0f}{min(values):>10.0f}{max(values):>10.0f}{limit:>10}"
        )
    sys.exit(
        int(any(statistics.median(rates[name]) < LIMITS[name] for name in names if name in LIMITS))
    )


def seconds(real: np.ndarray, n: int, name: str, n_threads: int | None, to_disk: bool) -> float:
    """Time one catalogue, fit included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if to_disk:
            write_catalogue(Path(folder) / "catalogue.npy", real, n, name, threads=n_threads)
        else:
            generate(real, n, name, threads=n_threads)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
