"""Settings come from the command line, else the environment, else their defaults, and are checked. 1 s."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from server.errors import SettingsError
from server.settings import Settings, parse


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def test_the_command_line_wins_over_the_environment_and_that_over_defaults(bundle):
    environment = {
        "NANORECSYS_BUNDLE": str(bundle),
        "NANORECSYS_MAX_QUEUE": "7",
        "NANORECSYS_PORT": "9000",
        "NANORECSYS_COALESCE": "off",
        "NANORECSYS_ELSE": "no setting",
        "PORT": "1",
    }
    settings = parse(["--port", "9001", "--pad"], environment)
    assert (settings.bundle, settings.max_queue, settings.port) == (bundle, 7, 9001)
    assert (settings.coalesce, settings.pad, settings.workers) == (False, True, Settings.workers)
    assert parse(["--coalesce"], environment).coalesce
    assert parse([], environment).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "x"], "--port: expected a whole number, got 'x'"),
        (["--port", "70000"], "--port: expected 0 to 65,535, got 70000"),
        (["--workers", "0"], "--workers: expected 1 to 256, got 0"),
        (["--deadline-ms", "nan"], "--deadline-ms: expected at least 1.0, got nan"),
        (["--engine", "tensorflow"], "--engine: expected onnx or torch, got 'tensorflow'"),
        (["--engine", "torch"], "reads PyTorch models"),
        (["--cache", "memcached://x"], "--cache: expected memory, none or redis://"),
        (["--cache", "redis://"], "--cache: expected memory, none or redis://"),
        (["--bundle", "/nowhere"], "/nowhere is no serving bundle"),
    ],
)
def test_a_value_that_cannot_be_is_named(bundle, arguments, said):
    with pytest.raises(SettingsError) as raised:
        parse(["--bundle", str(bundle), *arguments], {})
    assert said in str(raised.value)


def test_a_bad_environment_variable_is_named(bundle):
    with pytest.raises(
        SettingsError, match="NANORECSYS_COALESCE: expected one of 1, true, yes, on"
    ):
        parse(["--bundle", str(bundle)], {"NANORECSYS_COALESCE": "perhaps"})


def test_events_lie_beside_the_bundle_and_outlive_it(bundle):
    settings = parse(["--bundle", str(bundle)], {})
    assert settings.events_path.parent == bundle.parent
    assert parse(["--bundle", str(bundle), "--events", "/a/b.sqlite"], {}).events_path == Path(
        "/a/b.sqlite"
    )


def server(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments], capture_output=True, text=True
    )


def test_help_explains_every_setting():
    shown = " ".join(server("--help").stdout.split())
    for setting in fields(Settings):
        assert f"--{setting.name.replace('_', '-')}" in shown
        assert setting.metadata["help"] in shown
    for word in ("NANORECSYS_MAX_QUEUE=32", "SIGTERM", "SIGHUP"):
        assert word in shown


def test_a_mistake_ends_it_with_a_sentence_and_no_traceback(tmp_path):
    done = server("--bundle", str(tmp_path))
    assert done.returncode == 2
    assert "is no serving bundle" in done.stderr
    assert "nanorecsys bundle" in done.stderr
    assert "Traceback" not in done.stderr
