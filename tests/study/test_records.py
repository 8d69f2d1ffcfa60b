"""Records, gate and fingerprints: what may be kept and shown."""

import json
import os

import msgspec
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nanorecsys.study import provenance, session
from nanorecsys.study.fingerprint import source_files
from nanorecsys.study.gate import GateError, check_executed
from nanorecsys.study.layout import layout
from nanorecsys.study.records import FORMAT, Record, RecordError, read_record, write_record
from nanorecsys.study.summary import flatten
from nanorecsys.study.tables import styled
from nanorecsys.system.errors import NanorecsysError


class Result(msgspec.Struct, frozen=True, kw_only=True):
    hit_rate: float
    n: int


def record(**changes):
    values = {
        "format": FORMAT,
        "chapter": "01_alpha",
        "parameters": {"n": 1},
        "provenance": provenance.Provenance(
            commit="none",
            definitions_sha256="0",
            started_utc="2026-01-01T00:00:00+00:00",
            seconds=1.0,
            peak_rss_mib=10.0,
            machine=provenance.machine(),
            threads=provenance.threads(),
            versions=provenance.versions(),
            seeds={"seed": 0},
        ),
        "files": {},
        "result": Result(hit_rate=0.25, n=3),
    }
    return Record(**values | changes)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    write_record(tmp_path, record())
    assert read_record(tmp_path, Result) == record()
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda r: r | {"result": {"hit_rate": "high", "n": 3}}, "not a valid record"),
        (lambda r: r | {"result": {"hit_rate": 0.5}}, "not a valid record"),
        (lambda r: r | {"format": FORMAT + 1}, f"Invalid enum value {FORMAT + 1}"),
        (lambda r: {k: v for k, v in r.items() if k != "provenance"}, "not a valid record"),
        (lambda r: r | {"files": {"rows": "rows.parquet"}}, "do not exist: rows.parquet"),
    ],
)
def test_a_malformed_record_is_refused(tmp_path, damage, told):
    path = write_record(tmp_path, record())
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(RecordError, match=told):
        read_record(tmp_path, Result)


def test_a_truncated_or_missing_record_is_refused(tmp_path):
    folder = tmp_path / "quick" / "01_alpha"
    with pytest.raises(RecordError, match="found none") as missing:
        read_record(folder, Result)
    assert missing.value.remedy == "nanorecsys run quick --only 01_alpha"
    path = write_record(folder, record())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match="not a valid record") as truncated:
        read_record(folder, Result)
    assert truncated.value.remedy == "nanorecsys run quick --only 01_alpha --force"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_refused(tmp_path, value):
    write_record(tmp_path, record(result=Result(hit_rate=value, n=3)))
    with pytest.raises(RecordError):
        read_record(tmp_path, Result)


def executed(**changes):
    cell = new_code_cell(
        "1 + 1", execution_count=1, metadata={"papermill": {"status": "completed"}}
    )
    cell.update(changes)
    return new_notebook(
        cells=[new_markdown_cell("# A"), cell], metadata={"papermill": {"exception": None}}
    )


def test_the_gate_takes_a_whole_notebook_only():
    check_executed(executed(), "x")
    error = new_output(
        "error", ename="ValueError", evalue="no", traceback=["\x1b[31mValueError\x1b[0m: no"]
    )
    with pytest.raises(GateError, match="cell 2 failed with ValueError: no"):
        check_executed(executed(outputs=[error]), "x")
    with pytest.raises(GateError, match="cell 2 was not executed"):
        check_executed(executed(execution_count=None), "x")
    with pytest.raises(GateError, match="did not complete"):
        check_executed(executed(metadata={"papermill": {"status": "running"}}), "x")
    broken = executed()
    broken.metadata.papermill.exception = True
    with pytest.raises(GateError, match="exception"):
        check_executed(broken, "x")


def test_sources_are_those_that_the_code_imports(tmp_path):
    for name, content in {
        "pkg/__init__.py": "",
        "pkg/a.py": "from pkg.sub import b\n",
        "pkg/sub/__init__.py": "from pkg.sub.c import thing\n",
        "pkg/sub/b.py": "def f():\n    import pkg.late\n",
        "pkg/sub/c.py": "thing = 1\n",
        "pkg/late.py": "from pkg import deep\n",
        "pkg/deep.py": "import numpy\n",
        "pkg/unused.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = {
        p.relative_to(tmp_path).as_posix()
        for p in source_files("%matplotlib inline\nimport pkg.a", tmp_path)
    }
    assert found == {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.py")} - {
        "pkg/unused.py"
    }


def test_results_do_not_depend_on_the_runner_or_the_book():
    folders = layout()
    notebook = nbformat.read(folders.notebooks / "01_data.ipynb", as_version=4)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    names = {folders.relative(p) for p in source_files(code, folders.root)}
    assert "nanorecsys/study/session.py" in names
    assert "nanorecsys/study/nanorecsys.mplstyle" in names  # a data file that a module names
    # each chapter counts its own definitions, see `Fingerprint`
    assert not {f"nanorecsys/study/{n}.yaml" for n in ("original", "protocol")} & names
    apart = ("runner", "book", "doctor", "claims", "compare", "pages")
    assert not names & {f"nanorecsys/study/{n}.py" for n in apart}


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("inf")])
def test_glue_refuses_what_would_render_as_nothing(value):
    with pytest.raises(NanorecsysError, match="finite"):
        session.glue("x", value)


def test_glue_turns_numpy_scalars_into_numbers(monkeypatch):
    kept = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: kept.update({name: value}))
    session.glue("x", np.int64(3))
    session.glue("y", np.float32(0.5))
    assert kept == {"x": 3, "y": 0.5}
    assert {type(v) for v in kept.values()} == {int, float}


def test_a_styled_frame_formats_and_aligns_its_columns():
    frame = pd.DataFrame(
        {"<i>": ["<b>", None], "n": [1234567, 2], "share": [0.5, None], "x": [0.123456, 2.0]}
    )
    shown = styled(frame, {"share": "{:.1%}"}).to_html()
    for cell in (">1,234,567<", ">0.1235<", ">50.0%<", ">2<", ">&lt;b&gt;<", ">&lt;i&gt;<"):
        assert cell in shown
    assert shown.count(">-<") == 2
    assert shown.count("text-align: right") == 3
    assert dict(flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x"})) == {"a.b": 1, "d": "x"}


@pytest.mark.parametrize(
    ("text", "shown", "anywhere"),
    [
        ("IVF128,PQ128x4fs,Refine(SQfp16)", "IVF128,<wbr>PQ128x4fs,<wbr>Refine(SQfp16)", 0),
        ("a sentence, of many short words", "a sentence, of many short words", 0),
        ("a_word_that_is_longer_than_a_column", "a_word_that_is_longer_than_a_column", 1),
    ],
)
def test_a_long_word_breaks_behind_its_commas_or_else_anywhere(text, shown, anywhere):
    table = styled(pd.DataFrame({"index": [text], "x": [0.12345678901234567]})).to_html()
    assert f">{shown}<" in table
    assert table.count("overflow-wrap: anywhere") == anywhere
    assert table.count("min-width: 7rem") == 1


def test_the_machine_has_the_flags_that_matter(monkeypatch):
    found = ("Some CPU", frozenset({"fpu", "avx512_vnni", "avx2"}))
    monkeypatch.setattr(provenance, "processor", lambda: found)
    machine = provenance.machine()
    assert (machine.cpu_model, machine.cpu_flags) == ("Some CPU", ["avx2", "avx512_vnni"])
    assert machine.processor == "Some CPU with avx512_vnni"


def test_a_chapter_that_was_killed_counts_what_it_goes_on_from(tmp_path):
    assert session.begin(tmp_path) == 0
    later = (tmp_path / session.ATTEMPT).stat().st_mtime + 100
    (tmp_path / "checkpoint").touch()
    os.utime(tmp_path / "checkpoint", (later, later))
    spent = session.begin(tmp_path)
    assert spent == pytest.approx(100, abs=1)
    assert session.begin(tmp_path) == pytest.approx(2 * spent, abs=1)  # killed a second time
