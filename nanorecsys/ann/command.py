"""`nanorecsys ann`: export the vectors of the nearest-neighbour chapter for other programs."""

from pathlib import Path

import click


@click.group()
def ann() -> None:
    """Use the vectors and queries of the nearest-neighbour chapter."""


@ann.command("export-hdf5")
@click.argument("profile", default="quick")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write [default: data/runs/PROFILE/ann.hdf5].",
)
@click.option("--k", default=100, show_default=True, help="Exact neighbours of each query.")
def export_hdf5(profile: str, out: Path | None, k: int) -> None:
    """Write the vectors of a run in the file layout of ann-benchmarks.

    The file has the item vectors, user queries and exact neighbours of PROFILE's run.

    \b
    Example:
      nanorecsys ann export-hdf5 full --out recommender-256-angular.hdf5
    """
    import numpy as np

    from nanorecsys.ann.chapter import Result
    from nanorecsys.ann.hdf5 import export_hdf5 as write
    from nanorecsys.study.layout import layout
    from nanorecsys.study.records import read_record

    folders = layout()
    folder = folders.run(profile) / "04_ann"
    record = read_record(folder, Result)
    vectors, queries = (np.load(folder / record.files[name]) for name in ("vectors", "queries"))
    path = out or folders.run(profile) / "ann.hdf5"
    write(path, vectors, queries, k)
    counts = f"{len(vectors):,} vectors, {len(queries):,} queries, {k} neighbours each"
    click.echo(f"{counts}: {folders.relative(path)}")
