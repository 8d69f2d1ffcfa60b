"""Fixtures of the data chapter's tests."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.faulty_server import Server
from tests.data.small_movielens import MOVIES, RATINGS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small data set in a folder."""
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "movies.csv").write_text(MOVIES, encoding="utf-8")
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that is up."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
