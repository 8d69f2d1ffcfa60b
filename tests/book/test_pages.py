"""The built pages: right numbers, live links, no request to another host; in a real browser too."""

import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from bs4 import BeautifulSoup
from rich.console import Console

from nanorecsys.data.result import DataResult
from nanorecsys.study import book
from nanorecsys.study.claims import JudgedClaim
from nanorecsys.study.compare import OTHER_MACHINE
from nanorecsys.study.gate import GateError
from nanorecsys.study.layout import Layout, layout
from nanorecsys.study.original import ORIGINAL
from nanorecsys.study.pages import HEADLINES, SECTIONS, figure
from nanorecsys.study.protocol import read_protocol
from nanorecsys.study.records import read_record
from tests.book.html_check import check_html
from tests.records import as_committed

FOLDERS = layout()
RUN = FOLDERS.run("smoke")
PAGES = [
    *(
        "intro",
        "protocol",
        "claims",
        "decide",
        "runs",
        "compare",
        "environment",
        "method",
        "server",
        "api",
        "glossary",
        "bibliography",
    ),
    *(f"results/{path.stem}" for path in sorted(FOLDERS.notebooks.glob("*.ipynb"))),
]


PARTS = ("machines", "headlines", "by_run", "findings", "original", "decide")
PARTS += ("definitions", "families", "rows", "amendments")
MOST_BYTES = 3_500_000  # weight limit of a page with its scripts and figures
# Code lines that run out of their boxes, and tables that are cut off.
CUT_OFF = """[...document.querySelectorAll('article table, article pre')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && e.offsetHeight)
    .map(e => e.innerText.slice(0, 60) + ' ' + e.scrollWidth + ' > ' + e.clientWidth)"""


@functools.cache
def parsed(pages, name):
    return BeautifulSoup((pages / "book" / f"{name}.html").read_text(), "html.parser")


def text(pages, name):
    return parsed(pages, name).find("article").get_text()


def loaded(pages, name):
    """The files that a page loads: itself, its figures, scripts and styles."""
    path = pages / "book" / f"{name}.html"
    found = parsed(pages, name)
    targets = [tag["src"] for tag in found.find_all(["img", "script"], src=True)]
    targets += [
        tag["href"]
        for tag in found.find_all("link", href=True)
        if {"stylesheet", "preload"} & set(tag["rel"])
    ]
    local = {
        (path.parent / unquote(urlsplit(t).path)).resolve()
        for t in targets
        if not t.startswith("data:")
    }
    return {path, *local}


def test_the_built_pages_pass_the_check(pages):
    assert check_html(pages, RUN) == []
    assert {
        p.relative_to(pages / "book").with_suffix("").as_posix()
        for p in (pages / "book").rglob("*.html")
    } == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_no_page_shows_the_name_of_a_class_in_place_of_an_empty_text(pages, name):
    assert "IPython.core.display" not in text(pages, name)


@pytest.mark.parametrize("name", PAGES)
def test_no_page_shows_the_marks_of_code_in_its_text(pages, name):
    texts = parsed(pages, name).find("article").find_all(string=re.compile("`"))
    assert [t for t in texts if not t.find_parent(["code", "pre", "script"])] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(pages, name):
    weights = {path.name: path.stat().st_size for path in loaded(pages, name)}
    assert sum(weights.values()) <= MOST_BYTES, sorted(weights.items(), key=lambda item: -item[1])[
        :5
    ]


@pytest.mark.parametrize("name", PAGES)
def test_headings_are_in_order(pages, name):
    levels = [
        int(heading.name[1])
        for heading in parsed(pages, name).find("article").find_all(re.compile("^h[1-6]$"))
    ]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels)), levels


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_is_described_and_shown_once(pages, name):
    """A figure that is glued and also shown by its cell has a file's name as its description."""
    for image in parsed(pages, name).find("article").find_all("img"):
        assert len(image.get("alt", "").split()) > 3, image.get("src", "")[:80]


def test_the_data_page_shows_the_record(pages):
    shown = text(pages, "results/01_data")
    found = read_record(RUN / "01_data", DataResult).result
    assert found.dataset == "ml-latest-small-2016, 250 users"
    assert (found.ratings, found.users, found.items) == (36_065, 250, 5_940)
    for value in (
        *(f"{found.ratings:,}", f"{found.users:,}", f"{found.items:,}", f"{found.history_max:,}"),
        *(f"{found.gini:.2f}", f"{found.tied_event_share:.0%}", f"{found.padding_share:.0%}"),
        f"{found.mostly_future.estimate:.0%}",
        *(split.sha256 for split in found.splits.values()),
    ):
        assert value in shown


def test_runs_and_environment_show_the_provenance(pages):
    record = json.loads((RUN / "01_data" / "result.json").read_text())
    shown = text(pages, "runs")
    for name, value in record["parameters"].items():
        assert name == "run_name" or (name in shown and repr(value) in shown)
    assert record["provenance"]["commit"] in shown
    row = parsed(pages, "runs").select_one("table tbody tr")
    kept = sum(path.stat().st_size for path in (RUN / "01_data").rglob("*") if path.is_file())
    assert [cell.text for cell in row.find_all("td")][3:] == [
        *(f"{round(record['provenance'][name]):,}" for name in ("seconds", "peak_rss_mib")),
        f"{round(kept / 2**20):,}",
    ]
    environment = text(pages, "environment")
    assert record["provenance"]["machine"]["cpu_model"] in environment
    assert record["provenance"]["versions"]["torch"] in environment


def test_no_page_holds_a_path_of_this_machine(pages):
    for path in pages.rglob("*"):
        if path.suffix in (".html", ".ipynb", ".json", ".csv", ".js", ".txt", ".md"):
            assert str(FOLDERS.root) not in path.read_text(errors="ignore"), path


def test_the_check_finds_what_is_wrong(pages, tmp_path):
    broken = tmp_path / "html"
    shutil.copytree(pages, broken)
    claims = broken / "book" / "claims.html"
    judged = msgspec.json.decode(
        (RUN / "07_summary" / "claims.json").read_bytes(), type=list[JudgedClaim]
    )
    wrong = next(c for c in judged if any(not v.is_integer() for v in c.value.values()))
    part = figure(wrong).split("; ")[0]
    claims.write_text(claims.read_text().replace(part, f"{part} or more"))
    intro = broken / "book" / "intro.html"
    intro.write_text(
        intro.read_text().replace(
            "</article>",
            '<a href="gone.html">x</a><a href="claims.html#gone">x</a>'
            '<img src="https://example.org/x.png"></article>',
        )
    )
    (broken / "book" / "runs.html").unlink()
    problems = "\n".join(check_html(broken, RUN))
    assert "dead link runs.html" in problems
    for told in (
        f"{wrong.id} shows",
        "dead link gone.html",
        "dead anchor claims.html#gone",
        "another host",
    ):
        assert told in problems


def test_the_book_needs_every_chapter_and_shows_only_what_may_be_shown(tmp_path):
    with pytest.raises(GateError, match="01_data has not run in no-such-run"):
        book.build(FOLDERS, "no-such-run", Console(quiet=True))
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    notebook = json.loads((run / "01_data.ipynb").read_text())
    next(c for c in notebook["cells"] if c["cell_type"] == "code")["execution_count"] = None
    (run / "01_data.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(GateError, match="was not executed"):
        book.assemble(FOLDERS, run, tmp_path / "source")
    (run / "01_data.ipynb").unlink()
    with pytest.raises(GateError, match="01_data has not run in run"):
        book.assemble(FOLDERS, run, tmp_path / "other")


def test_publish_takes_a_whole_run_or_nothing(tmp_path):
    folders = Layout(tmp_path)
    for name in ("notebooks", "book"):  # records from another machine would stay
        shutil.copytree(
            FOLDERS.root / name, tmp_path / name, ignore=shutil.ignore_patterns(OTHER_MACHINE)
        )
    shutil.copytree(RUN, folders.run("smoke"))
    as_committed(folders.run("smoke"))
    folders.protocol.parent.mkdir(parents=True)
    shutil.copy(FOLDERS.protocol, folders.protocol)
    book.publish(folders, "smoke", Console(quiet=True))
    names = {
        p.relative_to(folders.published).as_posix()
        for p in folders.published.rglob("*")
        if p.is_file()
    }
    chapters = [path.stem for path in FOLDERS.notebooks.glob("*.ipynb")]
    assert names == {
        *(f"{chapter}.ipynb" for chapter in chapters),
        *(f"{chapter}/result.json" for chapter in chapters),
        *("04_ann/points.csv", "05_scaleup/points.csv", "06_loadtest/floor.csv"),
        *("06_loadtest/served_scale.csv", "06_loadtest/rounds.csv"),
        *("02_training/qualities.csv", "07_summary/claims.json", "07_summary/results.csv"),
        *(["05_scaleup/remote.csv"] * (RUN / "05_scaleup" / "remote.csv").exists()),  # with Milvus
        "07_summary/what_each_change_bought.svg",
        *(f"{part}.html" for part in PARTS),
    }
    (folders.run("smoke") / "01_data" / "result.json").unlink()
    with pytest.raises(book.NanorecsysError, match="01_data"):
        book.publish(folders, "smoke", Console(quiet=True))
    assert names == {
        p.relative_to(folders.published).as_posix()
        for p in folders.published.rglob("*")
        if p.is_file()
    }


def test_the_published_results_are_whole():
    """The files under book/results pass the same gate as a run, and are small enough for git."""
    assert book.check_run(FOLDERS, None) == []
    claims = msgspec.json.decode((FOLDERS.published / "07_summary" / "claims.json").read_bytes())
    assert claims
    assert all(p.stat().st_size < 2_000_000 for p in FOLDERS.published.rglob("*") if p.is_file())


def test_plain_jupyter_book_renders_the_published_results(tmp_path):
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        FOLDERS.root,
        "--path-output",
        tmp_path,
        "-W",
        "-n",
    ]
    done = subprocess.run([*command, "--all", "--keep-going"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert check_html(tmp_path / "_build" / "html", FOLDERS.published) == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_in_the_browser(browser, address, name, width, scheme):
    problems = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on(
        "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:")) else problems.append(r.url),
    )
    page.goto(f"{address}/book/{name}.html", wait_until="load")
    assert problems == []
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    broken = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)"
    assert page.evaluate(broken) == []
    assert page.evaluate("[...document.images].filter(i => !i.alt).map(i => i.src)") == []
    if width == 1280:  # on a phone a wide table scrolls by itself
        assert page.evaluate(CUT_OFF) == []
    context.close()


def test_every_verdict_is_in_sight_on_a_phone(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"{address}/book/claims.html")
    rights = page.eval_on_selector_all(
        "article td:first-child",
        "cells => cells.map(c => c.offsetHeight && c.getBoundingClientRect().right)",
    )
    assert len(rights) > len(ORIGINAL)  # the original's rows and the study's findings
    assert all(0 < right <= 390 for right in rights)
    page.close()


def test_the_landing_page_shows_the_headlines_of_the_protocol_and_no_others(pages):
    findings = read_protocol(FOLDERS).findings
    assert {i for ids in HEADLINES.values() for i in ids} == {f.id for f in findings if f.headline}
    assert SECTIONS.keys() == {f.id for f in findings}
    assert len(parsed(pages, "intro").select(".card")) == len(HEADLINES) == 5
    assert text(pages, "intro").index("make study") > text(pages, "intro").index("Quality")


def test_each_claim_leads_to_the_section_that_shows_it(pages):
    rows = parsed(pages, "claims").select("table.claims tbody tr")
    assert len(rows) == len(ORIGINAL) + len(SECTIONS)
    assert rows[0]["id"].startswith("original.")
    assert all("html#" in row.select_one("a")["href"] for row in rows)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_claims_page_has_no_table_that_scrolls(browser, address, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(f"{address}/book/claims.html")
    scrolled = (
        "[...document.querySelectorAll('table.claims')].map(t => t.scrollWidth - t.clientWidth)"
    )
    assert max(page.evaluate(scrolled)) <= 1
    page.close()


def test_search_finds_leakage(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=leakage")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")
    assert any("results/01_data.html" in link for link in found)
    page.close()


def test_the_landing_page_is_where_the_index_leads(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.wait_for_url("**/book/intro.html")
    assert "two virtual CPUs" in page.inner_text("h1")
    page.close()
