"""`nanorecsys load`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from nanorecsys import cli
from nanorecsys.loadtest import scenarios
from nanorecsys.loadtest.command import read_ids
from nanorecsys.loadtest.errors import PopulationError
from nanorecsys.loadtest.process import free_port
from tests.loadtest.small_server import SmallServer, at_once, fine
from tests.loadtest.test_scenarios import Outcomes, under

pytestmark = pytest.mark.timed

SHORT = [
    "--rate",
    "200",
    "--seconds",
    "0.5",
    "--warm-up",
    "0.1",
    "--connections",
    "4",
    "--hot-users",
    "20",
]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    path.write_text("".join(f"{i}\n" for i in range(100, 1100)))
    return path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command; returns exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nanorecsys", "load", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "150")
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_a_run_tells_all_and_keeps_its_rows(load, users: Path, tmp_path: Path) -> None:
    seen: set[int] = set()

    async def caching(request, body: dict, number: int):
        hit = body["user_id"] in seen
        seen.add(body["user_id"])
        return fine("cache" if hit else "model", **{"X-Worker": "4711"})

    out = tmp_path / "out"
    with SmallServer(caching) as server:
        code, printed, _ = load(
            server.url, "--users", users, "--pid", os.getpid(), "--out", out, *SHORT
        )
    assert code == 0
    assert "100% of the hot users hit after" in printed
    for row in (
        "offered",
        "goodput",
        "skipped",
        "retries",
        "P99.9",
        "generator's lag",
        "server's CPU",
        "4711",
        "verdict",
    ):
        assert row in printed
    told = msgspec.json.decode((out / "summary.json").read_bytes())
    assert 0.4 < told["summary"]["hit_share"] < 0.95
    assert told["summary"]["cold_hit_share"] == 0
    assert told["server_cpu_ms_per_request"] > 0
    rows = pl.read_parquet(next(out.glob("*-open-200")) / "rows.parquet")
    assert told["summary"]["offered"] == (~rows["warm_up"]).sum()
    assert {body["user_id"] for body in server.requests} <= set(range(100, 1100))


def test_another_server_s_path_and_body(load, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("anna\nbert\n\n")
    body = '{"who": {user}}'
    arguments = [
        "--users",
        tmp_path / "names.txt",
        "--hot-users",
        2,
        "--cold-share",
        0,
        "--no-warm-cache",
        "--body",
        body,
    ]
    arguments += ["--path"]
    with SmallServer(at_once) as server:
        code, _, _ = load(server.url, *arguments, "/recommend", "--out", tmp_path / "a", *SHORT[:8])
        assert code == 0
        assert {body["who"] for body in server.requests} == {"anna", "bert"}
        _, printed, _ = load(
            server.url,
            *arguments,
            "/nowhere",
            "--out",
            tmp_path / "b",
            "--mode",
            "single",
            *SHORT[:8],
        )
    assert "404:" in printed
    assert "INVALID" in printed


def test_a_search_prints_its_tries(
    load, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "run_plan", Outcomes(under(250)))
    arguments = [
        "--users",
        users,
        "--mode",
        "search",
        "--precision",
        0.5,
        "--confirm",
        0.5,
        "--hot-users",
        500,
    ]
    with SmallServer(at_once) as server:
        code, printed, _ = load(
            server.url, *arguments, "--seconds", 0.2, "--warm-up", 0, "--out", tmp_path
        )
    assert code == 0
    assert "VALID: 200 requests/s at P99 <= 100 ms; at 283/s: it was so" in printed
    found = msgspec.json.decode((tmp_path / "search.json").read_bytes())
    assert [(t["step"], t["verdict"]) for t in found["tries"]] == [
        *(("bracket", "VALID"), ("bracket", "VALID"), ("bracket", "INVALID")),
        *(("bisect", "INVALID"), ("confirm", "VALID")),
    ]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_prints_what_there_is(users: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with SmallServer(at_once) as server:
        arguments = [
            server.url,
            "--users",
            users,
            "--no-warm-cache",
            "--out",
            out,
            *SHORT,
            "--seconds",
            "60",
        ]
        arguments += ["--cold-share", "0"]
        command = [
            sys.executable,
            "-c",
            "from nanorecsys.cli import main; main()",
            "load",
            *map(str, arguments),
        ]
        with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
            deadline = time.monotonic() + 30
            while len(server.requests) < 50 and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted: the table has what there was" in printed
    assert "Traceback" not in errors
    assert 50 <= pl.read_parquet(next(out.glob("*/rows.parquet"))).height <= 2000
    assert msgspec.json.decode((out / "summary.json").read_bytes())["generator"]["interrupted"]


def test_mistakes_are_named_and_leave_nothing_behind(load, users: Path, tmp_path: Path) -> None:
    url, out = f"http://127.0.0.1:{free_port()}", tmp_path / "out"
    (tmp_path / "empty.txt").write_text("\n")
    some = ("--users", users)
    for arguments, wanted, message in (
        ((url, *some), 1, "nothing answers at"),
        (("http://example.org", *some), 1, "example.org is not this machine"),
        ((url,), 1, "either a file of users or a bundle"),
        ((url, "--users", tmp_path / "empty.txt"), 1, "no user in it"),
        ((url, "--users", tmp_path / "absent.txt"), 1, "cannot read user ids"),
        ((url, "--bundle", tmp_path), 1, "cannot read user ids"),
        ((url, *some, "--hot-users", 5000), 1, "expected 1 to 1000 hot users"),
        ((url, *some, "--body", "{}"), 1, "has no {user}"),
        ((url, *some, "--rate", 0), 2, "--rate"),
        ((url, *some, "--seconds", -1), 2, "--seconds"),
        ((url, *some, "--cold-share", 2), 2, "--cold-share"),
    ):
        code, _, errors = load(*arguments, "--out", out)
        assert (code, message in errors) == (wanted, True), errors
        assert not out.exists()


def test_a_body_without_users_needs_none(load, tmp_path: Path) -> None:
    with SmallServer(at_once) as server:
        code, _, _ = load(
            server.url, "--body", '{"k": 3}', "--no-warm-cache", "--out", tmp_path, *SHORT
        )
    assert code == 0
    assert server.requests[-1] == {"k": 3}


def test_ids_are_numbers_where_all_are(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text("7\n-3\n")
    assert read_ids(path, None).tolist() == [7, -3]
    path.write_text("7\nb\n")
    assert read_ids(path, None).tolist() == ["7", "b"]
    np.save(tmp_path / "user_ids.npy", np.array([4, 5]))
    assert read_ids(None, tmp_path).tolist() == [4, 5]
    with pytest.raises(PopulationError, match="either"):
        read_ids(path, tmp_path)
