"""The original's claims: every row names a section that exists and has a rule that can fail."""

import re
from types import SimpleNamespace

import msgspec
import nbformat
import pytest

from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import Target
from nanorecsys.study.layout import layout
from nanorecsys.study.original import (
    ORIGINAL,
    READERS,
    OriginalRow,
    anchor,
    judge_original,
    judge_row,
)
from nanorecsys.study.records import read_record

FOLDERS = layout()
AT_MOST = Target("<=", 1.0, limit=2.0)


@pytest.fixture(scope="module")
def records():
    everything = chapters(FOLDERS)
    return {
        name: read_record(FOLDERS.published / name, everything[name].result, raw_rows=False)
        for name in ("04_ann", "05_scaleup", "06_loadtest")
    }


def changed(record, **values):
    """A record with some fields of its result replaced."""
    return msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, **values))


def judged(values, **changes):
    """A row of the original judged with these values of ours."""
    fields = {"id": "x", "claim": "c", "original": "o", "section": "s", "shown": "{0:.1f}"}
    row = OriginalRow(**fields | {"figures": (10.0,)} | changes)
    machine = SimpleNamespace(cores=2)
    record = SimpleNamespace(result=None, provenance=SimpleNamespace(machine=machine))
    return judge_row(row, lambda _: values, record)


def test_every_row_names_a_section_that_exists_and_has_values():
    headings = {}
    for path in FOLDERS.notebooks.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        sections = re.findall(r"^## (?:\d+\. )?(.+)$", text, re.M)
        headings[path.stem] = {anchor(section) for section in sections}
    for row in ORIGINAL:
        assert anchor(row.section) in headings[row.chapter], row.id
    assert [row.id for row in ORIGINAL] == list(READERS)
    assert len({row.claim for row in ORIGINAL}) == len(ORIGINAL)


def test_the_rows_cover_both_tables_of_the_original():
    """The figures of its two tables and its prose, which no row may lose."""
    said = " ".join(f"{row.claim} {row.original}" for row in ORIGINAL)
    figures = "8x|3.3x|24 to ~80/s|75 to 36 ms|~25x|~40/s|51 / 200|36 / 69|2 / 5|41 / 76|~580 ms"
    for figure in f"{figures}|< 60 ms|27 thousand|3 million|IVF-PQ|IVF-SQ|FlatIP".split("|"):
        assert figure in said
    assert sum(row.original == "2 / 5 ms" for row in ORIGINAL) == 2


@pytest.mark.parametrize(
    ("target", "values"),
    [(Target(">=", 1.0, limit=0.5), (10.0, 9.9, 5.0, 4.9)), (AT_MOST, (10.0, 10.1, 20.0, 21.0))],
)
def test_as_good_holds_and_a_factor_of_two_is_the_limit(target, values):
    verdicts = [judged((value,), target=target).verdict for value in values]
    assert verdicts == ["holds", "limited", "limited", "fails"]


def test_the_worse_of_two_figures_counts():
    worse = judged((1.0, 30.0), figures=(10.0, 10.0), target=AT_MOST)
    assert (worse.verdict, worse.over_original, worse.value) == ("fails", [0.1, 3.0], 1.0)
    # a value beyond the figures is only shown
    assert judged((1.0, 30.0), target=AT_MOST, shown="{1:.0f}").shown == "30"
    assert judged((1.0, 30.0), target=AT_MOST).verdict == "holds"


def test_without_figures_the_target_is_for_the_first_value():
    assert judged((0.4,), figures=(), target=Target(">=", 0.5)).verdict == "fails"
    assert judged((0.6,), figures=(), target=Target(">=", 0.5)).over_original == []


def test_values_per_core_are_divided():
    assert judged((30.0,), per_core=True).value == 15.0


def test_without_values_or_records_nothing_is_judged():
    assert (judged(None).verdict, judged(None).shown) == ("not_run", "-")
    assert {claim.verdict for claim in judge_original({})} == {"not_run"}


def answered(records):
    """Ids of the rows that the records have values for."""
    return {claim.id for claim in judge_original(records) if claim.verdict != "not_run"}


def test_the_published_records_answer_every_row(records):
    if records["06_loadtest"].parameters["run_name"] != "full":
        pytest.skip("the published run is not of the profile full, whose sizes the rows need")
    assert answered(records) == {f"original.{row.id}" for row in ORIGINAL}
    # a study that finds only one of the two is not believed
    assert {"holds", "fails"} <= {claim.verdict for claim in judge_original(records)}


def test_another_size_is_not_judged(records):
    below = [row for row in records["05_scaleup"].result.rows if row.n < 3_000_000]
    loadtest = changed(records["06_loadtest"], is_study_shape=False)
    small = records | {
        "04_ann": changed(records["04_ann"], n_items=1000),
        "05_scaleup": changed(records["05_scaleup"], rows=below),
        "06_loadtest": loadtest,
    }
    of_any_size = {"generator", "exact", "saturation", "queueing_p99"}
    assert answered(small) == answered(records) & {f"original.{name}" for name in of_any_size}
