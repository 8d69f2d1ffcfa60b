"""Settings come from the command line, else the environment, else their defaults. 2 s."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import click
import pytest

from nanorecsys.system.limits import cores
from server.settings import Settings, make_command


def read(*arguments: str) -> Settings:
    settings: list[Settings] = []
    make_command(settings.append).main(list(arguments), standalone_mode=False)
    return settings[0]


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    (tmp_path / "manifest.json").write_text("{}")
    return str(tmp_path)


def test_the_command_line_wins_over_the_environment_and_that_over_defaults(bundle, monkeypatch):
    for name, value in (
        ("BUNDLE", bundle),
        ("MAX_QUEUE", "7"),
        ("PORT", "9000"),
        ("COMPILE", "on"),
    ):
        monkeypatch.setenv(f"NANORECSYS_{name}", value)
    settings = read("--port", "9001", "--pad")
    assert (settings.bundle, settings.max_queue, settings.port) == (Path(bundle), 7, 9001)
    assert (settings.compile, settings.pad, settings.workers) == (True, True, Settings.workers)
    assert not read("--no-compile").compile
    assert read().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x"], "'x' is not a valid integer"),
        (["--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["--workers", "0"], "0 is not in the range"),
        (["--deadline-ms", "nan"], "--deadline-ms: NaN is not a number"),
        (["--drain-s", "inf"], "inf is not in the range"),
        (["--engine", "tensorflow"], "'tensorflow' is not one of 'onnx', 'torch', 'torch-padded'"),
        (["--engine", "torch"], "reads PyTorch models"),
        (["--engine", "torch-padded"], "--engine torch-padded reads PyTorch models"),
        (["--cache", "memcached://x"], "expected memory, none or redis://"),
        (["--cache", "redis://"], "expected memory, none or redis://"),
        (["--cache", "redis://:s3cret@[::1:1/0"], "expected memory, none or redis://"),
        (["--cache", "redis://user:s3cret"], "expected memory, none or redis://"),
        (["--cache", "redis://:s3cret@host:70000/0"], "expected memory, none or redis://"),
        (["--cache", "redis://:s3cret@host/0?db=x"], "expected memory, none or redis://"),
        (["--cache", "redis://:s3cret@host/0?unknown=1"], "expected memory, none or redis://"),
        (["--events", "redis://"], "--events: expected a file or redis://"),
        (["--events", "redis://:s3cret@host:70000/0"], "--events: expected a file or redis://"),
        (["--events", "mongodb://:s3cret@host/0"], "--events: expected a file or redis://"),
        (["--retrieval", "faiss"], "expected embedded or http"),
        (["--retrieval", "http://"], "expected embedded or http"),
        (["--retrieval", "http://:s3cret@"], "expected embedded or http"),
        (["--retrieval", "ftp://user:s3cret@host:19530"], "expected embedded or http"),
        (["--retrieval-timeout-ms", "0"], "0 is not in the range"),
        (["--retrieval-pool", "0"], "0 is not in the range"),
        (["--bundle", "/nowhere"], "/nowhere is no serving bundle"),
        (["--prot", "1"], "No such option '--prot'"),
    ],
)
def test_a_wrong_value_is_named(bundle, arguments, message):
    with pytest.raises(click.UsageError) as raised:
        read("--bundle", bundle, *arguments)
    assert message in raised.value.format_message()
    assert "s3cret" not in raised.value.format_message()


def test_a_wrong_environment_variable_is_named(bundle, monkeypatch):
    monkeypatch.setenv("NANORECSYS_PAD", "perhaps")
    with pytest.raises(click.UsageError, match="perhaps"):
        read("--bundle", bundle)


def test_events_lie_beside_the_bundle(bundle):
    assert Path(read("--bundle", bundle).events_place).parent == Path(bundle).parent
    for elsewhere in ("/a/b.sqlite", "redis://127.0.0.1:1/0", "rediss://:a@host"):
        assert read("--bundle", bundle, "--events", elsewhere).events_place == elsewhere


@pytest.mark.parametrize(
    "address", ["http://10.0.0.7:19530", "https://user:s3cret@milvus.example/films"]
)
def test_an_address_of_milvus_is_taken(bundle, address):
    assert read("--bundle", bundle, "--retrieval", address).retrieval == address


def server(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments], capture_output=True, text=True
    )


def test_there_is_a_worker_with_one_thread_for_each_core_of_the_process():
    code = (
        "import os\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from server.settings import Settings\n"
        "print(Settings.workers, Settings.threads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"
    assert Settings.workers == cores()


def test_help_explains_every_setting():
    shown = server("--help").stdout
    for setting in dataclasses.fields(Settings):
        assert f"  --{setting.name.replace('_', '-')} " in shown
    for text in ("Computing:", "Examples:", "NANORECSYS_MAX_QUEUE=32", "SIGTERM", "SIGHUP"):
        assert text in shown


def test_a_mistake_ends_it_with_a_sentence_and_no_traceback(tmp_path):
    done = server("--bundle", str(tmp_path))
    assert done.returncode == 2
    assert "is no serving bundle" in done.stderr
    assert "nanorecsys bundle" in done.stderr
    assert "Traceback" not in done.stderr
