"""`nanorecsys ann`: what the nearest-neighbour chapter leaves for other programs."""

from pathlib import Path

import click


@click.group()
def ann() -> None:
    """Vectors and queries of the nearest-neighbour chapter."""


@ann.command("export-hdf5")
@click.argument("profile", default="quick")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; data/runs/PROFILE/ann.hdf5 by default.",
)
@click.option("--k", default=100, show_default=True, help="Exact neighbours of each query.")
def export_hdf5(profile: str, out: Path | None, k: int) -> None:
    """Write vectors, user queries and exact neighbours of PROFILE's run in the file layout of ann-benchmarks.

    \b
    Example:
      nanorecsys ann export-hdf5 full --out recommender-256-angular.hdf5
    """
    import numpy as np

    from nanorecsys.ann.chapter import Result
    from nanorecsys.ann.hdf5 import export_hdf5 as write
    from nanorecsys.study.layout import layout
    from nanorecsys.study.records import read_record

    where = layout()
    folder = where.run(profile) / "04_ann"
    record = read_record(folder, Result)
    vectors, queries = (np.load(folder / record.files[name]) for name in ("vectors", "queries"))
    path = out or where.run(profile) / "ann.hdf5"
    write(path, vectors, queries, k)
    click.echo(
        f"{len(vectors):,} vectors, {len(queries):,} queries, {k} neighbours each: {where.relative(path)}"
    )
