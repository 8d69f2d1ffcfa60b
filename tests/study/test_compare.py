"""Comparing runs: what agrees on another machine, differs or is not comparable; a second run."""

import json
import shutil

import pytest
from click.testing import CliRunner
from rich.console import Console

from nanorecsys.cli import cli
from nanorecsys.study import book, compare
from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import Claim, Target, judge
from nanorecsys.study.layout import layout
from nanorecsys.study.records import FILE, FORMAT, Record, write_record
from tests.records import example_provenance

QUIET = Console(quiet=True)


def claim(unit="x", operator=">=", bound=10.0, limit=None, agrees=None):
    target = Target(operator, bound, limit)
    return Claim(
        id="a.b", statement="It is.", value=lambda v: v, unit=unit, target=target, agrees=agrees
    )


def outcome_of(made, own, published, same_parameters=True):
    """Outcome and reason of a value compared with the published one."""
    judged = (judge("a", [made], value)[0] for value in (own, published))
    return compare.agreement(made, *judged, same_parameters=same_parameters)


def write(folders, folder, chapter, total, **parameters):
    """A record as a chapter leaves it, each with its own provenance."""
    record = Record(
        format=FORMAT,
        chapter=chapter,
        parameters={"seed": 0, "run_name": folder.name} | parameters,
        provenance=example_provenance("none", f"{folder.name} {total}"),
        files={},
        result=chapters(folders)[chapter].result(total=total),
    )
    write_record(folder / chapter, record)


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
        *((claim(unit=unit), "machine") for unit in ("s", "ms", "GiB", "requests/s", "vectors/s")),
        (claim(unit="", agrees="machine"), "machine"),
        (claim(unit="GiB", agrees="ratio"), "ratio"),
    ],
)
def test_operator_and_unit_tell_the_kind_of_comparison(made, kind):
    assert made.agreement == kind


def test_times_rates_and_bytes_of_the_study_are_never_judged():
    machine_units = ("s", "ms", "GiB", "MiB", "requests/s", "vectors/s")
    claims = [c for chapter in chapters(layout()).values() for c in chapter.claims]
    kinds = {c.id: c.agreement for c in claims}
    assert all(kinds[c.id] == "machine" for c in claims if c.unit in machine_units)
    assert kinds["export.parity"] == "exact"
    assert kinds["scaleup.speed"] == kinds["scaleup.memory"] == "ratio"
    assert kinds["training.hitrate"] == kinds["scaleup.fidelity"] == "quality"


@pytest.mark.parametrize(
    ("made", "own", "published", "outcome"),
    [
        (claim(), 11, 40, "agrees"),  # it holds in both, however far apart
        (claim(), 6, 11, "agrees"),  # it no longer holds, but is within a factor of two
        (claim(), 5.4, 11, "differs"),
        (claim(limit=5), 5.4, 11, "differs"),
        (claim(limit=5), 7, 8, "agrees"),
        (claim(), 3, 6, "agrees"),  # it holds in neither, and is within the factor
        (claim(), 2.9, 6, "differs"),
        (claim(), 30, 6, "agrees"),
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
def test_the_rule_of_each_kind_with_the_same_parameters(made, own, published, outcome):
    assert outcome_of(made, own, published)[0] == outcome


@pytest.mark.parametrize(
    ("made", "own", "published", "outcome"),
    [
        (claim(), 10, 40, "agrees"),
        (claim(), 1.1, 40, "agrees"),  # the faster one still is
        (claim(), 0.9, 40, "differs"),
        (claim(), 0.9, 6, "differs"),  # also if it did not hold before
        (claim(operator="<=", bound=0.5), 0.9, 0.1, "agrees"),
        (claim(operator="<=", bound=0.5), 1.1, 0.1, "differs"),
        (claim(unit="", bound=0.15), 0.05, 0.16, "not comparable"),
        (claim(unit="", bound=0.15), 0.05, 0.14, "agrees"),  # it holds in neither
        (claim(unit="", bound=0.15), 0.15, 0.3, "agrees"),
        (claim(unit="lost", operator="==", bound=0), 1, 0, "differs"),
        (claim(unit="s", operator="<="), 1e9, 1, "not judged"),
    ],
)
def test_with_other_parameters_only_the_verdict_or_the_order_counts(made, own, published, outcome):
    assert outcome_of(made, own, published, same_parameters=False)[0] == outcome


@pytest.mark.parametrize("unit", ["x", "", "s"])
def test_a_value_that_was_not_measured_is_no_failure(unit):
    assert outcome_of(claim(unit=unit), None, 40) == ("not comparable", "not measured")
    assert outcome_of(claim(unit=unit), 40, None)[1] == "not measured in the other"
    assert outcome_of(claim(unit=unit), None, None)[0] == "not comparable"


def test_the_page_states_the_bounds_of_the_rules():
    page = (layout().root / "book" / "compare.md").read_text()
    assert f"at most {compare.RATIO:g} times worse" in page
    assert f"at most {compare.QUALITY:g} worse" in page


def test_comparing_with_the_published_run_ends_with_its_exit_code(mini):
    for name, total in (("01_alpha", 8.0), ("02_beta", 8.5)):
        write(mini, mini.published, name, total)
        write(mini, mini.run("quick"), name, total + 1)
    done = command()
    assert done.exit_code == 0, done.output
    assert "2 claims agree, 0 differ" in done.output
    write(mini, mini.run("quick"), "02_beta", 4.0)  # its target is 5
    done = command("quick")
    assert done.exit_code == 1
    assert "1 claims agree, 1 differ" in done.output
    part = compare.parts(mini, mini.run("quick"))[compare.COMPARE_PART]
    assert "holds → does not hold, more than 0.02 behind" in part
    assert "quick (a CPU, 2 cores) and published" in part
    write(mini, mini.run("other"), "01_alpha", 8.0)
    write(mini, mini.run("other"), "02_beta", 4.01)
    assert command("quick", "--with", "other").exit_code == 0


def test_other_parameters_and_missing_chapters_are_told(mini):
    quick = mini.run("quick")
    write(mini, mini.published, "01_alpha", 8.0)
    write(mini, mini.published, "02_beta", 8.5)
    write(mini, quick, "01_alpha", 4.0, n_items=2)
    alpha, beta = compare.compare(mini, quick, mini.published).itertuples()
    assert (alpha.outcome, alpha.changed) == ("not comparable", "n_items")
    assert (beta.outcome, beta.reason) == ("not comparable", "not measured")
    write(mini, quick, "02_beta", 8.0)  # reads a chapter with other parameters
    assert compare.compare(mini, quick, mini.published).changed[1] == "n_items"
    done = command()
    assert done.exit_code == 0
    assert "other parameters: n_items" in done.output
    write(mini, quick, "01_alpha", 4.0)
    assert command().exit_code == 1


def test_without_something_to_compare_the_exit_code_is_two(mini):
    done = command()
    assert done.exit_code == 2
    assert "'quick' has no results" in done.output
    write(mini, mini.run("quick"), "01_alpha", 8.0)
    assert "runs: quick" in command("quik").output
    done = command()
    assert done.exit_code == 2
    assert "'published' has no results" in done.output
    write(mini, mini.published, "01_alpha", 8.0)
    assert command().exit_code == 0
    assert command("quick", "--with", "gone").exit_code == 2
    path = mini.run("quick") / "01_alpha" / FILE
    for content in (path.read_bytes()[:50], path.read_bytes().replace(b"total", b"sum")):
        path.write_bytes(content)
        done = command()
        assert done.exit_code == 2
        assert "error: quick: 01_alpha/result.json" in done.output
        assert "Traceback" not in done.output


def test_how_far_values_are_apart():
    assert compare.apart(90.0, 110.0) == pytest.approx(0.2)
    assert compare.apart(110.0, 90.0) == pytest.approx(0.2)
    assert compare.apart(-1.0, -1.0) == compare.apart(0.0, 0.0) == 0.0
    assert compare.apart(0.0, 1.0) is compare.apart(-1.0, 1.0) is compare.apart(None, 1.0) is None


def test_a_second_run_is_compared_with_the_first(mini):
    first, second = mini.run("full"), mini.run("full-again")
    write(mini, first, "01_alpha", 8.0)
    write(mini, first, "02_beta", 9.0)
    shown = compare.parts(mini, first)[compare.REPEAT_PART]
    assert "Nothing to compare: 'full-again' has no results" in shown
    write(mini, second, "02_beta", 11.0)
    shown = compare.parts(mini, first)[compare.REPEAT_PART]
    for told in ("full-again (a CPU", ">9<", ">11<", ">20.0%<", ">beta.total<", ">holds<"):
        assert told in shown
    assert "alpha" not in shown


def test_run_again_and_publish_both(mini):
    mini.cli("run")
    mini.executions()
    repeated = mini.cli("run", "--again", "--from", "02_beta")
    assert mini.executions() == ["beta"]
    assert "data/runs/quick-again" in repeated.stdout
    second = mini.run("quick-again")
    assert (second / "01_alpha").is_symlink()
    assert mini.result("02_beta", "quick-again")["parameters"]["run_name"] == "quick-again"
    mini.cli("run", "--again", "--from", "02_beta")
    assert mini.executions() == []  # it is up to date
    assert mini.cli("compare", "quick-again", "--with", "quick").returncode == 0

    mini.cli("publish", "quick", "--again")
    repeat = mini.published / compare.REPEATED
    names = [p.relative_to(repeat).as_posix() for p in repeat.rglob("*") if p.is_file()]
    assert names == ["02_beta/result.json"]
    assert ">beta.total<" in (mini.published / compare.REPEAT_PART).read_text()
    assert "second run" in (mini.published / compare.COMPARE_PART).read_text()
    assert book.check_run(mini, None) == []

    mini.cli("run", "--again", "--from", "02_beta", "-p", "02_beta.extra=1")
    refused(mini, "another extra")
    mini.cli("run", "--again", "--from", "02_beta")
    on_another_machine(second)
    refused(mini, "quick-again did not run on the same machine")
    for path in (second / "02_beta" / FILE, second / "02_beta.ipynb"):
        path.unlink()
    refused(mini, "quick-again has run no chapter itself")
    assert (repeat / "02_beta" / FILE).exists()
    book.publish(mini, "quick", QUIET)
    assert not repeat.exists()

    mini.executions()
    mini.cli("run", "--again", "--only", "01_alpha")  # a lent chapter has not run itself
    assert mini.executions() == ["alpha"]
    assert not (second / "01_alpha").is_symlink()
    assert mini.result("01_alpha")["parameters"]["run_name"] == "quick"
    shutil.rmtree(second)
    refused(mini, "quick-again has not run")


def refused(folders, message):
    """Publishing with the second run fails, and changes nothing, although the run has changed."""
    (folders.published / "01_alpha.ipynb").write_text("published")
    before = {path: path.read_bytes() for path in folders.root.glob("book/**/*.*")}
    with pytest.raises(book.BookError, match=message):
        book.publish(folders, "quick", QUIET, again=True)
    assert {path: path.read_bytes() for path in folders.root.glob("book/**/*.*")} == before


def on_another_machine(folder):
    """Make the records of a run those of a processor with other instructions."""
    for path in folder.glob(f"*/{FILE}"):
        if not path.parent.is_symlink():
            record = json.loads(path.read_text())
            record["provenance"]["machine"]["cpu_flags"] = ["other"]
            path.write_text(json.dumps(record))


def test_a_run_on_another_machine_is_published_beside_the_results(mini):
    place = mini.published / compare.OTHER_MACHINE
    mini.cli("run")
    with pytest.raises(compare.CompareError, match="'published' has no results"):
        book.publish_other_machine(mini, "quick", QUIET)
    book.publish(mini, "quick", QUIET)
    with pytest.raises(book.BookError, match="quick did not run on another machine"):
        book.publish_other_machine(mini, "quick", QUIET)
    assert not place.exists()

    on_another_machine(mini.run("quick"))
    (mini.run("quick") / "02_beta" / FILE).unlink()  # it has not run there
    assert " with other, " in mini.cli("publish", "quick", "--other-machine").stdout
    names = [p.relative_to(place).as_posix() for p in place.rglob("*.*")]
    assert names == ["01_alpha/result.json"]
    shown = (mini.published / compare.COMPARE_PART).read_text()
    assert "another machine (" in shown
    assert ">beta.total<" not in shown
    assert book.check_run(mini, None) == []

    mini.cli("run", "--force")
    book.publish(mini, "quick", QUIET)
    assert (place / "01_alpha" / FILE).exists()
    on_another_machine(mini.run("quick"))
    book.publish(mini, "quick", QUIET)  # now the published results are of that machine
    assert not place.exists()
    done = mini.cli("publish", "--again", "--other-machine", check=False)
    assert done.returncode == 2
    assert "got both" in done.stderr


def test_a_second_run_needs_a_first(mini):
    done = mini.cli("run", "--again", "--only", "02_beta", check=False)
    assert done.returncode == 1
    told = "01_alpha, which has not run in quick\n  -> nanorecsys run quick --from 01_alpha"
    assert told in done.stderr


def test_publishing_a_run_that_does_not_exist_leaves_nothing(mini):
    with pytest.raises(book.BookError, match="quicker has not run"):
        book.publish(mini, "quicker", QUIET)
    with pytest.raises(book.BookError, match="quicker has not run"):
        book.publish_other_machine(mini, "quicker", QUIET)
    assert not mini.run("quicker").exists()
