"""The command line: `nanorecsys run`, `book`, `publish`, `check`, `sweep`, `bundle`, `ann`, `load`, `doctor`."""

import sys

import click
from rich.console import Console
from rich.table import Table

from nanorecsys.ann.command import ann
from nanorecsys.errors import NanorecsysError
from nanorecsys.export.command import bundle
from nanorecsys.loadtest.command import load

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

    `make study` is `run quick` and then `book quick`. Results go to data/runs/PROFILE, pages to _build/PROFILE/html.
    """


@cli.command()
@click.argument("profile", default="quick")
@click.option("--only", multiple=True, metavar="CHAPTER", help="Run this chapter alone. Repeatable.")
@click.option("--from", "first", metavar="CHAPTER", help="Run this chapter and all after it.")
@click.option("--force", is_flag=True, help="Run also what is up to date.")
@click.option("-p", "overrides", multiple=True, metavar="NAME=VALUE", help=PARAMETER_HELP)
@click.option("--list", "listing", is_flag=True, help="Show what would run and why, and run nothing.")
def run(
    profile: str,
    only: tuple[str, ...],
    first: str | None,
    force: bool,
    overrides: tuple[str, ...],
    listing: bool,
) -> None:
    """Run the study's chapters with the parameters of PROFILE (smoke, quick, full, ml-20m, ml-32m).

    A chapter is skipped when its notebook, parameters, code, upstream results and input files are unchanged. After a
    kill or a failure the same command resumes; a failed chapter leaves its last good result in place.

    \b
    Examples:
      nanorecsys run smoke
      nanorecsys run quick --from 01_data -p dataset=data/my-ratings.csv
      nanorecsys run full --list
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
    selected = [c for n, c in everything.items() if (not only or n in only) and (first is None or n >= first)]
    if listing:
        _list(where, profile, selected, parameters, force)
        return
    given = [f"-p {o}" for o in overrides]
    ran = runner.run_chapters(
        where,
        where.run(profile),
        selected,
        parameters,
        Console(),
        force=force,
        resume_command=" ".join(["nanorecsys run", profile, *given]),
    )
    click.echo(f"{len(ran)} of {len(selected)} chapters ran; results in {where.relative(where.run(profile))}")


def _list(where, profile: str, selected, parameters, force: bool) -> None:
    """Print every chapter's state, last duration and parameters."""
    from nanorecsys.study import runner

    run_folder = where.run(profile)
    table = Table("chapter", "state", "last took", "parameters", title=f"profile {profile}")
    for chapter, why in runner.plan(where, run_folder, selected, parameters, force=force):
        state = runner.state_of(chapter, run_folder)
        took = runner.clock(state.seconds) if state else "-"
        values = "\n".join(f"{k}={v!r}" for k, v in parameters[chapter.name].items())
        table.add_row(chapter.name, f"runs: {why}" if why else "up to date", took, values)
    Console().print(table)


@cli.command()
@click.argument("profile", required=False)
def book(profile: str | None) -> None:
    """Build the book over the run of PROFILE, or over the published results, with warnings as errors."""
    from nanorecsys.study.book import build
    from nanorecsys.study.layout import layout

    build(layout(), profile, Console())


@cli.command()
@click.argument("profile", default="full")
def publish(profile: str) -> None:
    """Copy the finished run of PROFILE into book/results, to be committed."""
    from nanorecsys.study.book import publish as publish_run
    from nanorecsys.study.layout import layout

    publish_run(layout(), profile, Console())


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
@click.argument("chapter")
@click.option("-p", "grid", multiple=True, metavar="NAME=A,B,C", help="Values of one parameter. Repeatable.")
@click.option("--profile", default="quick", show_default=True, help="Where the other parameters come from.")
def sweep(chapter: str, grid: tuple[str, ...], profile: str) -> None:
    """Run CHAPTER at every point of a grid of parameters, and compare the results.

    The points read their upstream chapters from the run of the profile. Points that have run are kept, so the same
    command resumes. The table and a page that compares them go to data/runs/PROFILE/sweeps/CHAPTER.

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
cli.add_command(load)
