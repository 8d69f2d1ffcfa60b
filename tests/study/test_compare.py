"""Comparing runs: what agrees on another machine, differs or changes its verdict; a second run."""

import json
import re
import shutil

import msgspec
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from rich.console import Console

from nanorecsys.cli import cli
from nanorecsys.study import book, compare, pages
from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.layout import layout
from nanorecsys.study.protocol import ORIGINAL, read_protocol
from nanorecsys.study.records import FILE, FORMAT, Record, write_record
from nanorecsys.system.errors import NanorecsysError
from tests.records import example_provenance

QUIET = Console(quiet=True)


def claim(value, low=None, high=None, verdict="holds"):
    """A judged claim with one value; None is one that was not measured."""
    measured = value is not None
    return JudgedClaim(
        id="a.b",
        chapter="a",
        statement="It is.",
        value={"set": value} if measured else {},
        interval={"set": (low, high)} if low is not None else {},
        shown=str(value),
        verdict=verdict if measured else "not run",
        agreement="machine",
    )


def outcome_of(kind, own, other, same_parameters=True):
    own, other = (msgspec.structs.replace(c, agreement=kind) for c in (own, other))
    return compare.agreement(own, other, same_parameters=same_parameters)


def compared(folders, run, other):
    """The comparison of the records in two folders."""
    sides = (compare.records(folders, folder) for folder in (run, other))
    return compare.compare(chapters(folders), *sides)


def write(folders, folder, chapter, total, **parameters):
    """A record as a chapter leaves it, each with its own provenance."""
    made = chapters(folders)[chapter]
    provenance = example_provenance("none", f"{folder.name} {total}", made.definitions_sha256)
    record = Record(
        format=FORMAT,
        chapter=chapter,
        parameters={"seed": 0, "run_name": folder.name} | parameters,
        provenance=provenance,
        files={},
        result=made.module.Result(total=total),
    )
    write_record(folder / chapter, record)


def command(*arguments):
    return CliRunner().invoke(cli, ["compare", *arguments])


@pytest.mark.parametrize(
    ("kind", "own", "other", "outcome"),
    [
        ("ratio", claim(12.4), claim(10.0), "agrees"),
        ("ratio", claim(12.6), claim(10.0), "differs"),  # better is no agreement either
        ("ratio", claim(8.1), claim(10.0), "agrees"),
        ("ratio", claim(7.9), claim(10.0), "differs"),
        ("quality", claim(0.139), claim(0.12), "agrees"),
        ("quality", claim(0.141), claim(0.12), "differs"),
        ("quality", claim(0.16), claim(0.12, 0.07, 0.17), "agrees"),  # inside the other's interval
        ("quality", claim(0.16, 0.1, 0.2), claim(0.12, 0.11, 0.13), "differs"),
        ("quality", claim(-0.01), claim(0.01, verdict="fails"), "agrees"),
        ("machine", claim(1e9), claim(1.0), "not judged"),
        ("exact", claim(0.5), claim(0.5), "not judged"),
        ("exact", claim(0.5), claim(0.51), "differs"),
    ],
)
def test_the_tolerance_of_each_kind(kind, own, other, outcome):
    assert outcome_of(kind, own, other) == outcome


def test_every_data_set_has_to_agree():
    first, second = claim(0.1), claim(0.1)
    first.value["other"], second.value["other"] = 0.1, 0.2
    assert outcome_of("quality", first, second) == "differs"


def test_a_verdict_may_change_within_the_tolerance():
    assert outcome_of("ratio", claim(9.9, verdict="fails"), claim(10.1)) == "agrees"


@pytest.mark.parametrize("kind", ["ratio", "quality", "exact"])
def test_with_other_parameters_only_verdicts_are_compared(kind):
    assert outcome_of(kind, claim(1.0), claim(40.0), False) == "same verdict"
    fails = claim(1.0, verdict="fails")
    assert outcome_of(kind, fails, claim(1.0), False) == "other verdict"


@pytest.mark.parametrize("kind", ["ratio", "quality", "machine", "exact"])
def test_a_value_that_was_not_measured_is_no_failure(kind):
    for own, other in ((None, 40), (40, None), (None, None)):
        assert outcome_of(kind, claim(own), claim(other)) == "not measured"


def test_times_rates_and_bytes_of_the_study_are_never_judged():
    kinds = {f.id: (f.unit, f.agreement) for f in read_protocol(layout()).findings}
    units = ("requests/s", "times 100 ms")
    assert all(kind == "machine" for unit, kind in kinds.values() if unit in units)
    assert all(kind == "ratio" for unit, kind in kinds.values() if unit == "x")
    judged = ("comparison", "document")
    assert {row.agreement for row in ORIGINAL if row.kind not in judged} == {"machine"}


def test_the_page_states_the_bounds_of_the_rules():
    page = (layout().root / "book" / "compare.md").read_text()
    assert f"at most {compare.RATIO:g} times apart" in page
    assert f"at most {compare.QUALITY:g} away" in page


def test_comparing_with_the_published_run_ends_with_its_exit_code(mini):
    for name, total in (("01_alpha", 8.0), ("02_beta", 8.5)):
        write(mini, mini.published, name, total)
        write(mini, mini.run("quick"), name, total + 0.01)
    done = command()
    assert done.exit_code == 0, done.output
    assert "2 claims: agrees 2." in done.output
    write(mini, mini.run("quick"), "02_beta", 4.0)  # its bound is 5
    done = command("quick")
    assert done.exit_code == 1
    assert "2 claims: agrees 1, differs 1." in done.output
    assert "holds: 8.5 [8.5, 8.5] │ fails: 4 [4, 4]" in " ".join(done.output.split())
    part = pages.parts(mini, mini.run("quick"))["machines.html"]
    assert "<b>quick</b>: a CPU, 2 cores." in part
    assert "<b>published</b>: a CPU, 2 cores; 2 claims: agrees 1, differs 1." in part
    write(mini, mini.run("other"), "01_alpha", 8.0)
    write(mini, mini.run("other"), "02_beta", 4.01)
    assert command("quick", "--with", "other").exit_code == 0


def test_other_parameters_and_missing_chapters_are_told(mini):
    quick = mini.run("quick")
    write(mini, mini.published, "01_alpha", 8.0)
    write(mini, mini.published, "02_beta", 8.5)
    write(mini, quick, "01_alpha", 4.0, n_items=2)
    alpha, beta = compared(mini, quick, mini.published).itertuples()
    assert alpha.outcome == "other verdict"
    assert (beta.outcome, beta.run) == ("not measured", "not run")
    write(mini, quick, "02_beta", 8.0)  # reads a chapter with other parameters
    assert compared(mini, quick, mini.published).outcome[1] == "same verdict"
    done = command()
    assert done.exit_code == 0
    assert "2 claims: same verdict 1, other verdict 1." in done.output
    assert "differ in 01_alpha (n_items), which can change its figures." in done.output
    assert "n_items" in done.output
    write(mini, quick, "01_alpha", 4.0, seed=7)  # another seed is no other parameter
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


def test_a_second_run_is_compared_with_the_first(mini):
    first, second = mini.run("full"), mini.run("full-again")
    write(mini, first, "01_alpha", 8.0)
    write(mini, first, "02_beta", 9.0)
    assert "full-again" not in pages.parts(mini, first)["findings.html"]
    write(mini, second, "02_beta", 11.0, seed=1000)
    shown = pages.parts(mini, first)["findings.html"]
    for told in ("full-again", ">not run<", "holds: 11 (11 to 11) (differs)"):
        assert told in shown


def test_the_pages_name_the_parameters_in_which_another_run_differs(mini):
    first, second = mini.run("full"), mini.run("full-again")
    write(mini, first, "01_alpha", 8.0)
    write(mini, second, "01_alpha", 8.0)
    assert "parameters differ" not in pages.parts(mini, first)["machines.html"]
    write(mini, second, "01_alpha", 8.0, extra=3.0)
    shown = pages.parts(mini, first)["machines.html"]
    assert "Its parameters differ in 01_alpha (extra), which can change its figures." in shown


def test_the_pages_name_the_chapters_in_which_another_run_has_other_seeds(mini):
    first, second = mini.run("full"), mini.run("full-again")
    for name in ("01_alpha", "02_beta"):
        write(mini, first, name, 8.0)
        write(mini, second, name, 8.0, seed=1000 if name == "02_beta" else 0)
    [own, other] = pages.parts(mini, first)["machines.html"].split("<li>")[1:]
    assert "seeds" not in own
    assert "Its random seeds differ in 02_beta." in other


def test_the_headlines_are_shown_run_by_run(mini, monkeypatch):
    monkeypatch.setattr(pages, "HEADLINES", {"Beta": {"beta.total": "{:.0f}", "gone": "{}"}})
    write(mini, mini.run("full"), "02_beta", 9.0)
    write(mini, mini.run("full-again"), "02_beta", 11.0, seed=1000)
    shown = BeautifulSoup(pages.parts(mini, mini.run("full"))["by_run.html"], "html.parser")
    [row] = shown.select("tbody tr")
    assert row["id"] == "beta.total"
    figures = [cell.text for cell in row.find_all("td")[2:]]
    assert figures == ["9 (9 to 9)", "holds: 11 (11 to 11) (differs)"]


def test_a_chapter_that_the_second_run_took_from_the_first_agrees_with_nothing(mini):
    first, second = mini.run("full"), mini.run("full-again")
    write(mini, first, "01_alpha", 8.0)
    write(mini, first, "02_beta", 9.0)
    shutil.copytree(first / "01_alpha", second / "01_alpha")
    write(mini, second, "02_beta", 9.0, seed=1000)
    shown = pages.parts(mini, first)
    [alpha, beta] = BeautifulSoup(shown["findings.html"], "html.parser").select("tbody tr")
    assert alpha.find_all("td")[3].text.strip() == "not repeated"
    assert beta.find_all("td")[3].text.strip().endswith("(agrees)")
    assert "2 claims: agrees 1, not repeated 1." in shown["machines.html"]
    assert shown["decide.html"].count("<h3>") == 1  # one machine


def test_run_again_and_publish_both(ran):
    ran.cli("run", "--again", "--only", "01_alpha")
    assert ran.executions() == ["alpha"]
    book.publish(ran, "quick", QUIET)
    refused(ran, "quick-again has not run 02_beta", again=True)  # a second run is of all claims
    repeated = ran.cli("run", "--again")
    assert "data/runs/quick-again" in repeated.stdout
    assert ran.executions() == ["beta"]
    second = ran.run("quick-again")
    parameters = ran.result("02_beta", "quick-again")["parameters"]
    assert (parameters["run_name"], parameters["seed"]) == ("quick-again", 1000)
    assert ran.result("02_beta")["parameters"]["seed"] == 0
    ran.cli("run", "--again")
    assert ran.executions() == []  # it is up to date
    assert ran.cli("compare", "quick-again", "--with", "quick").returncode == 0

    book.publish(ran, "quick", QUIET)
    done = ran.cli("publish", "quick", "--again")
    assert "published the records of quick-again" in done.stdout
    repeat = ran.published / compare.REPEATED
    names = sorted(p.relative_to(repeat).as_posix() for p in repeat.rglob("*") if p.is_file())
    assert names == ["01_alpha/result.json", "02_beta/result.json"]
    assert "second run" in (ran.published / "findings.html").read_text()
    assert book.check_run(ran, None) == []

    path = second / "02_beta" / FILE
    good = path.read_text()
    path.write_text(good.replace('"extra": 0.5', '"extra": 1.0'))
    refused(ran, "another extra", again=True)
    path.write_text(good)
    provenance(second, "02_beta", commit="abc1234+")
    refused(ran, "quick-again: 02_beta ran with changes that were not committed", again=True)
    path.write_text(good)
    on_another_machine(second)
    ran.cli("publish", "quick", "--again")  # the pages say which
    [own, other] = (ran.published / "machines.html").read_text().split("<li>")[1:]
    assert " with other, " not in own
    assert " with other, " in other
    assert "Its random seeds differ in 01_alpha, 02_beta." in other
    path.unlink()
    refused(ran, "quick-again has not run 02_beta", again=True)
    assert (repeat / "02_beta" / FILE).exists()
    book.publish(ran, "quick", QUIET)
    assert not repeat.exists()
    shutil.rmtree(second)
    refused(ran, "'quick-again' has no results", again=True)


def provenance(folder, chapter, **changes):
    """Change the provenance of a chapter's record."""
    path = folder / chapter / FILE
    record = json.loads(path.read_text())
    record["provenance"].update(changes)
    path.write_text(json.dumps(record))


def test_a_run_on_two_machines_is_not_published(ran):
    book.publish(ran, "quick", QUIET)
    machine = ran.result("02_beta")["provenance"]["machine"]
    provenance(ran.run("quick"), "02_beta", machine=machine | {"memory_gib": 1.5})
    book.publish(ran, "quick", QUIET)  # the memory that is free to a process is no machine
    provenance(ran.run("quick"), "02_beta", machine=machine | {"cores": 1000})
    refused(ran, r"quick ran on more than one machine: .* cores; .* 1000 cores")
    with pytest.raises(book.BookError, match=r"on one machine: nanorecsys run quick --force"):
        book.publish_beside(ran, "quick", compare.OTHER_MACHINE, QUIET)


def test_a_run_of_code_that_was_not_committed_is_not_published(ran):
    book.publish(ran, "quick", QUIET)
    shutil.copytree(ran.run("quick"), ran.run("quick-again"))
    provenance(ran.run("quick-again"), "02_beta", commit="abc1234+")
    refused(ran, "quick-again: 02_beta ran with changes that were not committed", again=True)
    provenance(ran.run("quick"), "01_alpha", commit="abc1234+")
    refused(ran, "quick: 01_alpha ran with changes that were not committed")


def test_publishing_that_fails_in_the_end_leaves_the_published_results(ran, monkeypatch):
    book.publish(ran, "quick", QUIET)

    def broken(*_, **__):
        raise NanorecsysError("a page is broken")

    monkeypatch.setattr(book, "parts", broken)
    refused(ran, "a page is broken")


def test_the_claims_page_has_a_column_for_each_published_machine(mini):
    for name, total in (("01_alpha", 8.0), ("02_beta", 4.0)):
        write(mini, mini.published, name, total)
        write(mini, mini.published / compare.REPEATED, name, total + 0.5)
    write(mini, mini.published / compare.OTHER_MACHINE, "02_beta", 6.0)
    shown = pages.parts(mini, mini.published)["findings.html"]
    [alpha, beta] = BeautifulSoup(shown, "html.parser").select("tbody tr")
    titles = [cell.text for cell in BeautifulSoup(shown, "html.parser").select("thead th")]
    assert titles == ["verdict", "claim", "published", "second run", "another machine"]
    assert [cell.text for cell in beta.find_all("td")] == [
        *("fails", "The total is large. Bound: >= 5.", "4 (4 to 4)"),
        *("fails: 4.5 (4.5 to 4.5) (differs)", "holds: 6 (6 to 6) (differs)"),
    ]
    assert beta["id"] == "beta.total"
    assert alpha.find_all("td")[4].text == "not run"
    assert alpha.find_all("td")[1].a["href"].startswith("results/01_alpha.html#")
    machines = pages.parts(mini, mini.published)["machines.html"]
    assert "<b>second run</b>: a CPU, 2 cores; 2 claims: differs 2." in machines


def test_the_pages_tell_how_often_the_generator_of_each_load_test_was_late():
    folders = layout()
    shown = pages.parts(folders, folders.published)["machines.html"]
    places = [folders.published, *(folders.published / name for name in compare.TITLES)]
    records = [compare.records(folders, place) for place in places if place.is_dir()]
    late = [str(found["06_loadtest"].result.void_runs) for found in records]
    assert re.findall(r"late in\s+(\d+) runs", shown) == late


def test_an_older_record_of_another_machine_stays_and_says_so(ran):
    book.publish(ran, "quick", QUIET)
    write(ran, ran.published / compare.OTHER_MACHINE, "02_beta", 6.0)
    assert "older" not in pages.parts(ran, ran.published)["machines.html"]
    path = ran.published / compare.OTHER_MACHINE / "02_beta" / FILE
    path.write_text(path.read_text().replace('"definitions_sha256": "', '"definitions_sha256": "0'))
    assert book.check_run(ran, None) == []
    shown = pages.parts(ran, ran.published)["machines.html"]
    assert "before the definitions of 02_beta" in shown


def test_the_check_refuses_other_definitions_in_a_second_run(ran):
    book.publish(ran, "quick", QUIET)
    write(ran, ran.published / compare.REPEATED, "02_beta", 6.0)
    path = ran.published / compare.REPEATED / "02_beta" / FILE
    path.write_text(path.read_text().replace('"definitions_sha256": "', '"definitions_sha256": "0'))
    [problem] = book.check_run(ran, None)
    assert "second run: 02_beta ran under other definitions" in problem
    assert "replace book/results/again with a new publication, or delete it" in problem


def publish(folders, *, again):
    if again:
        book.publish_beside(folders, "quick-again", compare.REPEATED, QUIET)
    else:
        book.publish(folders, "quick", QUIET)


def refused(folders, message, *, again=False):
    """Publishing a run, or its second run, fails and changes nothing, although it has changed."""
    (folders.published / "01_alpha.ipynb").write_text("published")
    before = {path: path.read_bytes() for path in folders.root.glob("book/**/*.*")}
    with pytest.raises(NanorecsysError, match=message):
        publish(folders, again=again)
    assert {path: path.read_bytes() for path in folders.root.glob("book/**/*.*")} == before


def on_another_machine(folder):
    """Make the records of a run those of a processor with other instructions."""
    for path in folder.glob(f"*/{FILE}"):
        record = json.loads(path.read_text())
        record["provenance"]["machine"]["cpu_flags"] = ["other"]
        path.write_text(json.dumps(record))


def test_a_run_on_another_machine_is_published_beside_the_results(ran, finished):
    place = ran.published / compare.OTHER_MACHINE
    with pytest.raises(compare.CompareError, match="'published' has no results"):
        book.publish_beside(ran, "quick", compare.OTHER_MACHINE, QUIET)
    book.publish(ran, "quick", QUIET)
    with pytest.raises(book.BookError, match="quick did not run on another machine"):
        book.publish_beside(ran, "quick", compare.OTHER_MACHINE, QUIET)
    assert not place.exists()

    on_another_machine(ran.run("quick"))
    (ran.run("quick") / "02_beta" / FILE).unlink()  # it has not run there
    assert " with other, " in ran.cli("publish", "quick", "--other-machine").stdout
    names = [p.relative_to(place).as_posix() for p in place.rglob("*.*")]
    assert names == ["01_alpha/result.json"]
    shown = (ran.published / "findings.html").read_text()
    assert "another machine" in shown
    assert ">not run<" in shown
    assert book.check_run(ran, None) == []

    shutil.rmtree(ran.run("quick"))
    shutil.copytree(finished, ran.run("quick"))
    book.publish(ran, "quick", QUIET)
    assert (place / "01_alpha" / FILE).exists()
    on_another_machine(ran.run("quick"))
    book.publish(ran, "quick", QUIET)  # now the published results are of that machine
    assert not place.exists()
    done = ran.cli("publish", "--again", "--other-machine", check=False)
    assert done.returncode == 2
    assert "got both" in done.stderr


def test_a_second_run_reads_its_own_chapters(ran):
    done = ran.cli("run", "--again", "--only", "02_beta", check=False)
    assert done.returncode == 1
    assert "01_alpha, which has not run in quick-again" in done.stderr
    assert "-> nanorecsys run quick --again --from 01_alpha" in done.stderr


def test_publishing_a_run_that_does_not_exist_leaves_nothing(mini):
    with pytest.raises(compare.CompareError, match="'quicker' has no results"):
        book.publish(mini, "quicker", QUIET)
    with pytest.raises(compare.CompareError, match="'quicker' has no results"):
        book.publish_beside(mini, "quicker", compare.OTHER_MACHINE, QUIET)
    assert not mini.run("quicker").exists()
