"""Runs side by side: what agrees on another machine, differs or is not comparable; a second run and its spread."""

import json
import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from nanorecsys.cli import cli
from nanorecsys.study import book, compare
from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import Claim, Target, judge
from nanorecsys.study.layout import layout
from nanorecsys.study.records import FILE, FORMAT, Record, write_record
from tests.records import made

HEADLINE = """
def headline(result):
    return [("the total", f"{result.total:.1f} ms")]
"""


def claim(unit="x", operator=">=", bound=10.0, limit=None, agrees=None):
    target = Target(operator, bound, limit)
    return Claim(
        id="a.b", statement="It is.", value=lambda v: v, unit=unit, target=target, agrees=agrees
    )


def beside(made, own, published, elsewhere=False):
    """Outcome and reason of a value beside the published one."""
    return compare.set_beside(
        made, *(judge("a", [made], v)[0] for v in (own, published)), elsewhere
    )


@pytest.fixture
def study(mini):
    """The test study with a headline a chapter."""
    for name in ("alpha", "beta"):
        path = mini.root / "mini" / name / "chapter.py"
        path.write_text(path.read_text() + HEADLINE)
    return mini


def write(where, folder, chapter, total, **parameters):
    """A record as a chapter leaves it; each has a provenance of its own."""
    provenance = made("none", f"{folder.name} {total}")
    result = chapters(where)[chapter].result(total=total)
    parameters = {"seed": 0, "run_name": folder.name} | parameters
    write_record(
        folder / chapter,
        Record(
            format=FORMAT,
            chapter=chapter,
            parameters=parameters,
            provenance=provenance,
            files={},
            result=result,
        ),
    )


def command(*arguments):
    return CliRunner().invoke(cli, ["compare", *arguments])


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (claim(), "ratio"),
        (claim(unit=""), "quality"),
        (claim(unit="recall"), "quality"),
        (claim(unit="requests", operator="=="), "exact"),
        (claim(unit="", operator="=="), "exact"),
        *(
            (claim(unit=unit), "machine")
            for unit in ("s", "ms", "GiB", "requests/s", "vectors/s", "of the limit")
        ),
        (claim(unit="", agrees="machine"), "machine"),
        (claim(unit="GiB", agrees="ratio"), "ratio"),
    ],
)
def test_operator_and_unit_say_what_has_to_agree(made, kind):
    assert made.agreement == kind


def test_times_rates_and_bytes_of_the_study_are_never_judged():
    kinds = {
        c.id: (c.agreement, c.unit)
        for chapter in chapters(layout()).values()
        for c in chapter.claims
    }
    for name, (kind, unit) in kinds.items():
        if unit in ("s", "ms", "GiB", "MiB", "requests/s", "vectors/s") or name.endswith(".time"):
            assert kind == "machine", name
    assert (
        kinds["loadtest.wrong"][0]
        == kinds["export.parity"][0]
        == kinds["scaleup.exact"][0]
        == "exact"
    )
    assert kinds["scaleup.speed"][0] == kinds["scaleup.memory"][0] == "ratio"
    assert kinds["training.hitrate"][0] == kinds["scaleup.fidelity"][0] == "quality"


@pytest.mark.parametrize(
    ("made", "own", "published", "outcome"),
    [
        (claim(), 11, 40, "agrees"),  # it holds in both, however far apart
        (claim(), 6, 11, "agrees"),  # no longer, but within a factor of two
        (claim(), 5.4, 11, "differs"),
        (claim(limit=5), 5.4, 11, "differs"),
        (claim(limit=5), 7, 8, "agrees"),
        (claim(), 3, 6, "agrees"),  # in neither, and no further off than the factor
        (claim(), 2.9, 6, "differs"),
        (claim(), 30, 6, "agrees"),  # better
        (claim(operator="<=", bound=0.5), 0.79, 0.4, "agrees"),
        (claim(operator="<=", bound=0.5), 0.81, 0.4, "differs"),
        (claim(unit="", bound=0.15), 0.141, 0.16, "agrees"),
        (claim(unit="", bound=0.15), 0.139, 0.16, "differs"),
        (claim(unit="", operator=">", bound=0), -0.001, 0.01, "agrees"),
        (claim(unit="", operator=">", bound=0), -0.011, 0.01, "differs"),
        (claim(unit="recall", operator="<=", bound=0.03), 0.049, 0.03, "agrees"),
        (claim(unit="recall", operator="<=", bound=0.03), 0.051, 0.03, "differs"),
        (claim(unit="lost", operator="==", bound=0), 0, 0, "agrees"),
        (claim(unit="lost", operator="==", bound=0), 1, 0, "differs"),
        (claim(unit="lost", operator="==", bound=0), 0, 1, "agrees"),
        (claim(unit="", operator="<=", bound=1e-4, agrees="exact"), 2e-4, 1e-6, "differs"),
        (claim(unit="s", operator="<="), 1e9, 1, "not judged"),
        (claim(unit="requests/s", bound=500), 1, 900, "not judged"),
    ],
)
def test_the_rule_of_each_kind_at_the_same_parameters(made, own, published, outcome):
    assert beside(made, own, published)[0] == outcome


@pytest.mark.parametrize(
    ("made", "own", "published", "outcome"),
    [
        (claim(), 10, 40, "agrees"),
        (claim(), 1.1, 40, "agrees"),  # the faster one still is
        (claim(), 0.9, 40, "differs"),
        (claim(), 0.9, 6, "differs"),  # that it failed before is no excuse
        (claim(operator="<=", bound=0.5), 0.9, 0.1, "agrees"),
        (claim(operator="<=", bound=0.5), 1.1, 0.1, "differs"),
        (claim(unit="", bound=0.15), 0.05, 0.16, "not comparable"),
        (claim(unit="", bound=0.15), 0.05, 0.14, "agrees"),  # in neither
        (claim(unit="", bound=0.15), 0.15, 0.3, "agrees"),
        (claim(unit="lost", operator="==", bound=0), 1, 0, "differs"),
        (claim(unit="s", operator="<="), 1e9, 1, "not judged"),
    ],
)
def test_at_other_parameters_only_the_verdict_or_the_order_counts(made, own, published, outcome):
    assert beside(made, own, published, elsewhere=True)[0] == outcome


@pytest.mark.parametrize("unit", ["x", "", "s"])
def test_what_was_not_measured_at_this_size_is_no_failure(unit):
    assert beside(claim(unit=unit), None, 40) == ("not comparable", "not measured")
    assert beside(claim(unit=unit), 40, None) == ("not comparable", "not measured in the other")
    assert beside(claim(unit=unit), None, None)[0] == "not comparable"


def test_a_run_beside_the_published_one_ends_with_its_exit_code(study):
    for name, total in (("01_alpha", 8.0), ("02_beta", 8.5)):
        write(study, study.published, name, total)
        write(study, study.run("quick"), name, total + 1)
    done = command()
    assert done.exit_code == 0, done.output
    assert "2 claims agree, 0 differ" in done.output
    write(study, study.run("quick"), "02_beta", 4.0)  # its target is 5
    done = command("quick", "--published")
    assert done.exit_code == 1
    assert "1 claims agree, 1 differ" in done.output
    page = (study.run("quick") / compare.COMPARED).read_text()
    assert "differs: holds → does not hold, more than 0.02 behind" in page
    assert str(study.root) not in page
    write(study, study.run("other"), "01_alpha", 8.0)
    write(study, study.run("other"), "02_beta", 4.01)
    assert command("quick", "--with", "other").exit_code == 0


def test_other_parameters_and_chapters_that_did_not_run_are_told(study):
    write(study, study.published, "01_alpha", 8.0)
    write(study, study.published, "02_beta", 8.5)
    write(study, study.run("quick"), "01_alpha", 4.0, n_items=2, seconds_limit=5.0)
    found = compare.compare(study, study.run("quick"), study.published)
    assert [(s.note, s.rows[0].outcome) for s in found.sections] == [
        ("other parameters: n_items", "not comparable"),
        ("has not run", "not comparable"),
    ]
    write(study, study.run("quick"), "02_beta", 8.0)  # reads a chapter with other parameters
    assert (
        compare.compare(study, study.run("quick"), study.published).sections[1].note
        == "other parameters: n_items"
    )
    done = command()
    assert done.exit_code == 0
    assert "* at other parameters" in done.output
    write(
        study, study.run("quick"), "01_alpha", 4.0, seconds_limit=5.0
    )  # a limit is no parameter of a figure
    assert command().exit_code == 1


def test_without_something_to_compare_it_ends_with_two(study):
    done = command()
    assert done.exit_code == 2
    assert "run 'quick' has no results" in done.output
    write(study, study.run("quick"), "01_alpha", 8.0)
    done = command("quik")
    assert done.exit_code == 2
    assert "there are: quick" in done.output
    done = command()
    assert done.exit_code == 2
    assert "there is no published result" in done.output
    write(study, study.published, "01_alpha", 8.0)
    assert command().exit_code == 0
    assert command("quick", "--with", "gone").exit_code == 2
    assert command("quick", "--published", "--with", "quick").exit_code == 2
    for folder, name in ((study.run("quick"), "quick"), (study.published, "published")):
        path = folder / "01_alpha" / FILE
        whole = path.read_bytes()
        for content in (whole[:50], json.dumps(json.loads(whole) | {"result": {}}).encode()):
            path.write_bytes(content)
            done = command()
            assert done.exit_code == 2
            assert f"error: {name}: 01_alpha/result.json" in done.output
            assert "Traceback" not in done.output
        path.write_bytes(whole)


def test_how_far_values_lie_apart():
    assert compare.apart(90.0, 110.0) == pytest.approx(0.2)
    assert compare.apart(110.0, 90.0) == pytest.approx(0.2)
    assert compare.apart(-1.0, -1.0) == compare.apart(0.0, 0.0) == 0.0
    assert compare.apart(0.0, 1.0) is compare.apart(-1.0, 1.0) is compare.apart(None, 1.0) is None
    assert compare.apart_in_text("0.163 and 1.2 ms", "0.163 and 1.2 ms") == 0.0
    assert compare.apart_in_text("1,000 / 2", "1,000 / 3") == pytest.approx(0.4)
    assert compare.apart_in_text("IVF256,SQ8 nprobe=8", "IVF256,SQ8 nprobe=9") is None
    assert compare.apart_in_text("8.1x at recall 0.99", "8.1 ms at recall 0.99") is None


def test_a_second_run_is_set_beside_the_first(study):
    first, second = study.run("full"), study.run("full-again")
    write(study, first, "01_alpha", 8.0)
    write(study, first, "02_beta", 9.0)
    assert "ran once" in compare.parts(study, first)[compare.REPEATED]
    write(study, second, "02_beta", 11.0)
    shown = compare.repeat_part(study, first, second)
    assert "<code>02_beta</code> with the same parameters: every verdict is unchanged" in shown
    for told in ("9.0 ms", "11.0 ms", "20.0%", "<code>beta.total</code>", "<td", ">yes<"):
        assert told in shown
    assert "alpha" not in shown
    write(study, second, "02_beta", 3.0)
    shown = compare.repeat_part(study, first, second)
    assert "other verdicts on <code>beta.total</code>" in shown
    assert ">holds → does not hold<" in shown
    assert ">no<" in shown
    assert "every verdict" not in shown


def test_run_again_publish_again(study):
    study.cli("run")
    study.executions()
    again = study.cli("run", "--again", "--from", "02_beta")
    assert study.executions() == ["beta"]
    assert "data/runs/quick-again" in again.stdout
    second = study.run("quick-again")
    assert (second / "01_alpha").is_symlink()
    assert study.result("02_beta", "quick-again")["parameters"]["run_name"] == "quick-again"
    study.cli("run", "--again", "--from", "02_beta")  # it is up to date
    assert study.executions() == []
    assert study.cli("compare", "quick-again", "--with", "quick").returncode == 0

    quiet = Console(quiet=True)
    book.publish(study, "quick", quiet, again=True)
    names = {
        p.relative_to(study.published).as_posix() for p in study.published.rglob("*") if p.is_file()
    }
    assert {n for n in names if n.startswith("again")} == {"again/02_beta/result.json"}
    assert "02_beta" in (study.published / compare.REPEATED).read_text()
    assert "second run" in (study.published / compare.COMPARED).read_text()
    assert book.check_run(study, None) == []
    (study.published / compare.REPEATED).write_text("<p>Better than it was.</p>")
    assert [
        "repeat.html is not what the records say" in p for p in book.check_run(study, None)
    ] == [True]

    study.cli("run", "--again", "--from", "02_beta", "-p", "02_beta.extra=1")
    with pytest.raises(book.BookError, match="another extra"):
        book.publish(study, "quick", quiet, again=True)
    assert (
        study.published / "again" / "02_beta" / FILE
    ).exists()  # what was published is untouched
    book.publish(study, "quick", quiet)
    assert not (study.published / "again").exists()
    assert "ran once" in (study.published / compare.REPEATED).read_text()

    study.executions()
    study.cli("run", "--again", "--only", "01_alpha")  # a chapter that was lent has not run itself
    assert study.executions() == ["alpha"]
    assert not (second / "01_alpha").is_symlink()
    assert study.result("01_alpha")["parameters"]["run_name"] == "quick"


def on_another_machine(folder):
    """Make the records of a run those of a processor of the same name that can do other things."""
    for path in folder.glob(f"*/{FILE}"):
        record = json.loads(path.read_text())
        record["provenance"]["machine"]["cpu_flags"] = ["other"]
        path.write_text(json.dumps(record))


def test_a_run_on_another_machine_is_laid_beside_the_published_results(study):
    quiet = Console(quiet=True)
    study.cli("run")
    with pytest.raises(compare.CompareError, match="no published result"):
        book.publish_other_machine(study, "quick", quiet)
    book.publish(study, "quick", quiet)
    with pytest.raises(book.BookError, match="ran on the machine of the published results"):
        book.publish_other_machine(study, "quick", quiet)
    assert not (study.published / compare.OTHER_MACHINE).exists()

    on_another_machine(study.run("quick"))
    (study.run("quick") / "02_beta" / FILE).unlink()  # it has not run there
    told = study.cli("publish", "quick", "--other-machine").stdout
    assert " with other, " in told
    laid = {
        p.relative_to(study.published).as_posix()
        for p in (study.published / compare.OTHER_MACHINE).rglob("*.*")
    }
    assert laid == {"other-machine/01_alpha/result.json"}
    shown = (study.published / compare.COMPARED).read_text()
    assert re.search(
        r"<code>another machine</code> \(.* with other, \d+ cores?, code \w+\) beside ", shown
    )
    assert "<code>02_beta</code>: has not run" in shown
    assert "ran once" in (study.published / compare.REPEATED).read_text()
    assert book.check_run(study, None) == []

    study.cli("run", "--force")
    book.publish(study, "quick", quiet)
    assert (study.published / compare.OTHER_MACHINE / "01_alpha" / FILE).exists()
    on_another_machine(study.run("quick"))
    book.publish(study, "quick", quiet)  # now the published results are of that machine
    assert not (study.published / compare.OTHER_MACHINE).exists()
    done = study.cli("publish", "--again", "--other-machine", check=False)
    assert done.returncode == 2
    assert "got both" in done.stderr


def test_a_second_run_needs_a_first(study):
    done = study.cli("run", "--again", "--only", "02_beta", check=False)
    assert done.returncode == 1
    assert (
        "01_alpha, which has not run in quick\n  -> nanorecsys run quick --from 01_alpha"
        in done.stderr
    )
    with pytest.raises(compare.CompareError, match="run 'quick' has no results"):
        book.copy_second(
            study, study.run("quick"), study.run("quick-again"), study.published / "again"
        )


@pytest.mark.parametrize("publish", [book.publish, book.publish_other_machine])
def test_publishing_a_run_that_never_was_leaves_nothing(study, publish):
    with pytest.raises(book.BookError, match="quicker has not run"):
        publish(study, "quicker", Console(quiet=True))
    assert not study.run("quicker").exists()
