"""The original's rows: every row names a section that exists, and gets one of four words."""

import re
from types import SimpleNamespace as Made

import nbformat
import pytest

from nanorecsys.export import variants as variants_of_the_export
from nanorecsys.study.layout import layout
from nanorecsys.study.original import (
    EXPORTED,
    ONNX,
    READERS,
    TORCH,
    anchor,
    judge_original,
)
from nanorecsys.study.protocol import ORIGINAL

FOLDERS = layout()
ROWS = {row.id: row for row in ORIGINAL}


def stage(p50, p95=None):
    return Made(p50=p50, p95=p95)


def loadtest(**changes):
    """A load test with the original's two servers in kind, as far as the rows read it."""
    rungs = {TORCH: Made(busy_per_s=Made(middle=30.0)), ONNX: Made(busy_per_s=Made(middle=60.0))}
    times = {(TORCH, ONNX): Made(middle=1.5)}
    values = {
        "is_study_shape": True,
        "is_full": True,
        "server": rungs.get,
        "times_cpu": lambda before, after: times.get((before, after)),
        "in_kind_stages": {
            TORCH: {"embedding": stage(30.0)},
            ONNX: {"embedding": stage(20.0, 25.0), "compute": stage(25.0, 30.0)},
        },
        "thread_gain": 0.75,
        "stages_alone": {"compute": stage(2.0, 3.0)},
        "stages_loaded": {"compute": stage(2.0, 6.0)},
        "bands": [Made(waiting_share=0.7)],
        "highest": Made(offered_per_s=800.0, p50_ms=1.0, p95_ms=4.0, p99_ms=None),
        "original": [Made(hits_wait=True, offered_per_s=80, load=0.6, p99_ms=200.0)],
    }
    return Made(result=Made(**values | changes))


def judged(record, chapter="06_loadtest"):
    return {c.id.partition(".")[2]: c for c in judge_original({chapter: record})}


def test_every_row_names_a_section_that_exists_and_has_a_reader():
    headings = {}
    for path in FOLDERS.notebooks.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        sections = re.findall(r"^## (?:\d+\. )?(.+)$", text, re.M)
        headings[path.stem] = {anchor(section) for section in sections}
    for row in ORIGINAL:
        assert anchor(row.section) in headings[row.chapter], row.id
    assert list(ROWS) == list(READERS)
    assert len({row.claim for row in ORIGINAL}) == len(ORIGINAL)


def test_the_rows_cover_both_tables_of_the_original():
    """The figures of its two tables and its prose, which no row may lose."""
    said = " ".join(f"{row.claim} {row.original}" for row in ORIGINAL)
    figures = "8x|3.3x|24 to ~80/s|75 to 36 ms|~25x|~40/s|51 / 200|36 / 69|2 / 5|41 / 76|~580 ms"
    for figure in f"{figures}|27 thousand|3 million|IVF-PQ|IVF-SQ|FlatIP".split("|"):
        assert figure in said
    assert sum(row.original == "2 / 5 ms" for row in ORIGINAL) == 2


def test_comparisons_read_the_servers_in_kind():
    found = judged(loadtest())
    for name, verdict, shown in (
        ("throughput", "refuted", "30 to 60/s (2.0x)"),  # three quarters of 3.3 are needed
        ("embedding_speed", "replicated", "30.0 to 20.0 ms (1.5x)"),
        ("efficiency", "refuted", "1.5x, by CPU time"),
        ("transformer", "replicated", "80% of it"),
        ("stable_computing", "ours differs", "P95 2.0x that of a request alone"),
        ("saturation", "inconsistent", "60% busy, by its own service times"),
        ("queueing_p99", "inconsistent", "200 ms, simulated from its own service times"),
    ):
        assert (found[name].verdict, found[name].shown) == (verdict, shown)
    rates = {TORCH: 30.0, ONNX: 75.0}
    more = judged(loadtest(server=lambda name: Made(busy_per_s=Made(middle=rates[name]))))
    assert more["throughput"].verdict == "replicated"
    lost = judged(loadtest(server=lambda name: None, times_cpu=lambda before, after: None))
    for name in ("throughput", "efficiency"):
        assert lost[name].verdict == "not run"


def test_the_runtime_is_compared_in_single_precision():
    times = {"torch": 4.4, EXPORTED: 2.0, "int8": 1.0}
    variants = {name: Made(served_ms=Made(middle=ms)) for name, ms in times.items()}
    export = Made(is_study_shape=True, variants=variants, best_torch="torch")
    found = judged(Made(result=export), "03_export")["onnx"]
    assert (found.verdict, found.shown) == ("replicated", "2.2x as fast an encode")
    del variants[EXPORTED]
    assert judged(Made(result=export), "03_export")["onnx"].verdict == "not run"
    assert EXPORTED == variants_of_the_export.EXPORTED


def test_the_thread_is_compared_with_the_same_server_without_it():
    found = judged(loadtest())["thread_pool"]
    assert (found.verdict, found.value) == ("refuted", {"ours": 0.75})
    assert judged(loadtest(thread_gain=None))["thread_pool"].verdict == "not run"


def test_a_figure_without_a_second_side_gets_no_verdict():
    found = judged(loadtest())
    words = {"scale": "ours differs", "absolute": "cannot be compared"}
    for row in ORIGINAL:
        if row.kind in words and found[row.id].shown != "-":
            assert found[row.id].verdict == words[row.kind]
            assert found[row.id].target == ""
    assert found["latency"].shown == "1.0 / 4 ms"
    assert found["compute"].shown == "the same cores for both"
    assert found["p99"].verdict == "not run"  # too few requests
    assert found["embedding"].shown == "20.0 / 25.0 ms"


def test_without_values_or_records_no_comparison_is_judged():
    assert {claim.verdict for claim in judge_original({})} == {"not run"}
    other_shape = judged(loadtest(is_study_shape=False))
    of_any_size = {"saturation", "queueing_p99"}  # simulated from the original's own figures
    assert {i for i, c in other_shape.items() if c.value} == of_any_size


def test_the_other_chapters_are_read_at_the_studys_size():
    flat = Made(n_items=27_278, d=256, k=100, recommended=Made(saved_ms=0.8))
    found = judged(Made(result=flat), "04_ann")["flat_default"]
    assert (found.verdict, found.shown) == ("cannot be compared", "0.80 ms saved")
    flat.n_items = 1000
    assert judged(Made(result=flat), "04_ann")["flat_default"].verdict == "not run"

    def point(family, recall, p50):
        return Made(
            generator="independent",
            n=3_000_000,
            family=family,
            recall=recall,
            p50_ms=Made(middle=p50),
        )

    rows = [point("Flat", 1.0, 300.0), point("IVF, PQ", 0.4, 1.0), point("IVF, SQ8", 0.96, 2.0)]
    scaled = Made(
        rows=rows, recall_floor=0.95, bound=0.03, judged=[Made(generator="independent", worst=0.14)]
    )
    found = judged(Made(result=scaled), "05_scaleup")
    assert found["pq_independent"].verdict == "refuted"
    assert found["sq_independent"].shown == "recall@10 0.96 at 150x the speed"
    assert found["sq_independent"].verdict == "replicated"
    assert found["generator"].verdict == "refuted"


@pytest.mark.parametrize("row", ORIGINAL, ids=list(ROWS))
def test_what_its_document_does_not_say_is_marked(row):
    assert re.search(r"section [123]", row.source)
    if row.id in ("generator", "pq_independent", "sq_independent", "saturation"):
        assert "assumed" in row.source
