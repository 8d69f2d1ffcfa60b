"""The command line, `nanorecsys`: the study's commands and those of its chapters."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from nanorecsys.study.layout import layout
from nanorecsys.system.errors import NanorecsysError

LOAD_S = 120.0  # longest time of a call that loads vectors into Milvus
PARAMETER_HELP = (
    "Set a parameter: chapter.name=value, or name=value in every chapter that has it. Repeatable. "
    "`--list` shows all parameters."
)


def main() -> None:
    """Run the command line; a user's mistake ends with a message and exit code 1."""
    try:
        cli(standalone_mode=False)
    except NanorecsysError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        changed = " without --force" if "--force" in sys.argv else ""
        click.echo(f"interrupted; the same command{changed} resumes", err=True)
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """A reproducible study of serving a sequential recommender on two virtual CPUs.

    `make study` is `run quick` and then `book quick`. Results go to data/runs/PROFILE, pages to
    _build/PROFILE/html.
    """


@cli.command()
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

    if checked and output:
        raise click.UsageError("--check builds nothing: leave --output out")
    if checked:
        manifest, folder = check_bundle(checked), checked
    else:
        from nanorecsys.ann.bundle import gather

        study = layout()
        source = study.run(profile)
        manifest = build_bundle(output or source / "bundle", gather(source))
        folder = output or Path(study.relative(source)) / "bundle"
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


@cli.command()
@click.argument("profile", default="quick")
@click.option("--only", multiple=True, metavar="CHAPTER", help="Run only this chapter. Repeatable.")
@click.option("--from", "first", metavar="CHAPTER", help="Run this chapter and all later ones.")
@click.option("--again", is_flag=True, help="Make a second run, in data/runs/PROFILE-again.")
@click.option("--force", is_flag=True, help="Also run chapters that are up to date.")
@click.option("-p", "overrides", multiple=True, metavar="NAME=VALUE", help=PARAMETER_HELP)
@click.option("--list", "listing", is_flag=True, help="Only show what would run and why.")
def run(
    profile: str,
    only: tuple[str, ...],
    first: str | None,
    again: bool,
    force: bool,
    overrides: tuple[str, ...],
    listing: bool,
) -> None:
    """Run the chapters of the study that are not up to date.

    PROFILE names the parameters: smoke, quick (the default), medium, full, ml-20m or ml-32m.
    A chapter is skipped when its notebook, parameters, code, upstream results and input files are
    unchanged. After a kill or a failure the same command (without --force) resumes; a failed
    chapter leaves its last good result in place. A second run (`--again`) has other random
    seeds.

    \b
    Examples:
      nanorecsys run smoke
      nanorecsys run quick --from 01_data -p dataset=data/my-ratings.csv
      nanorecsys run full --list
      nanorecsys run full --again
    """
    from nanorecsys.study import runner
    from nanorecsys.study.chapters import chapters
    from nanorecsys.study.parameters import known_chapter, other_seeds, resolve

    folders = layout()
    everything = chapters(folders)
    settable = {name: chapter.settable for name, chapter in everything.items()}
    values = runner.load_profile(folders, profile)
    parameters = resolve(settable, values, profile, overrides)
    if again:
        parameters = {name: other_seeds(own) for name, own in parameters.items()}
    for name in filter(None, (*only, first)):
        known_chapter(name, everything, "run")
    selected = [
        chapter
        for name, chapter in everything.items()
        if (not only or name in only) and (first is None or name >= first)
    ]
    folder = folders.run(profile + runner.SECOND_RUN if again else profile)
    this_run = runner.Run(folders, folder, parameters, force)
    if listing:
        table = Table("chapter", "state", "last took", "parameters", title=f"run {folder.name}")
        for chapter, why in runner.plan(this_run, selected):
            state = runner.state_of(chapter, folder)
            took = runner.clock(state.seconds) if state else "-"
            shown = "\n".join(f"{k}={v!r}" for k, v in parameters[chapter.name].items())
            table.add_row(chapter.name, f"runs: {why}" if why else "up to date", took, shown)
        Console().print(table)
        return
    ran = runner.run_chapters(this_run, selected, Console())
    summary = f"{len(ran)} of {len(selected)} chapters ran"
    click.echo(f"{summary}; results in {folders.relative(folder)}")


@cli.command()
@click.argument("profile", required=False)
def book(profile: str | None) -> None:
    """Build the book over a run, or over the published results.

    Without PROFILE the book is built over the published results.
    Every warning is an error. The pages go to _build/PROFILE/html, or to _build/published/html.
    """
    from nanorecsys.study.book import build

    build(layout(), profile, Console())


@cli.command()
@click.argument("profile", default="full")
@click.option("--again", is_flag=True, help="Only publish the records of its second run.")
@click.option("--other-machine", is_flag=True, help="Only publish its records, for comparison.")
def publish(profile: str, again: bool, other_machine: bool) -> None:
    """Copy a finished run into book/results, to be committed.

    A second run (`--again`) and a run on another machine keep the published results, and add
    their records. A second run has all chapters, and may be of any machine.

    \b
    Examples:
      nanorecsys publish full
      nanorecsys publish full --again
      nanorecsys publish full --other-machine
    """
    from nanorecsys.study import book
    from nanorecsys.study.compare import OTHER_MACHINE, REPEATED
    from nanorecsys.study.runner import SECOND_RUN

    if again and other_machine:
        raise click.UsageError("expected --again or --other-machine, got both")
    if again:
        book.publish_beside(layout(), profile + SECOND_RUN, REPEATED, Console())
    elif other_machine:
        book.publish_beside(layout(), profile, OTHER_MACHINE, Console())
    else:
        book.publish(layout(), profile, Console())


@cli.command()
@click.argument("profile", required=False)
def check(profile: str | None) -> None:
    """Check notebooks and records of a run, or the published ones.

    Without PROFILE the published results are checked.
    Records that were made under other definitions of their claims than the committed ones fail.
    """
    from nanorecsys.study.book import check_run

    problems = check_run(layout(), profile)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo("all chapters whole, all records valid")


@cli.command()
@click.argument("run", default="quick")
@click.option("--with", "other", metavar="RUN", help="Compare with this run of data/runs instead.")
def compare(run: str, other: str | None) -> None:
    """Compare a run with the published one, claim by claim.

    Ratios and qualities have to agree within a tolerance, seconds and bytes are only shown. Exit
    code 0: nothing differs; 1: some claim differs; 2: there is nothing to compare.

    \b
    Examples:
      nanorecsys compare
      nanorecsys compare full-again --with full
    """
    from nanorecsys.study import compare as comparing
    from nanorecsys.study.chapters import chapters

    folders = layout()
    beside = folders.run(other) if other else folders.published
    try:
        sides = [comparing.records(folders, side) for side in (folders.run(run), beside)]
    except NanorecsysError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    claims = comparing.compare(chapters(folders), *sides)
    table = Table(Column("claim", no_wrap=True), other or comparing.PUBLISHED, run, "outcome")
    for row in claims.itertuples(index=False):
        table.add_row(*map(escape, row))
    Console().print(table)
    click.echo(f"{comparing.counts(claims)}. {comparing.other_parameters(*sides)}".rstrip())
    sys.exit(int((claims.outcome == "differs").any()))


@cli.group()
def serving() -> None:
    """Prepare what a server uses beside its bundle."""


@serving.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--uri", required=True, help="http://[USER:PASSWORD@]HOST:PORT[/DATABASE] of Milvus.")
@click.option(
    "--index",
    metavar="TYPE[:NAME=N,...]",
    help="Index in place of the bundle's choice, such as HNSW:M=32,efConstruction=200.",
)
@click.option(
    "--search", metavar="NAME=N,...", default="", help="Its search setting, such as ef=200."
)
@click.option("--replace", is_flag=True, help="Drop the collection first, if it is there.")
def load_milvus(bundle: Path, uri: str, index: str | None, search: str, replace: bool) -> None:
    """Load the item vectors of BUNDLE into Milvus, for `python -m server --retrieval URI`.

    The collection is named by the bundle's id. It gets the index and the search setting that are
    nearest to those of the bundle; the server reads both from the collection. Other indexes are
    those of https://milvus.io/docs/index.md. In the end the rows are counted. After a kill or a
    failure the same command resumes: rows that are there stay.

    \b
    Examples:
      nanorecsys serving load-milvus data/runs/quick/bundle --uri http://127.0.0.1:19530
      nanorecsys serving load-milvus /srv/bundle --uri http://milvus:19530 --index FLAT --replace
    """
    from nanorecsys.serving.bundle import read_vectors
    from nanorecsys.serving.milvus import Milvus, collection, load_vectors, milvus_choice

    if search and not index:
        raise click.UsageError("--search is a setting of --index: give both")
    manifest, vectors = read_vectors(bundle)
    if not index:
        own = manifest.index_factory, manifest.index_search
        index, search = milvus_choice(*own, manifest.n_items)
    name = collection(manifest)
    with Milvus(uri, timeout_s=LOAD_S, retries=0) as milvus:
        click.echo(f"collection {name} of {milvus.address}: index {index} {search}")
        if milvus.call("has_collection", name) and replace:
            milvus.call("drop_collection", name)
        with click.progressbar(length=len(vectors), label="vectors") as bar:
            loaded = load_vectors(milvus, name, vectors, index, search, bar.update)
    click.echo(
        f"{len(vectors):,} rows counted, {loaded.inserted:,} of them inserted now in "
        f"{loaded.insert_s:.1f} s; index built in {loaded.build_s:.1f} s"
    )


@cli.command()
def doctor() -> None:
    """Describe this machine and check whether the study can run here.

    The exit code is 1 if it cannot; the remedy is then in the table.
    """
    from nanorecsys.study.doctor import examine, healthy

    checks = examine()
    table = Table("check", "found", "status")
    colours = {"ok": "green", "warning": "yellow", "fails": "red"}
    for item in checks:
        found = f"{item.value}\n-> {item.remedy}" if item.remedy else item.value
        table.add_row(item.name, found, f"[{colours[item.status]}]{item.status}[/]")
    Console().print(table)
    if not healthy(checks):
        sys.exit(1)
