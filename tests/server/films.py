"""A bundle of a few films with telling titles, and servers to test."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nanorecsys.serving.bundle import build_bundle
from nanorecsys.system.processes import free_port
from tests.serving.small_bundle import N_ITEMS, small_parts

HOSTILE = '<img src=x onerror="document.title=\'run\'"> & "Sons" (1999)'
TITLES = [
    "Toy Story (1995)",
    "Toy Story 2 (1999)",
    "Amélie (Fabuleux destin d'Amélie Poulain, Le) (2001)",
    HOSTILE,
    *(
        f"Star Wars: Episode {i} - {'A Very Long Name That Goes On ' * (i % 3)}(19{76 + i})"
        for i in range(N_ITEMS - 4)
    ),
]
YEARS = [1995, 1999, 2001, None, *(1976 + i for i in range(N_ITEMS - 4))]
ITEM_IDS = [100 + 3 * i for i in range(N_ITEMS)]
USER_IDS = [11, 22, 33, 44, 55]  # 33 has no history
START_S = 60.0


def build(folder: Path) -> Path:
    """Build the bundle in a folder, return its path."""
    parts = small_parts(folder)
    items = parts.items.assign(
        item_id=ITEM_IDS,
        title=TITLES,
        year=pd.array(YEARS, dtype="Int16"),
        genres=[["Drama", "Sci-Fi"]] * N_ITEMS,
    )
    build_bundle(folder / "bundle", dataclasses.replace(parts, items=items))
    return folder / "bundle"


class RedisServer:
    """A redis-server on a free port, in memory only. It can be started more than once.

    Args:
        options: Further options, such as --maxmemory 1.
    """

    available = shutil.which("redis-server") is not None

    def __init__(self, *options: str) -> None:
        self.port, self.options = free_port(), options
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", *self.options]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(10)


@dataclass(frozen=True)
class Running:
    """A running server: its address, its log, and its process."""

    url: str
    log: Path
    pid: int
    poll: Callable[[], int | None]


@contextmanager
def serving(
    bundle: Path, folder: Path, *arguments: str, host: str = "127.0.0.1", **environment: str
) -> Iterator[Running]:
    """Run `python -m server` over a bundle on a free port until the block ends.

    It ends without a lame-duck time unless the arguments set one.

    Args:
        bundle: Folder of the bundle.
        folder: Folder for the log.
        arguments: Further arguments.
        host: Host of the address that the test uses.
        environment: Further variables of the environment.
    """
    port = free_port()
    log = folder / "server.log"
    command = [sys.executable, "-m", "server", "--bundle", str(bundle), "--port", str(port)]
    command += ["--workers", "1", "--lame-duck-s", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    try:
        url = f"http://{host}:{port}"
        end = time.monotonic() + START_S
        while not _ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield Running(url, log, process.pid, process.poll)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
