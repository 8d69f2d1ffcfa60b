"""Downloads from a server on 127.0.0.1, failures above all. 1 s."""

import gc
import hashlib
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nanorecsys.data import (
    DATASETS,
    DEFAULT_DATASET,
    SECOND_DATASET,
    DataError,
    load_dataset,
    registry,
)
from tests.data.faulty_server import Server
from tests.data.small_movielens import MOVIES, RATINGS, zipped

# pooch leaves the connection of a failed download to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SMALL = zipped({"ml-1m/ratings.csv": RATINGS, "ml-1m/movies.csv": MOVIES})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Iterator[Path]:
    """An empty cache, a small zip as ml-1m on the server, and no wait between attempts."""
    cache = tmp_path / "cache"
    server.content = SMALL
    monkeypatch.setenv("NANORECSYS_DOWNLOADS", str(cache))
    monkeypatch.setenv("NANORECSYS_DATA_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    checksum = f"md5:{hashlib.md5(SMALL).hexdigest()}"
    monkeypatch.setitem(DATASETS, "ml-1m", replace(DATASETS["ml-1m"], checksum=checksum))
    yield cache
    gc.collect()


def test_is_downloaded_once(cache: Path, server: Server) -> None:
    for _ in range(2):
        assert len(load_dataset("ml-1m").interactions) == 5
    assert server.requests == ["/movielens/ml-1m.zip"]
    assert [path.name for path in cache.iterdir()] == ["ml-1m.zip"]


def test_shows_progress_on_a_terminal(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    registry.fetch("ml-1m")
    assert "100%" in capsys.readouterr().err


def test_a_dropped_connection_is_tried_again_from_the_start(cache: Path, server: Server) -> None:
    server.plan = ["drop", "drop"]
    assert registry.fetch("ml-1m").read_bytes() == SMALL
    assert len(server.requests) == 3
    assert [path.name for path in cache.iterdir()] == ["ml-1m.zip"]


def test_a_damaged_cached_file_is_fetched_again(cache: Path, server: Server) -> None:
    cache.mkdir()
    (cache / "ml-1m.zip").write_bytes(SMALL[:100])
    assert registry.fetch("ml-1m").read_bytes() == SMALL
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("plan", "content", "said"),
    [
        (["drop"] * 3, SMALL, "no complete download in 3 attempts"),
        (["missing"] * 3, SMALL, "the server answered 404 Client Error: Not Found"),
        ([], SMALL + b"x", "the checksum of the download is not md5:"),
        ([], b"", "the checksum of the download is not md5:"),
    ],
)
def test_a_failed_download_is_named_and_leaves_nothing(
    cache: Path, server: Server, plan: list[str], content: bytes, said: str
) -> None:
    server.plan, server.content = plan, content
    with pytest.raises(DataError, match=said) as error:
        load_dataset("ml-1m")
    assert f"{server.url}/ml-1m.zip" in error.value.message
    assert str(cache) in error.value.remedy
    assert len(server.requests) == 3
    assert list(cache.iterdir()) == []


def test_a_failed_download_keeps_the_file_that_is_there(cache: Path, server: Server) -> None:
    cache.mkdir()
    (cache / "ml-1m.zip").write_bytes(SMALL[:100])
    server.plan = ["drop"] * 3
    with pytest.raises(DataError, match="no complete download"):
        registry.fetch("ml-1m")
    assert (cache / "ml-1m.zip").read_bytes() == SMALL[:100]


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("NANORECSYS_DATA_URL", f"http://127.0.0.1:{port}/")
    with pytest.raises(DataError, match=r"no complete download in 3 attempts \(.*refused") as error:
        load_dataset("ml-1m")
    assert "Check the network" in error.value.remedy
    assert list(cache.iterdir()) == []


def test_no_such_host(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANORECSYS_DATA_URL", "http://nowhere.invalid/")
    with pytest.raises(DataError, match=r"http://nowhere\.invalid/ml-1m\.zip: "):
        load_dataset("ml-1m")


def test_a_cache_that_cannot_be_made(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANORECSYS_DOWNLOADS", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot keep ml-1m\.zip there"):
        registry.fetch("ml-1m")


@pytest.mark.parametrize("name", [DEFAULT_DATASET, SECOND_DATASET])
def test_a_bundled_zip_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    with pytest.raises(DataError, match="is not there") as error:
        load_dataset(name)
    assert "git checkout" in error.value.remedy
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{name}.zip").write_bytes(SMALL)
    with pytest.raises(DataError, match="checksum sha256:"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("name", "users", "items", "without_year"),
    [(DEFAULT_DATASET, 671, 9_066, 5), (SECOND_DATASET, 2_148, 13_049, 42)],
)
def test_a_bundled_data_set_has_the_published_counts(
    name: str, users: int, items: int, without_year: int
) -> None:
    data = load_dataset(name)
    assert len(data.interactions) == DATASETS[name].ratings
    assert (data.interactions.n_users, data.interactions.n_items) == (users, items)
    assert data.items["year"].isna().sum() == without_year
    pair = data.interactions.user.astype(int) * items + data.interactions.item
    assert len(set(pair)) == len(pair)  # no user rated a film twice
