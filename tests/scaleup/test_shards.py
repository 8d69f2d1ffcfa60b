"""The same bytes however a catalogue is made, and files that survive a kill. About 3 s."""

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from nanorecsys.scaleup import (
    GENERATORS,
    DiskSpaceError,
    OtherRunError,
    generate,
    shards,
    write_catalogue,
)

N = 5000


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 500 rows: 9 of them in 5,000 items of which 600 are real."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 500)


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch):
    """The next write ends with an interrupt once `count` shards are in place."""
    whole = shards._save

    def save(record: Path, recipe: shards.Recipe, done: dict[int, int]) -> None:
        whole(record, recipe, done)
        if len(done) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards, "_save", save)


@pytest.mark.parametrize("name", GENERATORS)
def test_bytes_do_not_depend_on_threads_or_order(name: str, curved: np.ndarray) -> None:
    one = generate(curved, N, name, seed=1, threads=1)
    np.testing.assert_array_equal(one, generate(curved, N, name, seed=1, threads=4))
    plan = shards._Plan(curved, N, name, 1, True)
    backwards = np.empty_like(one)
    backwards[:600] = curved

    def put(rows: slice, made: np.ndarray) -> int:
        backwards[rows] = made
        return 0

    order = [shard for shard, _ in plan.run(reversed(range(9)), put, 1, False)]
    assert order[0] > order[-1]
    np.testing.assert_array_equal(one, backwards)
    assert not np.array_equal(one, generate(curved, N, name, seed=2))


def test_real_items_come_first(curved: np.ndarray) -> None:
    np.testing.assert_array_equal(generate(curved, N)[:600], curved)
    assert not np.array_equal(generate(curved, N, keep_real=False)[:600], curved)
    np.testing.assert_array_equal(generate(curved, 600), curved)


def test_shards_differ(curved: np.ndarray) -> None:
    made = generate(curved, N)[600:]
    assert len(np.unique(made, axis=0)) == len(made)


def test_file_holds_what_memory_holds(curved: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "catalogue.npy"
    written = write_catalogue(path, curved, N, seed=3, progress=False)
    np.testing.assert_array_equal(written, generate(curved, N, seed=3))
    assert not written.flags.writeable
    assert sorted(p.name for p in path.parent.iterdir()) == ["catalogue.npy", "catalogue.npy.json"]


@pytest.mark.parametrize("count", [0, 1, 5, 9])
def test_resume_after_a_kill(
    count: int, curved: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.npy"
    with monkeypatch.context() as patch:
        killed_after(count, patch)
        with pytest.raises(KeyboardInterrupt):
            write_catalogue(path, curved, N, threads=1, progress=False)
    assert not path.exists()
    made = []
    make = shards._Plan._make
    monkeypatch.setattr(shards._Plan, "_make", lambda *a: made.append(a[2]) or make(*a))
    written = write_catalogue(path, curved, N, threads=2, progress=False)
    assert len(made) == 9 - count
    np.testing.assert_array_equal(written, generate(curved, N))


def test_resume_makes_a_damaged_shard_again(
    curved: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.npy"
    with monkeypatch.context() as patch:
        killed_after(5, patch)
        with pytest.raises(KeyboardInterrupt):
            write_catalogue(path, curved, N, threads=1, progress=False)
    with open(tmp_path / "catalogue.npy.part", "r+b") as file:
        file.seek(128 + 64 * 700)  # in the first shard: what a power cut may leave
        file.write(bytes(64))
    np.testing.assert_array_equal(
        write_catalogue(path, curved, N, progress=False), generate(curved, N)
    )


def test_resume_after_sigkill(curved: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "real.npy", curved)
    path = tmp_path / "catalogue.npy"
    code = f"""
import os, signal, numpy as np
from nanorecsys.scaleup import shards
shards.SHARD_ROWS = 500
whole = shards._save
def save(record, recipe, done):
    whole(record, recipe, done)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
shards._save = save
shards.write_catalogue({str(path)!r}, np.load({str(tmp_path / "real.npy")!r}), {N}, progress=False)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    np.testing.assert_array_equal(
        write_catalogue(path, curved, N, progress=False), generate(curved, N)
    )


def test_finished_catalogue_is_opened(
    curved: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.npy"
    write_catalogue(path, curved, N, progress=False)
    monkeypatch.setattr(shards, "_fill", None)
    assert write_catalogue(path, curved, N, progress=False).shape == (N, 16)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"n": 6000}, "n 5000 instead of 6000"),
        ({"generator": "tangent"}, "generator 'local' instead of 'tangent'"),
        ({"keep_real": False}, "keep_real True instead of False"),
        ({"vectors": None}, "vectors_sha256"),
    ],
)
def test_file_of_another_run_is_refused(
    finished: bool,
    change: dict,
    says: str,
    curved: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "catalogue.npy"
    if finished:
        write_catalogue(path, curved, N, progress=False)
    else:
        with monkeypatch.context() as patch:
            killed_after(3, patch)
            with pytest.raises(KeyboardInterrupt):
                write_catalogue(path, curved, N, progress=False)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = {"vectors": curved, "n": N, "progress": False} | change
    if other["vectors"] is None:
        other["vectors"] = curved[::-1].copy()
    with pytest.raises(OtherRunError, match=says):
        write_catalogue(path, **other)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "says"), [("catalogue.npy", "no catalogue.npy.json"), ("catalogue.npy.json", "record")]
)
def test_file_of_something_else_is_refused(
    name: str, says: str, curved: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OtherRunError, match=says):
        write_catalogue(tmp_path / "catalogue.npy", curved, N, progress=False)
    assert (tmp_path / name).read_text() == "mine"


def test_small_disk_is_refused_before_anything_is_written(
    curved: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shards.shutil, "disk_usage", lambda folder: shards.shutil._ntuple_diskusage(0, 0, 2**30)
    )
    with pytest.raises(DiskSpaceError, match=r"needs 1\.25 GiB more, .* has 1\.00 GiB free"):
        write_catalogue(tmp_path / "new" / "catalogue.npy", curved, 20_000_000, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", GENERATORS)
def test_memory_does_not_grow_with_the_catalogue(
    name: str, curved: np.ndarray, tmp_path: Path
) -> None:
    peaks = []
    for n in (5_000, 50_000):
        tracemalloc.start()
        write_catalogue(tmp_path / f"{n}.npy", curved, n, name, threads=2, progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 500_000  # the larger catalogue is 3.2 MB
    assert os.path.getsize(tmp_path / "50000.npy") == 128 + 4 * 16 * 50_000


def test_progress_is_drawn_when_asked_for(
    curved: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    generate(curved, N, progress=True)
    assert "9/9" in capsys.readouterr().err
    generate(curved, N)
    assert not capsys.readouterr().err
