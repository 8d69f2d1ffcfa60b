"""The command line, `nanorecsys`: run, book, publish, check, compare, sweep, bundle, ann, doctor."""

import sys

import click
from rich.console import Console
from rich.table import Table

from nanorecsys.ann.bundle import bundle
from nanorecsys.ann.command import ann
from nanorecsys.system.errors import NanorecsysError

PARAMETER_HELP = (
    "Set a parameter: chapter.name=value, or name=value in every chapter that has it. Repeatable. "
    "`--list` shows the chapters, `papermill --help-notebook notebooks/NN_name.ipynb` their parameters."
)


def main() -> None:
    """Run the command line; a user's mistake ends with its message and exit code 1, not with a traceback."""
    try:
        cli(standalone_mode=False)
    except NanorecsysError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command resumes", err=True)
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """A reproducible study of serving a sequential recommender on two virtual CPUs.

    `make study` is `run quick` and then `book quick`. Results go to data/runs/PROFILE, pages to
    _build/PROFILE/html.
    """


@cli.command()
@click.argument("profile", default="quick")
@click.option(
    "--only", multiple=True, metavar="CHAPTER", help="Run this chapter alone. Repeatable."
)
@click.option("--from", "first", metavar="CHAPTER", help="Run this chapter and all after it.")
@click.option(
    "--again",
    is_flag=True,
    help="A second run, in data/runs/PROFILE-again; the first lends what is not run.",
)
@click.option("--force", is_flag=True, help="Run also what is up to date.")
@click.option("-p", "overrides", multiple=True, metavar="NAME=VALUE", help=PARAMETER_HELP)
@click.option(
    "--list", "listing", is_flag=True, help="Show what would run and why, and run nothing."
)
def run(
    profile: str,
    only: tuple[str, ...],
    first: str | None,
    again: bool,
    force: bool,
    overrides: tuple[str, ...],
    listing: bool,
) -> None:
    """Run the study's chapters with the parameters of PROFILE (smoke, quick, full, ml-20m, ml-32m).

    A chapter is skipped when its notebook, parameters, code, upstream results and input files are
    unchanged. After a kill or a failure the same command resumes; a failed chapter leaves its last
    good result in place.

    \b
    Examples:
      nanorecsys run smoke
      nanorecsys run quick --from 01_data -p dataset=data/my-ratings.csv
      nanorecsys run full --list
      nanorecsys run full --again --from 03_export
    """
    from nanorecsys.study import runner
    from nanorecsys.study.chapters import chapters
    from nanorecsys.study.layout import layout
    from nanorecsys.study.parameters import known_chapter, resolve

    where = layout()
    everything = chapters(where)
    parameters = resolve(
        {name: c.settable for name, c in everything.items()},
        runner.load_profile(where, profile),
        profile,
        overrides,
    )
    for name in (*only, *([first] if first else [])):
        known_chapter(name, everything, "run")
    selected = [
        c
        for n, c in everything.items()
        if (not only or n in only) and (first is None or n >= first)
    ]
    folder = where.run(profile + runner.AGAIN if again else profile)
    if listing:
        _list(where, folder, selected, parameters, force)
        return
    given = [f"-p {o}" for o in overrides]
    if again:  # to resume with all chapters would repeat those that the first run lends
        given += [
            "--again",
            *(f"--only {name}" for name in only),
            *([f"--from {first}"] if first else []),
        ]
    ran = runner.run_chapters(
        where,
        folder,
        selected,
        parameters,
        Console(),
        first=where.run(profile) if again else None,
        force=force,
        resume_command=" ".join(["nanorecsys run", profile, *given]),
    )
    click.echo(f"{len(ran)} of {len(selected)} chapters ran; results in {where.relative(folder)}")


def _list(where, folder, selected, parameters, force: bool) -> None:
    """Print every chapter's state, last duration and parameters."""
    from nanorecsys.study import runner

    table = Table("chapter", "state", "last took", "parameters", title=f"run {folder.name}")
    for chapter, why in runner.plan(where, folder, selected, parameters, force=force):
        state = runner.state_of(chapter, folder)
        took = runner.clock(state.seconds) if state else "-"
        values = "\n".join(f"{k}={v!r}" for k, v in parameters[chapter.name].items())
        table.add_row(chapter.name, f"runs: {why}" if why else "up to date", took, values)
    Console().print(table)


@cli.command()
@click.argument("profile", required=False)
@click.option("--pdf", is_flag=True, help="Print it to one PDF too, with Chromium.")
def book(profile: str | None, pdf: bool) -> None:
    """Build the book over the run of PROFILE, or over the published results, with warnings as errors."""
    from nanorecsys.study.book import build, print_pdf
    from nanorecsys.study.layout import layout

    build(layout(), profile, Console())
    if pdf:
        print_pdf(layout(), profile, Console())


@cli.command()
@click.argument("profile", default="full")
@click.option(
    "--again", is_flag=True, help="Also the records of its second run, data/runs/PROFILE-again."
)
@click.option(
    "--other-machine", is_flag=True, help="Instead: lay its records beside the published results."
)
def publish(profile: str, again: bool, other_machine: bool) -> None:
    """Copy the finished run of PROFILE into book/results, to be committed.

    \b
    Examples:
      nanorecsys publish full
      nanorecsys publish full --other-machine     the published results stay, the page on comparing
      shows both
    """
    from nanorecsys.study import book
    from nanorecsys.study.layout import layout

    if again and other_machine:
        raise click.UsageError("expected --again or --other-machine, got both")
    if other_machine:
        book.publish_other_machine(layout(), profile, Console())
    else:
        book.publish(layout(), profile, Console(), again=again)


@cli.command()
@click.argument("profile", required=False)
def check(profile: str | None) -> None:
    """Check the run of PROFILE, or the published results: notebooks whole, records valid, pages right."""
    from nanorecsys.study.book import check_run
    from nanorecsys.study.layout import layout

    problems = check_run(layout(), profile)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo("all chapters whole, all records valid, all pages right")


@cli.command()
@click.argument("run", default="quick")
@click.option("--published", is_flag=True, help="Beside the published results; the default.")
@click.option("--with", "other", metavar="RUN", help="Beside another run of data/runs.")
def compare(run: str, published: bool, other: str | None) -> None:
    """Set the run called RUN beside the published one, claim by claim.

    Verdicts, ratios and qualities are judged, seconds and bytes are only shown. Exit code 0:
    nothing differs; 1: some claim differs; 2: there is nothing to compare. The page goes to
    data/runs/RUN/compare.html, and into the book.

    \b
    Examples:
      nanorecsys compare
      nanorecsys compare full-again --with full
    """
    from nanorecsys.study import compare as comparing
    from nanorecsys.study.layout import layout

    if published and other:
        raise click.UsageError("expected --published or --with RUN, got both")
    where = layout()
    try:
        found = comparing.compare(
            where, where.run(run), where.run(other) if other else where.published
        )
    except NanorecsysError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    comparing.show(found, Console())
    path = where.run(run) / comparing.COMPARED
    comparing.write_page(path, found)
    click.echo(f"as a page: {where.relative(path)}")
    sys.exit(1 if found.differing else 0)


@cli.command()
@click.argument("chapter")
@click.option(
    "-p", "grid", multiple=True, metavar="NAME=A,B,C", help="Values of one parameter. Repeatable."
)
@click.option(
    "--profile", default="quick", show_default=True, help="Where the other parameters come from."
)
def sweep(chapter: str, grid: tuple[str, ...], profile: str) -> None:
    """Run CHAPTER at every point of a grid of parameters, and compare the results.

    The points read their upstream chapters from the run of the profile. Points that have run are
    kept, so the same command resumes. The table and a page that compares them go to
    data/runs/PROFILE/sweeps/CHAPTER.

    \b
    Example:
      nanorecsys sweep 01_data -p test_share=0.05,0.1,0.2 -p min_history=3,5
    """
    from nanorecsys.study.layout import layout
    from nanorecsys.study.sweep import sweep as run_sweep

    run_sweep(layout(), profile, chapter, grid, Console())


@cli.command()
def doctor() -> None:
    """Say what this machine is and whether the study can run here; exit code 1 with the remedy where it cannot."""
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


cli.add_command(bundle)
cli.add_command(ann)
