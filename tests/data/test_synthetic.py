"""The generated file keeps its counts, and the ingest measurement runs on it. 3 s."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import DataError, describe, ingest, load_dataset
from nanorecsys.data.synthetic import USERS_A_BLOCK, write_ratings_csv

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


def test_it_has_more_than_one_block_and_the_shape_of_movielens(tmp_path: Path) -> None:
    write_ratings_csv(tmp_path / "ratings.csv", 700_000, USERS_A_BLOCK + 700, 10_000)
    events = load_dataset(tmp_path / "ratings.csv").interactions
    lengths, tail = describe.history_lengths(events), describe.popularity_tail(events)
    assert lengths.lengths.min() == 20
    assert lengths.mean > 1.5 * lengths.quantiles[0.5]
    assert 0.7 < tail.gini < 0.95
    ties = describe.timestamp_ties(events)
    assert 0.2 < ties.tied_event_share < 0.5
    assert 0.1 < ties.last_two_tied_share < 0.4
    inversions = np.diff(events.item[events.user == 0]) < 0
    assert 0.2 < inversions.mean() < 0.8  # in time, items are in no order


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_ratings_csv(tmp_path / name, 2_000, 50, 300, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 11), (100, 10, 20), (0, 0, 0)])
def test_impossible_counts_are_named(tmp_path: Path, counts: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="no such table"):
        write_ratings_csv(tmp_path / "ratings.csv", *counts)
    assert list(tmp_path.iterdir()) == []


def test_ingest_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    found = ingest.measure(tmp_path / "ingest", 20_000, 300, 900, seed=0)
    assert (found.ratings, found.users, found.items) == (20_000, 300, 900)
    assert list(found.seconds) == ["parse and check", "number and sort", "both splits", "save"]
    assert found.total_s == pytest.approx(sum(found.seconds.values()))
    assert 0.02 < found.peak_rss_gib < 2
    assert 0.3 < found.file_mib < 0.7
    assert list((tmp_path / "ingest").iterdir()) == []


def test_benchmark_explains_and_reports(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "ingest.py"]
    usage = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "20,000,263 rows" in usage
    report = subprocess.run(
        [*command, "--scale", "0.005"], capture_output=True, text=True, check=True
    ).stdout
    assert "100,001 ratings, 692 users, 26,744 items" in report
    (tmp_path / "bad.csv").write_text("userId,movieId,rating,timestamp\n1,2,x,4\n")
    bad = subprocess.run(
        [*command, "--csv", tmp_path / "bad.csv"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1
    assert "line 2: rating is 'x'" in bad.stderr
    assert "Traceback" not in bad.stderr
