"""A bundle of a few films with telling titles, and a server over it."""

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from nanorecsys.data import Histories
from nanorecsys.loadtest.server_process import free_port
from nanorecsys.serving.bundle import Parts, build_bundle
from tests.serving.test_bundle import N_ITEMS, WINDOW, item_vectors, ranker, save, tower

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
    """Build the bundle in a folder; its path."""
    vectors = item_vectors()
    events = np.array([3, 1, 4, 1, 5, 9, 2, 6, 19, 0], np.int32)
    parts = Parts(
        tower=save(tower(vectors), folder / "int8.onnx"),
        tower_fp32=save(tower(vectors), folder / "fp32.onnx"),
        ranker=save(ranker(vectors), folder / "ranker.onnx"),
        item_vectors=vectors,
        items=pl.DataFrame(
            {
                "item": pl.Series(range(N_ITEMS), dtype=pl.Int32),
                "item_id": ITEM_IDS,
                "title": TITLES,
                "year": pl.Series(YEARS, dtype=pl.Int16),
                "genres": [["Drama", "Sci-Fi"]] * N_ITEMS,
            }
        ),
        histories=Histories(np.array([0, 4, 7, 7, 8, 10]), events),
        user_ids=np.array(USER_IDS),
        popularity=np.bincount(events, minlength=N_ITEMS),
        dataset="films",
        commit="0123456789ab",
        window=WINDOW,
        events_read=WINDOW,
        tower_variant="int8_dynamic",
        tower_is_int8=True,
    )
    build_bundle(folder / "bundle", parts)
    return folder / "bundle"


@dataclass(frozen=True)
class Running:
    """A server at work: where it answers, the file of what it says, and its process."""

    url: str
    log: Path
    pid: int
    poll: Callable[[], int | None]


@contextmanager
def serving(bundle: Path, folder: Path, *arguments: str) -> Iterator[Running]:
    """`python -m server` over a bundle, on a free port, until the block ends."""
    port = free_port()
    log = folder / "server.log"
    command = [
        sys.executable,
        "-m",
        "server",
        "--bundle",
        str(bundle),
        "--port",
        str(port),
        *arguments,
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
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
