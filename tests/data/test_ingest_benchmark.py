"""The generated file has the counts asked for, and the ingest benchmark runs on it. 3 s."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.generated_ratings import USERS_PER_BLOCK, write_ratings_csv
from nanorecsys.data import DataError, describe, load_dataset

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("n_ratings", "n_users", "n_items"),
    [(200_000, 5_000, 2_000), (60_000, 400, 1_500), (10, 5, 6), (1_000, 10, 300), (7, 7, 7)],
)
def test_counts_are_exact(tmp_path: Path, n_ratings: int, n_users: int, n_items: int) -> None:
    path = tmp_path / "ratings.csv"
    write_ratings_csv(path, n_ratings, n_users, n_items)
    frame = pd.read_csv(path)
    assert frame.columns.tolist() == ["userId", "movieId", "rating", "timestamp"]
    assert (len(frame), frame["userId"].nunique(), frame["movieId"].nunique()) == (
        n_ratings,
        n_users,
        n_items,
    )
    pairs = frame[["userId", "movieId"]]
    assert not pairs.duplicated().any()
    assert pairs.equals(pairs.sort_values(["userId", "movieId"]))
    assert frame["rating"].between(0.5, 5).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_several_blocks_has_the_shape_of_movielens(tmp_path: Path) -> None:
    write_ratings_csv(tmp_path / "ratings.csv", 700_000, USERS_PER_BLOCK + 700, 10_000)
    events = load_dataset(tmp_path / "ratings.csv").interactions
    lengths = np.bincount(events.user)
    assert lengths.min() == 20
    assert lengths.mean() > 1.5 * np.median(lengths)
    assert 0.7 < describe.gini(np.bincount(events.item)) < 0.95
    assert 0.2 < describe.tied_event_share(events) < 0.5
    assert 0.1 < describe.last_two_tied_share(events) < 0.4
    inversions = np.diff(events.item[events.user == 0]) < 0
    assert 0.2 < inversions.mean() < 0.8  # in time, items are in no order


def test_the_seed_determines_the_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_ratings_csv(tmp_path / name, 2_000, 50, 300, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 11), (100, 10, 20), (0, 0, 0)])
def test_impossible_counts_are_refused(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="no such table"):
        write_ratings_csv(tmp_path / "ratings.csv", *counts)
    assert list(tmp_path.iterdir()) == []


def test_the_ingest_benchmark_reports_and_names_a_bad_file(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "ingest.py"]
    usage = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "20,000,263 rows" in usage
    report = subprocess.run(
        [*command, "--scale", "0.005"], capture_output=True, text=True, check=True
    ).stdout
    sizes = [line.split() for line in report.splitlines()[2:5]]
    assert sizes == [["ratings", "100,001.00"], ["users", "692.00"], ["items", "26,744.00"]]
    (tmp_path / "bad.csv").write_text("userId,movieId,rating,timestamp\n1,2,x,4\n")
    bad = subprocess.run(
        [*command, "--csv", tmp_path / "bad.csv"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1
    assert "line 2: rating is 'x'" in bad.stderr
    assert "Traceback" not in bad.stderr
