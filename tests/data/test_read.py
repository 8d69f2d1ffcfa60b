"""How files are read, and the error for each bad file. 6 s."""

import bz2
import datetime
import gzip
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nanorecsys.data import DataError, load_dataset
from nanorecsys.data.read import DataFile, read_movies
from tests.data.small_movielens import MOVIES, RATINGS, zipped

HEADER = "userId,movieId,rating,timestamp\n"
GOOD = HEADER + "1,10,5.0,100\n2,10,3.5,200\n"
DAT = "2::20::4::300\n2::10::3.5::200\n1::10::5::100\n1::30::0.5::150\n2::30::2::400\n"


def rows(path: Path, columns: str | None = None, duplicates: str = "error") -> list[tuple]:
    """Raw user, raw item, rating and timestamp of every interaction, in their order."""
    data = load_dataset(path, columns, duplicates)
    events = data.interactions
    users, items = data.users["user_id"].tolist(), data.items["item_id"].tolist()
    columns = (events.user, events.item, events.rating, events.timestamp)
    return [
        (users[u], items[i], r, t)
        for u, i, r, t in zip(*(c.tolist() for c in columns), strict=True)
    ]


EXPECTED = [
    (1, 10, 5.0, 100),
    (1, 30, 0.5, 150),
    (2, 10, 3.5, 200),
    (2, 20, 4.0, 300),
    (2, 30, 2.0, 400),
]


def test_folder(folder: Path) -> None:
    assert rows(folder) == EXPECTED
    data = load_dataset(folder)
    assert data.name == folder.name
    assert [tuple(row) for row in data.items.itertuples(index=False)] == [
        (0, 10, "American President, The (1995)", 1995, ["Comedy", "Drama"]),
        (1, 20, "Rashômon (1950)", 1950, []),
        (2, 30, "30", pd.NA, []),  # no title: the raw id
    ]
    events = data.interactions
    assert (events.user.dtype, events.item.dtype) == (np.int32, np.int32)
    assert (events.rating.dtype, events.timestamp.dtype) == (np.float32, np.int64)
    assert (len(events), events.n_users, events.n_items) == (5, 2, 3)


@pytest.mark.parametrize("inside", ["", "ml-own/"])
def test_zip_and_nested(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "own.zip"
    path.write_bytes(
        zipped({f"{inside}ratings.csv": RATINGS, f"{inside}movies.csv": MOVIES, "__MACOSX/x/y": ""})
    )
    assert rows(path) == EXPECTED
    assert load_dataset(path).items["year"].tolist() == [1995, 1950, pd.NA]


def test_folder_in_folder(folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("ratings.csv", "movies.csv"):
        (folder / name).rename(folder / "deep" / name)
    assert rows(folder) == EXPECTED


def test_double_colons_and_latin_1(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text(DAT)
    movies = (
        "10::Alien: Covenant:: Part (1995)::Comedy|Drama\r\n"
        "20::Rashômon (1950) ::Drama\r\n30::No Year::Film-Noir\r\n"
    )
    (tmp_path / "movies.dat").write_text(movies, encoding="latin-1", newline="")
    assert rows(tmp_path) == EXPECTED
    items = load_dataset(tmp_path).items
    assert items["title"].tolist() == [
        "Alien: Covenant:: Part (1995)",
        "Rashômon (1950)",
        "No Year",
    ]
    assert items["year"].tolist() == [1995, 1950, pd.NA]
    assert rows(tmp_path / "ratings.dat") == rows(tmp_path)


def test_csv_with_a_byte_order_mark_carriage_returns_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + GOOD.replace("2,10", '"2","10"').replace("\n", "\r\n").encode()
    )
    assert rows(path) == [(1, 10, 5.0, 100), (2, 10, 3.5, 200)]


def test_csv_with_text_ids_and_no_rating(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text('t,note,uid,sku\n5,"a, b",zoe,007\n6,,ann,7\n5,,ann,007\n')
    assert rows(path, "user=uid, item=sku, timestamp=t") == [
        ("ann", "007", 1.0, 5),
        ("ann", "7", 1.0, 6),
        ("zoe", "007", 1.0, 5),
    ]


def test_csv_with_plain_names_needs_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("user,item,timestamp\n10,1,5\n9,1,6\n")
    assert rows(path) == [
        (9, 1, 1.0, 6),
        (10, 1, 1.0, 5),
    ]  # ids that are all numbers are in the order of numbers


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    times = [datetime.datetime(2020, 1, 1, 0, 0, s, tzinfo=datetime.UTC) for s in (2, 1)]
    frame = pd.DataFrame({"who": ["b", "a"], "what": [3, 4], "stars": [1, 2], "when": times})
    frame.astype({"who": "category"}).to_parquet(path)
    expected = [("a", 4, 2.0, 1577836801), ("b", 3, 1.0, 1577836802)]
    assert rows(path, "user=who,item=what,rating=stars,timestamp=when") == expected


def test_the_order_of_rows_does_not_matter(folder: Path) -> None:
    before = load_dataset(folder).interactions
    header, *lines = RATINGS.splitlines(keepends=True)
    (folder / "ratings.csv").write_text(header + "".join(reversed(lines)))
    after = load_dataset(folder).interactions
    assert before.ids_sha256 == after.ids_sha256
    for column in ("user", "item", "rating", "timestamp"):
        np.testing.assert_array_equal(getattr(before, column), getattr(after, column))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        (HEADER, "the table is empty"),
        (
            "userId,movieId,rating\n1,2,3\n",
            "line 1: no column 'timestamp'; the columns are userId, movieId, rating",
        ),
        (
            "1,10,5.0,100\n2,10,3.5,200\n",
            "line 1: no column 'user'; the columns are 1, 10, 5.0, 100",
        ),
        (GOOD + "3,ten,4,5\n", "line 4: movieId is 'ten', not a whole number"),
        (GOOD + "3,10,four,5\n3,10,four,6\n", "line 4: rating is 'four', not a number"),
        (GOOD + "3,10,NaN,5\n", "line 4: rating is 'NaN', not a finite number"),
        (GOOD + "3,10,inf,5\n", "line 4: rating is 'inf', not a finite number"),
        (GOOD + "3,10,,5\n", "line 4: rating is empty"),
        (GOOD + "3,10,4,\n", "line 4: timestamp is empty"),
        (
            GOOD + "3,10,4,2020-01-01\n",
            "line 4: timestamp is '2020-01-01', not a whole number of seconds",
        ),
        (GOOD + "3,10,4,5.5\n", "line 4: timestamp is '5.5', not a whole number of seconds"),
        (GOOD + "3,10,4,-1\n", "line 4: timestamp is '-1', not a whole number of seconds"),
        (
            GOOD + "3,10,4,1260759144000\n",
            "line 4: timestamp is '1260759144000', which is milliseconds, not seconds",
        ),
        (
            GOOD + "3,10,4,1260759144000000000\n",
            "line 4: timestamp is '1260759144000000000', which is nanoseconds",
        ),
        (
            GOOD + "3,10,4,9999999999999999999999\n",
            "line 4: timestamp is '9999999999999999999999', not a whole number of seconds",
        ),
        (GOOD + "3,10\n", "line 4: 2 fields, expected 4"),
        (GOOD + "3,10,4,5,6\n", "line 4: 5 fields, expected 4"),
        (GOOD + "\n3,10,4,5\n", "line 4: the line is blank"),
        (GOOD + "1,10,4.5,100\n", "lines 2 and 4: the same event (user 1, item 10, timestamp 100)"),
        (HEADER + "1,10,4,5\n1,11,4,6\n", "all 2 events are of one user, 1"),
    ],
)
def test_a_bad_csv_is_named_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "ratings.csv").write_text(content)
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path / "ratings.csv")
    assert error.value.message.startswith(str(tmp_path / "ratings.csv"))
    assert said in error.value.message
    assert error.value.remedy


def test_milliseconds_come_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(GOOD + "3,10,4,1260759144000\n")
    with pytest.raises(DataError, match="Divide the column by 1,000"):
        load_dataset(tmp_path / "ratings.csv")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text('user,note,item,timestamp\n1,"two\nlines",3,4\n2,one,,5\n')
    with pytest.raises(DataError, match="line 4: item is empty"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (DAT + "3::10::x::5\n", "line 6: rating is 'x', not a number"),
        (DAT + "3::10::4\n", "line 6: 3 fields, expected 4"),
        (DAT + "3:10:4:5\n", "line 6: 1 fields, expected 4"),
        (DAT + "\n3::10::4::5\n", "line 6: the line is blank"),
        (DAT + "2::20::4::300\n", "lines 1 and 6: the same event"),
    ],
)
def test_a_bad_dat_in_a_zip_is_named_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "own.zip"
    path.write_bytes(zipped({"ml-1m/ratings.dat": content}))
    with pytest.raises(DataError) as error:
        load_dataset(path)
    assert error.value.message.startswith(f"{path}:ml-1m/ratings.dat, ")
    assert said in error.value.message


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"user": ["a", None], "item": [1, 2], "timestamp": [1, 2]}, "row 2: user is empty"),
        (
            {"user": [1, 2], "item": [1, 2], "timestamp": [1, -2]},
            "row 2: timestamp is '-2', not a whole number of seconds",
        ),
        (
            {"user": [1, 2], "item": [1, 2], "timestamp": [1.0, 2.5]},
            "row 2: timestamp is '2.5', not a whole number",
        ),
        (
            {"user": [1.5, 2.0], "item": [1, 2], "timestamp": [1, 2]},
            "row 1: user is '1.5', not a whole number",
        ),
        (
            {"user": [1, 2], "item": [1, 2], "timestamp": [1, 2], "rating": [1.0, float("nan")]},
            "row 2: rating is 'nan', not a finite number",
        ),
        (
            {"user": [1, 2], "item": [1, 2], "timestamp": [1, 2], "rating": ["3", "x"]},
            "row 2: rating is 'x'",
        ),
        (
            {"user": [1, 2, 1], "item": [1, 2, 1], "timestamp": [1, 2, 1]},
            "rows 1 and 3: the same event",
        ),
        ({"user": [1, 2], "item": [1, 2]}, "no column 'timestamp'"),
    ],
)
def test_a_bad_parquet_is_named_with_its_row(
    tmp_path: Path, columns: dict[str, list], said: str
) -> None:
    path = tmp_path / "own.parquet"
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(DataError) as error:
        load_dataset(path)
    assert error.value.message.startswith(str(path))
    assert said in error.value.message


@pytest.mark.parametrize(
    ("movies", "said"),
    [
        ("title,genres\nA,Drama\n", "line 1: no column 'movieId'"),
        (
            "movieId,title,genres\n10,A,Drama\nten,B,Drama\n",
            "line 3: movieId is 'ten', not a whole number",
        ),
        ("movieId,title,genres\n10,A\n", "line 2: 2 fields, expected 3"),
        ("movieId,title,genres\n10,A, B,Drama\n", "line 2: 4 fields, expected 3"),
        ("", "the file is empty"),
    ],
)
def test_bad_movies_are_named_with_their_line(folder: Path, movies: str, said: str) -> None:
    (folder / "movies.csv").write_text(movies)
    with pytest.raises(DataError) as error:
        load_dataset(folder)
    assert error.value.message.startswith(str(folder / "movies.csv"))
    assert said in error.value.message


@pytest.mark.parametrize("kept", [0, 10, 100, -60, -1])
def test_a_truncated_zip_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "own.zip"
    path.write_bytes(zipped({"ml/ratings.csv": RATINGS})[:kept])
    with pytest.raises(DataError, match="not a whole zip file") as error:
        load_dataset(path)
    assert str(path) in error.value.message


def test_a_zip_with_damaged_content_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.zip"
    content = bytearray(zipped({"ml/ratings.csv": RATINGS * 20}))
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole zip file"):
        load_dataset(path)


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    pd.DataFrame({"user": [1, 2], "item": [1, 2], "timestamp": [1, 2]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a whole parquet file"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ml-latest-smal-2016", "Did you mean ml-latest-small-2016?"),
        ("ml20m", "Did you mean ml-20m?"),
        ("nothing/like/it", "Registered: ml-latest-small-2016, "),
    ],
)
def test_no_such_name_suggests_the_nearest(name: str, said: str) -> None:
    with pytest.raises(DataError, match="no data set, folder or file") as error:
        load_dataset(name)
    assert said in error.value.remedy


def test_no_such_file_suggests_the_nearest(folder: Path) -> None:
    with pytest.raises(DataError, match="no data set, folder or file") as error:
        load_dataset(folder / "rating.csv")
    assert f"Did you mean {folder / 'ratings.csv'}?" in error.value.remedy


def test_a_file_of_the_folder_above_is_suggested_as_a_notebook_names_it(tmp_path, monkeypatch):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "ratings.csv").write_text("uid,sku,t\n")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(DataError, match=r"my/ratings\.csv' in .*notebooks") as error:
        load_dataset("my/ratings.csv")
    assert error.value.remedy.startswith("Did you mean ../my/ratings.csv?")


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_dataset(folder / "ratings.csv")


def test_wrong_layouts_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match=r"no ratings.csv or ratings.dat"):
        load_dataset(tmp_path_factory.mktemp("empty"))
    with pytest.raises(DataError, match="no column 'a'; the columns are userId, movieId"):
        load_dataset(folder, "user=a,item=b,timestamp=c")
    (folder / "ratings.dat").write_text(DAT)
    with pytest.raises(DataError, match=r"2 ratings files \(ratings.csv, ratings.dat\)"):
        load_dataset(folder)


@pytest.mark.parametrize(
    "columns",
    [
        "",
        "user",
        "user=a,item=b",
        "user=a,item=b,time=c",
        "user=a,user=b,item=c,timestamp=d",
        "user=a,item=a,timestamp=b",
    ],
)
def test_wrong_columns_are_refused(folder: Path, columns: str) -> None:
    with pytest.raises(DataError, match="does not name one column each"):
        load_dataset(folder / "ratings.csv", columns)


# ---------------------------------------------------------------- other people's files

TWO = [(1, 10, 1.0, 100), (2, 11, 1.0, 200)]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "user,title,item,timestamp\n1,Toy Story,10,1500000000\n"
            "1,American President, The,11,1500000001\n2,Jumanji,10,1500000002\n",
            "line 3: 5 fields, expected 4",
        ),
        (
            "user,item,timestamp,price\n1,10,100,3\n2,11,200,3,5\n",
            "line 3: 5 fields, expected 4",
        ),
        ("user,item,timestamp,note\n1,10,100,a\n2,11,200\n", "line 3: 3 fields, expected 4"),
        (
            "user;price;item;timestamp\n1;3;10;100\n2;3;5;11;200\n",
            "line 3: 5 fields, expected 4",
        ),
        ("user,user,item,timestamp\n1,1,10,100\n", "line 1: two columns 'user'"),
    ],
)
def test_every_row_has_as_many_fields_as_the_header(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        load_dataset(written(tmp_path / "own.csv", rows))


def with_notes(**notes: str) -> str:
    """30 events; `line5="..."` is the note in line 5."""
    rows = [f"{i % 3},{i},{i},{notes.get(f'line{i + 2}', 'none')}" for i in range(30)]
    return "\n".join(["user,item,timestamp,note", *rows]) + "\n"


@pytest.mark.parametrize(
    "notes",
    [
        {"line5": '5" disc'},
        {"line5": '5" disc', "line9": '7" single'},
        {"line5": '"two\nlines"', "line9": '"one ""word"""'},
    ],
)
def test_a_quote_inside_a_field_is_a_character(tmp_path: Path, notes: dict[str, str]) -> None:
    assert len(rows(written(tmp_path / "own.csv", with_notes(**notes)))) == 30


@pytest.mark.parametrize("last", ['"7 single', "none"])
def test_a_quote_that_is_not_closed_is_named(tmp_path: Path, last: str) -> None:
    path = written(tmp_path / "own.csv", with_notes(line5='"5 disc', line9=last))
    with pytest.raises(DataError, match="line 5: not valid CSV from here"):
        load_dataset(path)


@pytest.mark.parametrize("marker", ["NULL", "nan", "NA", "\\N", "", " NULL ", "None"])
@pytest.mark.parametrize("ids", [(1, 2), ("ann", "bob")])
def test_a_missing_id_is_named(tmp_path: Path, marker: str, ids: tuple) -> None:
    content = f"item,user,timestamp\n1,{ids[0]},1\n1,{ids[1]},2\n1,{marker},3\n"
    with pytest.raises(DataError, match="line 4: user is "):
        load_dataset(written(tmp_path / "own.csv", content))
    table = pa.table({"user": [*map(str, ids), marker], "item": [1, 1, 1], "timestamp": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "own.parquet")
    with pytest.raises(DataError, match="row 3: user is "):
        load_dataset(tmp_path / "own.parquet")


@pytest.mark.parametrize("marker", ["NULL", "nan", "NA", "\\N", ""])
@pytest.mark.parametrize("column", [0, 1])
def test_a_missing_id_of_movielens_is_named(tmp_path: Path, marker: str, column: int) -> None:
    row = ["3", "10", "4", "5"]
    row[column] = marker
    name = ("userId", "movieId")[column]
    said = f"{name} is {marker!r}, which marks a missing value" if marker else f"{name} is empty"
    path = written(tmp_path / "ratings.csv", GOOD + ",".join(row) + "\n")
    with pytest.raises(DataError, match=re.escape(f"line 4: {said}")):
        load_dataset(path)


def test_whole_numbers_of_a_column_with_fractions_are_numbers(tmp_path: Path) -> None:
    """pandas keeps whole numbers so where a value was missing."""
    table = {"user": [1.0, 2.0], "item": [10.0, 11.0], "timestamp": [100.0, 200.0]}
    parquet.write_table(pa.table(table), tmp_path / "own.parquet")
    assert rows(tmp_path / "own.parquet") == TWO
    for missing, said in ((float("nan"), "'nan', which marks a missing value"), (None, "empty")):
        parquet.write_table(pa.table(table | {"user": [1.0, missing]}), tmp_path / "own.parquet")
        with pytest.raises(DataError, match=f"row 2: user is {said}"):
            load_dataset(tmp_path / "own.parquet")


@pytest.mark.parametrize("names", ["user,item,timestamp", "userId,movieId,timestamp"])
def test_whole_numbers_stay_numbers_with_blanks_and_point_zero(tmp_path: Path, names: str) -> None:
    content = names + "\n1, 10 ,100.0\n 2.0,11.00,200\n"
    assert rows(written(tmp_path / "own.csv", content)) == TWO


def test_blanks_around_text_are_no_part_of_it(tmp_path: Path) -> None:
    content = "user , item, timestamp\n ann,a b ,1\nann ,c,2\nbob,a b,3\n"
    expected = [("ann", "a b", 1.0, 1), ("ann", "c", 1.0, 2), ("bob", "a b", 1.0, 3)]
    assert rows(written(tmp_path / "own.csv", content)) == expected


def test_duplicates_are_counted_and_the_first_of_each_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "user,item,rating,timestamp\n1,10,1,100\n1,10,2,100\n2,11,3,101\n"
        "1,10,4,100\n2,11,5,101\n1,9,6,100\n"
    )
    with pytest.raises(DataError, match="lines 2 and 3 and 5: the same event") as error:
        load_dataset(path)
    assert "3 of 6 events repeat an earlier one" in error.value.message
    assert 'duplicates="keep_first"' in error.value.remedy
    expected = [(1, 9, 6.0, 100), (1, 10, 1.0, 100), (2, 11, 3.0, 101)]
    assert rows(path, duplicates="keep_first") == expected
    with pytest.raises(DataError, match="duplicates is 'first'"):
        load_dataset(path, duplicates="first")


@pytest.mark.parametrize("name", ["own.parquet", "own.csv"])
def test_fractions_of_a_second_order_events(tmp_path: Path, name: str) -> None:
    times = [f"2020-01-01 00:00:00.{fraction}" for fraction in ("9", "1", "5", "5")]
    frame = pd.DataFrame({"user": [1, 1, 1, 2], "item": [1, 2, 1, 1], "timestamp": times})
    if name.endswith("csv"):
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.astype({"timestamp": "datetime64[us]"}).to_parquet(tmp_path / name)
    second = 1577836800
    expected = [(1, item, 1.0, second) for item in (2, 1, 1)]
    assert rows(tmp_path / name) == [*expected, (2, 1, 1.0, second)]


INTER = "user_id:token\titem_id:token\ttimestamp:float\n1\t10\t100\n2\t11\t200\n"
PLAIN = "user,item,timestamp\n1,10,100\n2,11,200\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("own.csv", "userId;movieId;timestamp\n1;10;100\n2;11;200\n"),
        ("own.csv", "itemId|user_id|timestamp\n10|1|100\n11|2|200\n"),
        ("own.csv", "user::item::timestamp\n1::10::100\n2::11::200\n"),
        ("own.tsv", "user\titem\ttimestamp\n1\t10\t100\n2\t11\t200\n"),
        ("own.inter", INTER),
        ("u.data", "1\t10\t1\t100\n2\t11\t1\t200\n"),
        ("ratings.DAT", "1::10::1::100\n2::11::1::200\n"),
        ("own.csv.gz", gzip.compress(PLAIN.encode(), mtime=0)),
        ("own.tsv.bz2", bz2.compress(INTER.encode())),
        ("u.data.gz", gzip.compress(b"1\t10\t1\t100\n2\t11\t1\t200\n", mtime=0)),
        ("own.csv.zst", pa.compress(PLAIN.encode(), "zstd", asbytes=True)),
        (
            "rating.csv",
            '"userId","movieId","timestamp"\n"1","10","1970-01-01 00:01:40"\n'
            '"2","11","1970-01-01 00:03:20"\n',
        ),
        (
            "own.csv",
            "user,item,timestamp\n1,10,1970-01-01T00:01:40Z\n2,11,1970-01-01T01:03:20+01:00\n",
        ),
        ("own.csv", PLAIN + "\n"),
        ("own.csv", PLAIN + "\n \n\n"),
        ("own.csv", PLAIN.replace("\n", "\r\n") + "\r\n"),
        ("own.csv", PLAIN.replace("\n", "\r")),
        ("own.csv", PLAIN.encode("utf-16")),
        ("own.csv", PLAIN.encode("utf-8-sig")),
        ("own.csv", "user,item,timestamp,note\n1,10,100,\xe9\n2,11,200,a\n".encode("latin-1")),
    ],
)
def test_the_dialects_of_others_are_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert rows(written(tmp_path / name, content)) == TWO


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user^item^timestamp\n1^10^100\n", "the columns are user^item^timestamp"),
        (
            "user,item,timestamp\n1,10,100\n2,Zo\xeb,200\n".encode("latin-1"),
            "line 3: not text in UTF-8",
        ),
        (b"PK\x03\x04\0\0", "not text in UTF-8, it begins with b'PK"),
        (
            'user,item,rating,timestamp\n1,10,3,100\n2,11,"3,5",200\n',
            "line 3: rating is '3,5', not a number",
        ),
        (
            "user,item,timestamp\n1,10,2020-01-01\n2,11,01/02/2020\n",
            "line 3: timestamp is '01/02/2020', not a date and time",
        ),
        (
            "user,item,timestamp\n1,10,2020-01-01\n2,11,1969-12-31\n",
            "line 3: timestamp is '1969-12-31', not a date and time from 1970",
        ),
        (gzip.compress(PLAIN.encode() * 1000, mtime=0)[:-20], "cannot be read"),
        (PLAIN[:19], "the table is empty"),
        (PLAIN[:20], "the table is empty"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)) as error:
        load_dataset(written(tmp_path / "own.csv", content))
    assert str(tmp_path / "own.csv") in error.value.message


@pytest.mark.parametrize("inside", ["", "day=1/"])
def test_the_parts_of_a_table_are_read_together(tmp_path: Path, inside: str) -> None:
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / f"{inside}.part-00000.snappy.parquet.crc").write_bytes(b"crc")
    for number, times in enumerate([[100, 50], [200, 100]]):
        columns = {"who": [1, 2], "what": [10, 11], "when": times}
        parquet.write_table(pa.table(columns), tmp_path / f"{inside}part-0000{number}.parquet")
    named = "user=who,item=what,timestamp=when"
    assert [row[::3] for row in rows(tmp_path, named)] == [(1, 100), (1, 200), (2, 50), (2, 100)]
    parquet.write_table(pa.table(columns), tmp_path / f"{inside}part-00002.parquet")
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path, named)
    places = [f"{tmp_path}/{inside}part-0000{number}.parquet, row 1" for number in (1, 2)]
    assert error.value.message.startswith(f"{'; '.join(places)}: the same event (user 1, item 10")


def test_a_zip_as_kaggle_or_movielens_100k_has_it(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    rating = '"userId","movieId","rating","timestamp"\n"1","10","1","1970-01-01 00:01:40"\n'
    rating += '"2","11","1","1970-01-01 00:03:20"\n'
    movie = '"movieId","title","genres"\n"10","Up, up (2009)","Drama"\n'
    path.write_bytes(zipped({"rating.csv": rating, "movie.csv": movie, "tag.csv": "a\n"}))
    assert rows(path) == TWO
    assert load_dataset(path).items["title"].tolist() == ["Up, up (2009)", "11"]
    item = "10|Caf\xe9 (1995)|01-Jan-1995||http://x|0|1\n".encode("latin-1")
    path.write_bytes(zipped({"ml/u.data": "1\t10\t1\t100\n2\t11\t1\t200\n", "ml/u.item": item}))
    assert rows(path) == TWO
    assert load_dataset(path).items["title"].tolist() == ["Café (1995)", "11"]


def test_movietweetings_is_read(tmp_path: Path) -> None:
    """Its ids of movies have leading zeros, its movies may lack genres."""
    ratings = "1::0068646::10::1381620027\n2::0068646::8::1381620028\n2::0000008::5::1381620029\n"
    movies = "0000008::Edison Kinetoscopic Record of a Sneeze (1894)::Documentary|Short\n"
    movies += "0068646::The Godfather (1972)::\n"
    for name, content in (("ratings", ratings), ("movies", movies), ("users", "1::177651718\n")):
        (tmp_path / f"{name}.dat").write_text(content)
    assert rows(tmp_path) == [
        (1, 68646, 10.0, 1381620027),
        (2, 68646, 8.0, 1381620028),
        (2, 8, 5.0, 1381620029),
    ]
    items = load_dataset(tmp_path).items
    assert items["year"].tolist() == [1894, 1972]
    assert items["genres"].tolist() == [["Documentary", "Short"], []]


def test_a_movie_without_a_title_has_its_id_as_title(folder: Path) -> None:
    years = "A (\uff11\uff19\uff19\uff15)"  # full-width digits
    (folder / "movies.csv").write_text(f"movieId,title,genres\n10,,\n20,{years},B|\n", "utf-8")
    items = load_dataset(folder).items
    assert items["title"].tolist() == ["10", years, "30"]
    assert items["year"].tolist() == [pd.NA, pd.NA, pd.NA]
    assert items["genres"].tolist() == [[], ["B"], []]


@pytest.mark.parametrize(
    ("name", "content", "movies"),
    [
        ("movies.csv", "movieId,title\n10,A (1995)\n", {10: ("A (1995)", 1995, [])}),
        ("movies.csv", "movieId,genres\n10,Drama\n", {10: ("", None, ["Drama"])}),
        ("movies.csv", "movieId,title,genres\n10,,\n\n", {10: ("", None, [])}),
        (
            "movies.csv",
            "movieId,title,genres\n10,A (\uff11\uff19\uff19\uff15),B||C|\n",
            {10: ("A (\uff11\uff19\uff19\uff15)", None, ["B", "C"])},
        ),
        ("movies.csv", "movieId,title,genres\n", {}),
        ("movies.dat", "10::A (1995)::\n\n", {10: ("A (1995)", 1995, [])}),
        ("movies.dat", "0010::A::|B\n", {10: ("A", None, ["B"])}),
    ],
)
def test_titles_and_genres_are_optional(name: str, content: str, movies: dict) -> None:
    assert read_movies(DataFile(name, content.encode())) == movies


# ---------------------------------------------------------------- any table in any dialect

WEIRD_IDS = ["007", "7", "1e5", 'a"b', "a b", "a,b;c|d", "Zoë", "#", "x\ty"]
notes = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@dataclass(frozen=True)
class Table:
    """A valid table, and how it is written."""

    rows: list[list[str]]  # the header first
    events: list[tuple[str, str, float, int]]
    separator: str
    end: str
    quotes_all: bool

    def lines(self) -> list[str]:
        return [self.separator.join(map(self.field, row)) + self.end for row in self.rows]

    def field(self, text: str) -> str:
        special = rf'^"|[\r\n{re.escape(self.separator)}]'
        if self.separator != "::" and (self.quotes_all or re.search(special, text)):
            return '"' + text.replace('"', '""') + '"'
        return text


@st.composite
def tables(draw: Any) -> Table:
    separator = draw(st.sampled_from([",", ";", "|", "\t", "::"]))
    ids: Any = st.integers(-(10**17), 10**17).map(str)
    surplus, note = draw(st.sampled_from([[], ["note"], ["a, b", "note"], ["", "price"]])), notes
    if separator == "::":  # it has no quotes
        surplus, note = [name.replace(", ", "") for name in surplus], st.just("5 'x'")
    elif draw(st.booleans()):
        ids = st.sampled_from(WEIRD_IDS)
    key = st.tuples(ids, ids, st.integers(0, 4_102_444_799))
    keys = draw(st.lists(key, min_size=2, max_size=12, unique=True))
    assume(len({user for user, _, _ in keys}) > 1)
    columns = dict(zip(("user", "item"), list(zip(*keys, strict=True))[:2], strict=True))
    ratings = [draw(st.integers(0, 10)) / 2 for _ in keys]
    time = draw(st.sampled_from(["{0}", "{0}.0", "{1:%Y-%m-%d %H:%M:%S}", "{1:%Y-%m-%dT%H:%MZ}"]))
    seconds = [second - second % 60 if "%MZ" in time else second for *_, second in keys]
    columns |= {
        "rating": [str(rating) for rating in ratings],
        "timestamp": [
            time.format(second, datetime.datetime.fromtimestamp(second, datetime.UTC))
            for second in seconds
        ],
    }
    columns |= {name: [draw(note) for _ in keys] for name in surplus}
    names = draw(st.permutations(list(columns)))
    events = [(*keys[i][:2], ratings[i], seconds[i]) for i in range(len(keys))]
    assume(len({(user, item, second) for user, item, _, second in events}) == len(events))
    return Table(
        [names, *map(list, zip(*(columns[name] for name in names), strict=True))],
        events,
        separator,
        draw(st.sampled_from(["\n", "\r\n", "\r"])),
        draw(st.booleans()),
    )


@given(
    tables(),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.sampled_from([("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)]),
    st.integers(-1, 2),
)
def test_a_table_reads_back_in_any_dialect(
    table: Table, mark: bytes, compressed: tuple, blank_lines: int
) -> None:
    text = "".join(table.lines()) + table.end * blank_lines
    if blank_lines < 0:
        text = text.removesuffix(table.end)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"own.csv{compressed[0]}")
        found = rows(written(path, compressed[1](mark + text.encode())))
    for place in (0, 1):  # ids are numbers where all of their column are plain numbers
        numbers = all(re.fullmatch("0|-?[1-9][0-9]*", event[place]) for event in table.events)
        assert {type(row[place]) for row in found} == {int if numbers else str}
    as_text = [(str(user), str(item), *row) for user, item, *row in found]
    assert sorted(as_text) == sorted(table.events)


@given(tables(), st.data())
def test_a_damaged_field_is_named_with_its_line(table: Table, data: Any) -> None:
    number = data.draw(st.integers(1, len(table.rows) - 1))
    row = table.rows[number]
    damage = {"rating": ["x", "inf"], "timestamp": ["x", "-5", "1970-13-01"], "note": []}
    name = data.draw(st.sampled_from(table.rows[0]))
    bad = damage.get(name, ["NULL", "", " nan "] if name in ("user", "item") else [])
    change = data.draw(st.sampled_from([*bad, "surplus", "fewer"]))
    if change == "surplus":
        row.append("x")
    elif change == "fewer":
        row.pop()
    else:
        row[table.rows[0].index(name)] = change
    lines = table.lines()
    line = 1 + len(re.findall("\r\n|\r|\n", "".join(lines[:number])))
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder, "own.csv"), "".join(lines))
        with pytest.raises(DataError) as error:
            load_dataset(path)
    assert error.value.message.startswith(f"{path}, line {line}: ")
