"""`nanorecsys bundle`: build the serving bundle from a finished run, or check one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanorecsys.system.errors import NanorecsysError

if TYPE_CHECKING:
    from nanorecsys.serving.bundle import Manifest, Parts
    from nanorecsys.study.session import Upstream

DATA, TRAINING, EXPORT, ANN = "01_data", "02_training", "03_export", "04_ann"


@click.command()
@click.argument("profile", default="quick")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the bundle goes; data/runs/PROFILE/bundle by default.",
)
@click.option(
    "--check",
    "checked",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Verify the bundle in DIR and build none; exit code 1 with what is wrong.",
)
def bundle(profile: str, output: Path | None, checked: Path | None) -> None:
    """Build and check the serving bundle of the run of PROFILE, then let it replace an older one.

    The index is the one that chapter 04 recommends; exact search where it has not run. DIR becomes
    a link to the folder DIR.d/ID beside it.

    \b
    Examples:
      nanorecsys bundle full --output /srv/bundle
      nanorecsys bundle --check /srv/bundle
    """
    from nanorecsys.serving.bundle import build_bundle, check_bundle
    from nanorecsys.study.layout import layout

    if checked and output:
        raise click.UsageError("--check builds nothing: leave --output out")
    if checked:
        show(check_bundle(checked), checked)
        return
    study = layout()
    run = study.run(profile)
    manifest = build_bundle(output or run / "bundle", gather(run))
    show(manifest, output or Path(study.relative(run)) / "bundle")


def gather(run: Path, *, with_ranker: bool = False) -> "Parts":
    """Collect the parts of a bundle from a run's folder.

    Histories and popularity count all events, so that a user's newest ones are served.

    Args:
        run: Folder of the run.
        with_ranker: Whether to include the ranker even where chapter 02 does not serve it.

    Raises:
        NanorecsysError: A chapter has not run there, is older than one that it reads, or lacks a
            file or a result; the remedy is the command to run.
    """
    import numpy as np

    from nanorecsys.ann.indexes import build_index
    from nanorecsys.ann.specs import fitted
    from nanorecsys.data import histories, load_prepared
    from nanorecsys.serving.bundle import Parts, SecondChoice
    from nanorecsys.serving.retrieval import library
    from nanorecsys.study.records import FILE

    data, training, export = (_chapter(run, name) for name in (DATA, TRAINING, EXPORT))
    _check_order(data, training)
    _check_order(training, export)
    first = second = {"factory": "Flat", "search": ""}
    users = None
    if (run / ANN / FILE).exists():
        ann = _chapter(run, ANN)
        _check_order(export, ann)
        first = ann.record.result["recommended"]
        second = ann.record.result.get("second_choice", second)
        if any(choice["factory"].startswith("Users") for choice in (first, second)):
            users = np.load(_file(ann, "training_queries"))
    dataset = load_prepared(run / DATA).dataset
    item_vectors = np.load(_file(training, "item_vectors"))
    serves_ranker = _of(training, "result", "serves_ranker")
    choices = [fitted(c["factory"], c["search"], len(item_vectors)) for c in (first, second)]
    is_other = library(choices[0][0]) != "faiss"
    # built as the chapter built them, with its limits on training vectors
    built: list[Any] = [
        build_index(factory, item_vectors, users=users) for factory, _ in choices[: 1 + is_other]
    ]
    return Parts(
        tower=_file(export, "tower"),
        ranker=_file(export, "ranker") if serves_ranker or with_ranker else None,
        item_vectors=item_vectors,
        items=dataset.items,
        histories=histories(dataset.interactions),
        user_ids=np.array(dataset.users["user_id"].to_list()),
        popularity=np.bincount(dataset.interactions.item, minlength=len(dataset.items)),
        dataset=dataset.name,
        commit=export.record.provenance.commit,
        window=training.record.parameters["window"],
        events_read=_of(training, "result", "events_read"),
        tower_variant=export.record.result["chosen"],
        tower_is_int8=export.record.result["chosen_is_int8"],
        index_factory=choices[0][0],
        index_search=choices[0][1],
        index=built[0] if is_other else built[0].index,
        second=SecondChoice(*choices[1], built[1].index) if is_other else SecondChoice(),
    )


def fp32_tower(run: Path) -> Path:
    """The ONNX file of the tower in fp32, which chapter 03 exports beside the chosen one.

    Raises:
        NanorecsysError: The chapter has not run there; the remedy is the command to run.
    """
    return _file(_chapter(run, EXPORT), "tower_fp32")


def show(manifest: "Manifest", folder: Path) -> None:
    """Print a bundle's files and sizes, and how to check it."""
    click.echo(f"serving bundle {folder}")
    for name, file in manifest.files.items():
        click.echo(f"{name:24}{file.bytes / 1024:12,.1f} KiB  sha256 {file.sha256[:12]}")
    precision = "int8" if manifest.tower_is_int8 else "fp32"
    search = f" with {manifest.index_search}" if manifest.index_search else ""
    if manifest.second_factory:
        search += f"; without its library {manifest.second_factory} {manifest.second_search}"
    click.echo(
        f"{manifest.dataset}: {manifest.n_users:,} users, {manifest.n_items:,} items; "
        f"window {manifest.window}, the last {manifest.events_read} events read; d {manifest.d}\n"
        f"tower {manifest.tower_variant} ({precision}); index {manifest.index_factory}{search}\n"
        f"check it: nanorecsys bundle --check {folder}"
    )


def _chapter(run: Path, name: str) -> "Upstream[dict[str, Any]]":
    from nanorecsys.study.records import read_record
    from nanorecsys.study.session import Upstream

    return Upstream(run / name, read_record(run / name, dict[str, Any]))


def _check_order(earlier: "Upstream[Any]", later: "Upstream[Any]") -> None:
    """Check that a chapter ran after the one that it reads."""
    if later.record.provenance.started_utc < earlier.record.provenance.started_utc:
        run = later.folder.parent.name
        raise NanorecsysError(
            f"{later.folder.name} in run {run!r} is older than {earlier.folder.name}, "
            "which it reads",
            f"nanorecsys run {run}",
        )


def _file(chapter: "Upstream[Any]", name: str) -> Path:
    return chapter.folder / _of(chapter, "files", name)


def _of(chapter: "Upstream[Any]", part: str, name: str) -> Any:
    """Read an entry of a record's files or result."""
    entries = getattr(chapter.record, part)
    if name not in entries:
        raise NanorecsysError(
            f"{chapter.folder.name} has no {name!r} in its {part}, which a bundle is made from",
            f"nanorecsys run {chapter.folder.parent.name} --only {chapter.folder.name} --force",
        )
    return entries[name]
