"""How files are read, and the error for each bad file. 1 s."""

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from nanorecsys.data import DataError, load_dataset
from tests.data.small_movielens import MOVIES, RATINGS, zipped

HEADER = "userId,movieId,rating,timestamp\n"
GOOD = HEADER + "1,10,5.0,100\n2,10,3.5,200\n"
DAT = "2::20::4::300\n2::10::3.5::200\n1::10::5::100\n1::30::0.5::150\n2::30::2::400\n"


def rows(path: Path, columns: str | None = None) -> list[tuple]:
    """Raw user, raw item, rating and timestamp of every interaction, in their order."""
    data = load_dataset(path, columns)
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
        (GOOD + "3,10,4,-1\n", "line 4: timestamp is -1, before 1970"),
        (
            GOOD + "3,10,4,1260759144000\n",
            "line 4: timestamp is 1260759144000, which is milliseconds, not seconds",
        ),
        (
            GOOD + "3,10,4,1260759144000000000\n",
            "line 4: timestamp is 1260759144000000000, which is nanoseconds",
        ),
        (
            GOOD + "3,10,4,9999999999999999999999\n",
            "line 4: timestamp is 9999999999999999999999, after the year 2100",
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
        (DAT + "\n", "line 6: the line is blank"),
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
            "row 2: timestamp is -2, before 1970",
        ),
        (
            {"user": [1, 2], "item": [1, 2], "timestamp": [1.0, 2.0]},
            "column 'timestamp' has type double",
        ),
        (
            {"user": [1.0, 2.0], "item": [1, 2], "timestamp": [1, 2]},
            "column 'user' has type double",
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
        ("movieId,genres\n10,Drama\n", "line 1: no column 'title'"),
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


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_dataset(folder / "ratings.csv")


def test_wrong_layouts_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match=r"no ratings.csv or ratings.dat"):
        load_dataset(tmp_path_factory.mktemp("empty"))
    (folder / "ratings.txt").touch()
    with pytest.raises(
        DataError, match=r"expected a folder, or a file that ends in .zip, .csv, .dat, .parquet"
    ):
        load_dataset(folder / "ratings.txt")
    with pytest.raises(DataError, match="whose columns are MovieLens' own"):
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
