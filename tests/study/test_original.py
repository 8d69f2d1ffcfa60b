"""The original's claims: every row has a section that exists, a rule that can fail, and a number of this study's."""

import re
from dataclasses import replace

import msgspec
import nbformat
import pytest
from bs4 import BeautifulSoup

from nanorecsys.study import figures
from nanorecsys.study.chapters import chapters
from nanorecsys.study.claims import Claim, JudgedClaim, Target, judge
from nanorecsys.study.layout import layout
from nanorecsys.study.original import (
    AT_LEAST,
    AT_MOST,
    SEED,
    SeedRow,
    address,
    anchor,
    headlines,
    judge_seed,
    seed_table,
)
from nanorecsys.study.records import read_record

WHERE = layout()
CLAIMS = {claim.id: claim for chapter in chapters(WHERE).values() for claim in chapter.claims}


@pytest.fixture(scope="module")
def records():
    results = {
        name: chapters(WHERE)[name].result for name in ("04_ann", "05_scaleup", "06_loadtest")
    }
    return {
        name: read_record(WHERE.published / name, result, raw_rows=False)
        for name, result in results.items()
    }


def changed(record, **values):
    """A record with fields of its result replaced."""
    return msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, **values))


@pytest.fixture(scope="module")
def claims(records):
    found = {chapter.name: chapter.claims for chapter in chapters(WHERE).values()}
    return [
        row for name, record in records.items() for row in judge(name, found[name], record.result)
    ]


def row(values, **changes):
    kept = {
        "claim": "c",
        "original": "o",
        "chapter": "x",
        "section": "s",
        "show": "{0:.1f}",
        "figures": (10.0,),
    }
    return SeedRow(**(kept | {"values": lambda record: values} | changes))


def verdict(values, **changes):
    return judge_seed({"x": object()}, [], [row(values, **changes)])[0].verdict


def test_every_row_names_a_section_and_a_claim_that_exist():
    headings = {}
    for path in WHERE.notebooks.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        headings[path.stem] = {
            anchor(re.sub(r"^\d+\. ", "", h)) for h in re.findall(r"^## (.+)$", text, re.M)
        }
    for r in SEED:
        assert anchor(r.section) in headings[r.chapter], r.claim
        assert r.claim_id is None or CLAIMS[r.claim_id].id == r.claim_id
    assert len({r.claim for r in SEED}) == len(SEED)


def test_the_rows_cover_both_tables_of_the_original():
    """The figures of its two tables and its prose, which a row may not lose."""
    said = " ".join(f"{r.claim} {r.original}" for r in SEED)
    for figure in (
        "8x",
        "3.3x",
        "24 to ~80/s",
        "75 to 36 ms",
        "~25x",
        "~40/s",
        "51 / 200",
        "36 / 69",
        "2 / 5",
        "41 / 76",
    ):
        assert figure in said
    for figure in ("~580 ms", "< 60 ms", "27 thousand", "3 million", "IVF-PQ", "IVF-SQ", "FlatIP"):
        assert figure in said
    assert sum(r.original == "2 / 5 ms" for r in SEED) == 2


def test_the_rule():
    assert [verdict((v,), target=AT_LEAST) for v in (10.0, 9.9, 5.0, 4.9)] == [
        "holds",
        "limited",
        "limited",
        "fails",
    ]
    assert [verdict((v,), target=AT_MOST) for v in (10.0, 10.1, 20.0, 21.0)] == [
        "holds",
        "limited",
        "limited",
        "fails",
    ]
    # of two figures the worse counts, and a value beyond the figures is only shown
    assert verdict((1.0, 30.0), figures=(10.0, 10.0), target=AT_MOST) == "fails"
    assert verdict((1.0, 30.0), figures=(10.0,), target=AT_MOST) == "holds"
    assert verdict((0.4,), figures=(), target=Target(">=", 0.5)) == "fails"
    assert verdict(None) == "not_run"


def test_a_row_of_a_claim_takes_its_value_and_verdict():
    claim = Claim(id="a.b", statement="", value=lambda r: r, unit="", target=Target(">=", 5.0))
    one = row((3.0,), claim_id="a.b", show="{0:.0f} of {1:.0f}")
    (found,) = judge_seed({"x": object()}, judge("x", [claim], 6.0), [one])
    assert (found.ours, found.ratios, found.verdict) == ("6 of 3", (0.6,), "holds")
    (found,) = judge_seed({"x": object()}, judge("x", [claim], 4.0), [one])
    assert found.verdict == "fails"
    (found,) = judge_seed({}, judge("x", [claim], None), [one])
    assert (found.ours, found.verdict) == (None, "not_run")
    with pytest.raises(KeyError):
        judge_seed({}, [], [one])


def test_without_records_nothing_is_judged():
    unjudged = [
        JudgedClaim(
            id=i,
            chapter="",
            statement="",
            original=None,
            value=None,
            unit="",
            target="",
            verdict="not_run",
        )
        for i in CLAIMS
    ]
    found = judge_seed({}, unjudged)
    assert {j.verdict for j in found} == {"not_run"}
    assert "<a " not in seed_table(found, [])._repr_html_()
    assert headlines({}, found).rows == ()


def test_the_published_records_answer_every_row(records, claims):
    found = judge_seed(records, claims)
    assert len(found) == len(SEED)
    assert [j.row.claim for j in found if j.verdict == "not_run"] == []
    assert all(j.ours for j in found)
    assert {"holds", "fails"} <= {
        j.verdict for j in found
    }  # a study that finds only one of them is not believed


def test_another_size_is_not_judged(records, claims):
    below = [r for r in records["05_scaleup"].result.rows if r.n < 3_000_000]
    small = {
        "06_loadtest": changed(records["06_loadtest"], is_full=False),
        "05_scaleup": changed(records["05_scaleup"], rows=below),
    }
    found = judge_seed(records | small, claims)
    own = [
        j
        for j in found
        if j.row.claim_id is None and j.row.section != "What queueing alone predicts"
    ]
    assert {j.verdict for j in own} == {"not_run", "fails"}
    assert [j.row.section for j in own if j.verdict == "fails"] == ["The held-out test"]


def test_the_table_leads_to_the_sections(records, claims):
    found = judge_seed(records, claims)
    html = BeautifulSoup(seed_table(found, records, "results/")._repr_html_(), "html.parser")
    assert [a["href"] for a in html.find_all("a")] == [
        address(r.chapter, r.section, "results/") for r in SEED
    ]
    assert len(html.find_all("tr")) == len(SEED) + 1


def test_five_headlines_with_the_originals_beside(records, claims):
    shown = headlines(records, judge_seed(records, claims), "results/")
    assert len(shown.rows) == 5
    assert all(original for *_, original in shown.rows)
    without = changed(records["06_loadtest"], highest=None)
    assert len(headlines(records | {"06_loadtest": without}, []).rows) == 3


def test_the_picture_is_inside_the_page_and_labels_every_point(records):
    shown = figures.picture(records["06_loadtest"])
    html = BeautifulSoup(shown._repr_html_(), "html.parser")
    assert html.img["src"].startswith("data:image/svg+xml;base64,")
    assert html.img["alt"]
    assert "each change bought" in html.figcaption.get_text()
    rungs = records["06_loadtest"].result.ladder
    left, right = shown.figure.axes
    assert len(left.texts) == len(rungs)
    assert (
        len(right.texts) == len(left.get_yticklabels()) == len(rungs) + 1
    )  # the last server's rate once more
    assert (
        right.texts[-1].get_text() == f"{records['06_loadtest'].result.highest.offered_per_s:,.0f}"
    )
    assert {left.get_xscale(), right.get_xscale()} == {"log"}


def test_a_picture_without_rates_and_without_a_load_test(records):
    rungs = [
        msgspec.structs.replace(r, highest_per_s=None) for r in records["06_loadtest"].result.ladder
    ]
    figure = figures.what_each_change_bought(rungs, None)
    assert [len(axis.texts) for axis in figure.axes] == [len(rungs), 0]
    figures.plt.close(figure)
    assert "has not run" in figures.picture(None)._repr_html_()
    assert replace(figures.picture(None), caption="<b>")._repr_html_() == "<p>&lt;b&gt;</p>"
