"""The memory of a reader's own table, estimated before it is read. 0.3 s."""

import gzip
import zipfile

import pandas as pd
import pytest

from nanorecsys.data import chapter, read

ROWS = 50_000


@pytest.fixture(scope="module")
def table():
    numbers = pd.Series(range(ROWS))
    return pd.DataFrame(
        {"user": numbers % 1000, "item": numbers % 77, "timestamp": 10**9 + numbers}
    )


def csv(table, folder):
    table.to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


def carriage_returns(table, folder):
    table.to_csv(folder / "own.csv", index=False, lineterminator="\r")
    return folder / "own.csv"


def parquet(table, folder):
    table.to_parquet(folder / "own.parquet")
    return folder / "own.parquet"


def parts(table, folder):
    (folder / "own").mkdir()
    for number in (0, 1):
        table[number::2].to_parquet(folder / "own" / f"part-{number}.parquet")
    (folder / "own" / "_SUCCESS").touch()
    return folder / "own"


def archive(table, folder):
    with zipfile.ZipFile(folder / "own.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("own/ratings.csv", table.to_csv(index=False))
        file.writestr("own/genome-scores.csv", "larger,than,the,ratings\n" * 200_000)
    return folder / "own.zip"


@pytest.mark.parametrize("write", [csv, carriage_returns, parquet, parts, archive])
def test_the_rows_of_a_table_are_known_before_it_is_read(write, table, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "SAMPLE_BYTES", 2**14)
    path = write(table, tmp_path)
    assert 0.95 * ROWS < read.estimate_rows(path) < 1.05 * ROWS


def test_a_zip_is_not_unpacked_for_an_estimate(table, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "SAMPLE_BYTES", 2**14)
    asked, member = [], zipfile.ZipExtFile.read

    def count(stream, n=-1):
        asked.append(n)
        return member(stream, n)

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    assert read.estimate_rows(archive(table, tmp_path)) > 0
    assert asked == [2**14]


def test_a_compressed_text_is_taken_for_larger(table, tmp_path, monkeypatch):
    monkeypatch.setattr(read, "SAMPLE_BYTES", 2**14)
    path = tmp_path / "own.csv.gz"
    path.write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    assert 0.5 * ROWS < read.estimate_rows(path) < 2 * ROWS


@pytest.mark.parametrize("name", ["missing.csv", "damaged.zip", "damaged.parquet", "empty.csv"])
def test_a_file_that_cannot_be_read_is_left_to_the_reader(name, tmp_path):
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"PK" if name.startswith("damaged") else b"")
    assert read.estimate_rows(tmp_path / name) == 0


def test_the_chapter_asks_for_the_memory_of_the_file(tmp_path):
    path = tmp_path / "own.csv"
    with path.open("w") as file:
        file.write("user,item,timestamp\n" + "1000001,20000,1500000000\n" * 50_000)
        file.truncate(40 * 2**30)  # a sparse file of 40 GiB
    needed = chapter.estimate({"dataset": str(path), "second_dataset": "ml-latest-2023-head"})
    assert needed.memory_gib > 100
    assert needed.disk_gib > 10
