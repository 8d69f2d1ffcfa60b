"""The book over the smoke run, built once and served on this machine."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
from rich.console import Console

from nanorecsys.study.book import build
from nanorecsys.study.layout import layout

FOLDERS = layout()


@pytest.fixture(scope="session")
def pages() -> Path:
    """Folder of the built pages; a warning of Sphinx fails the build."""
    return build(FOLDERS, "smoke", Console(quiet=True))


@pytest.fixture(scope="session")
def address(pages: Path):
    """Where the pages are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=pages)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
