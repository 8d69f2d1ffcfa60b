"""Events and titles from files: MovieLens layouts, or any CSV or parquet with named columns.

Events are read by Arrow in one go and checked column by column (the fast path). Only if something
is wrong, the slow path reads the file row by row to name the line.
"""

import csv
import io
import itertools
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from nanorecsys.data.errors import DataError

BLOCK_BYTES = 8 * 2**20  # size of the blocks that a CSV is parsed in
# 2100-01-01 in seconds: a later timestamp is a mistake or has another unit.
LATEST_TIMESTAMP = 4_102_444_800
# 1980-01-01: a later time in a finer unit is taken for one in that unit.
EARLIEST_LIKELY = 315_532_800
FINER_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
ROLES = ("user", "item", "rating", "timestamp")
REQUIRED_ROLES = ("user", "item", "timestamp")
MOVIELENS_COLUMNS = {
    "user": "userId",
    "item": "movieId",
    "rating": "rating",
    "timestamp": "timestamp",
}
MOVIE_COLUMNS = ("movieId", "title", "genres")
WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,30}\s*")
# A text that is the only way to write its number: the ids "7" and "007" are different.
PLAIN_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"
YEAR = re.compile(r"\(([0-9]{4})\)$")
NAME_COLUMNS = (
    "Name its columns: columns=user=...,item=...,timestamp=... and, where there is one, rating=..."
)
CORRECT = "Correct or delete it, or fetch the file again."

Rows = Iterator[tuple[int, list[str]]]  # line number and fields
Columns = dict[str, pa.ChunkedArray]  # by role


class RowProblem(NamedTuple):
    """What is wrong with a row, and the remedy."""

    message: str
    remedy: str


@dataclass(frozen=True)
class DataFile:
    """A file or the content of a zip's member, with its name for errors."""

    label: str
    data: Path | bytes

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")

    def read(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()


@dataclass(frozen=True)
class EventTable:
    """A table of events whose columns are known and whose rows are not read yet."""

    source: DataFile
    format: str  # csv, dat or parquet
    names: dict[str, str]  # role: column, for user, item, timestamp and, where there is one, rating
    header: tuple[str, ...]  # the columns of a row
    integer_ids: bool  # MovieLens; elsewhere ids may be text

    @property
    def row_word(self) -> str:
        return "row" if self.format == "parquet" else "line"


# ---------------------------------------------------------------- files and columns


def find_movielens(path: Path) -> tuple[DataFile, DataFile | None]:
    """Find the ratings file and, if any, the movies file of a folder or zip in MovieLens layout.

    They are at its top or one folder deep. Members of a zip are read into memory, so nothing is
    left on disk.

    Raises:
        DataError: no ratings file or several, or a zip that is truncated or damaged.
    """
    if path.is_dir():
        files = [*path.glob("*"), *path.glob("*/*")]
        ratings, movies = _layout(path, [file.relative_to(path).as_posix() for file in files])
        return (
            DataFile(str(path / ratings), path / ratings),
            DataFile(str(path / movies), path / movies) if movies else None,
        )
    try:
        with zipfile.ZipFile(path) as archive:
            ratings, movies = _layout(path, archive.namelist())
            return (
                DataFile(f"{path}:{ratings}", archive.read(ratings)),
                DataFile(f"{path}:{movies}", archive.read(movies)) if movies else None,
            )
    # RuntimeError: an encrypted zip
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: not a whole zip file ({error})",
            "It was truncated or damaged on its way: fetch it again.",
        ) from error


def _layout(path: Path, names: list[str]) -> tuple[str, str | None]:
    """The names of the ratings file and of the movies file beside it."""
    ratings = sorted(name for name in names if re.fullmatch(r"([^/]+/)?ratings\.(csv|dat)", name))
    if len(ratings) != 1:
        found = "no ratings.csv or ratings.dat"
        if ratings:
            found = f"{len(ratings)} ratings files ({', '.join(ratings)})"
        raise DataError(
            f"{path}: {found} at its top or one folder deep, expected one",
            "Give a folder or zip with one data set in MovieLens layout, or any other table as a "
            f".csv or .parquet file. {NAME_COLUMNS}",
        )
    movies = "movies".join(ratings[0].rsplit("ratings", 1))
    return ratings[0], movies if movies in names else None


def open_events(source: DataFile, columns: str | None = None) -> EventTable:
    """Find out the format of a file of events, and which column is what.

    Args:
        source: `.dat` is MovieLens' headerless user::item::rating::timestamp, `.parquet` is
            parquet, and anything else CSV with a header line.
        columns: Column names such as "user=uid,item=sku,timestamp=t", with rating=... where there
            is one. By default MovieLens' own names userId,movieId,rating,timestamp with integer
            ids, or else user,item,timestamp and, if present, rating.

    Raises:
        DataError: empty or unreadable file, missing column, or `columns` that makes no sense.
    """
    suffix = Path(source.label).suffix.lower()
    if suffix == ".dat":
        header = tuple(MOVIELENS_COLUMNS.values())
        return EventTable(source, "dat", MOVIELENS_COLUMNS, header, integer_ids=True)
    is_parquet = suffix == ".parquet"
    header = _parquet_header(source) if is_parquet else _csv_header(source, _csv_rows(source))
    if columns is not None:
        names = _parse_columns(columns)
    elif "userId" in header or "movieId" in header:
        names = MOVIELENS_COLUMNS
    else:
        names = {role: role for role in ROLES if role in REQUIRED_ROLES or role in header}
    for name in names.values():
        if name not in header:
            raise DataError(
                f"{source.label}{'' if is_parquet else ', line 1'}: no column {name!r}; "
                f"the columns are {', '.join(header)}",
                NAME_COLUMNS,
            )
    return EventTable(
        source,
        "parquet" if is_parquet else "csv",
        names,
        tuple(names.values()) if is_parquet else header,
        integer_ids=names is MOVIELENS_COLUMNS,
    )


def _parse_columns(columns: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in columns.split(",")]
    names = {role.strip(): name.strip() for role, _, name in pairs}
    roles_fit = set(REQUIRED_ROLES) <= names.keys() <= set(ROLES)
    if not roles_fit or not all(names.values()) or len(set(names.values())) < len(pairs):
        raise DataError(
            f"columns={columns!r} does not name one column each for user, item, timestamp "
            "and, if any, rating",
            "Write it like user=uid,item=sku,timestamp=t "
            "or user=uid,item=sku,rating=stars,timestamp=t.",
        )
    return names


def _csv_header(source: DataFile, rows: Rows) -> tuple[str, ...]:
    _, fields = next(rows, (1, []))
    if any(fields):
        return tuple(fields)
    raise DataError(
        f"{source.label}: the file is empty, it has no header line",
        "Give a CSV whose first line names its columns.",
    )


def _parquet_header(source: DataFile) -> tuple[str, ...]:
    try:
        with source.open() as stream:
            return tuple(parquet.read_schema(stream).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source.label}: not a whole parquet file ({_first_line(error)})",
            "Write it again, or fetch it again.",
        ) from error


# ---------------------------------------------------------------- events, the fast path


def read_events(table: EventTable) -> pa.Table:
    """Read and check the events of a table, in the order of its rows.

    Returns:
        user and item (int64, or string where an id of that column is not a plain whole number),
        rating float32 (1.0 where the table has none), timestamp int64 in seconds.

    Raises:
        DataError: names file and line, the value found there, and the remedy.
    """
    try:
        read = _read_parquet(table) if table.format == "parquet" else _read_text(table)
        events = _as_events(read)
    except pa.ArrowException as error:
        raise _first_problem(table) or DataError(
            f"{table.source.label}: unreadable ({_first_line(error)})",
            "Check that it is the file you meant.",
        ) from error
    if not len(events):
        raise DataError(
            f"{table.source.label}: the table is empty, it has no events",
            "Give a file with the events of two users or more.",
        )
    earliest, latest = pc.min_max(events["timestamp"]).as_py().values()
    is_sound = (
        not any(column.null_count for column in events.columns)
        and not any(
            _is_text(events[role]) and pc.any(pc.equal(events[role], "")).as_py()
            for role in ("user", "item")
        )
        and pc.all(pc.is_finite(events["rating"])).as_py()
        and earliest >= 0
        and latest <= LATEST_TIMESTAMP
    )
    if not is_sound:
        raise _first_problem(table) or DataError(
            f"{table.source.label}: a value is missing or out of range",
            "Look for empty or infinite values.",
        )
    return events


def _read_text(table: EventTable) -> Columns:
    id_type = pa.int64() if table.integer_ids else pa.string()
    types = {"user": id_type, "item": id_type, "rating": pa.float32(), "timestamp": pa.int64()}
    convert_options = arrow_csv.ConvertOptions(
        column_types={name: types[role] for role, name in table.names.items()},
        include_columns=list(table.names.values()),
        null_values=[""],
    )
    if table.format == "dat":
        # Arrow takes a separator of one byte.
        content = table.source.read().replace(b"::", b"\x1f")
        read = arrow_csv.read_csv(
            io.BytesIO(content),
            arrow_csv.ReadOptions(column_names=list(table.header)),
            arrow_csv.ParseOptions(delimiter="\x1f", quote_char=False, ignore_empty_lines=False),
            convert_options,
        )
    else:
        parse_options = arrow_csv.ParseOptions(
            newlines_in_values=not table.integer_ids,  # MovieLens' own columns are all numbers
            ignore_empty_lines=False,
        )
        data = table.source.data
        read = arrow_csv.read_csv(
            io.BytesIO(data) if isinstance(data, bytes) else str(data),
            arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options,
            convert_options,
        )
    return {role: read[name] for role, name in table.names.items()}


def _read_parquet(table: EventTable) -> Columns:
    """The named columns; ids are whole numbers or text, timestamps whole numbers of seconds."""
    with table.source.open() as stream:
        read = parquet.ParquetFile(stream).read(columns=list(table.names.values()))
    columns = {}
    for role, name in table.names.items():
        column = read[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        is_time = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        if role == "timestamp" and is_time:
            column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        is_text_id = role in ("user", "item") and _is_text(column)
        if not (is_text_id or pa.types.is_integer(column.type) or role == "rating"):
            expected = "a whole number or text"
            if role == "timestamp":
                expected = "a whole number of seconds or a date"
            raise DataError(
                f"{table.source.label}: column {name!r} has type {column.type}, not {expected}",
                "Cast the column and write the file again.",
            )
        columns[role] = column
    return columns


def _as_events(columns: Columns) -> pa.Table:
    """The columns in the types that `read_events` returns."""
    timestamp = columns["timestamp"].cast(pa.int64())
    rating = columns.get("rating", pa.chunked_array([np.ones(len(timestamp), np.float32)]))
    return pa.table(
        {
            "user": _as_ids(columns["user"]),
            "item": _as_ids(columns["item"]),
            "rating": rating.cast(pa.float32()),
            "timestamp": timestamp,
        }
    )


def _as_ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """int64 if every id is a plain whole number, else string."""
    if _is_text(column) and not pc.all(pc.match_substring_regex(column, PLAIN_NUMBER)).as_py():
        return column.cast(pa.string())
    return column.cast(pa.int64())


def _is_text(column: pa.ChunkedArray) -> bool:
    return column.type in (pa.string(), pa.large_string(), pa.string_view())


# ---------------------------------------------------------------- events, the slow path


def duplicate_error(
    table: EventTable, user: int | str, item: int | str, timestamp: int
) -> DataError:
    """The error for an event that is in the table twice; it names the rows."""
    expected = (user, item, timestamp)
    places = [table.header.index(table.names[role]) for role in REQUIRED_ROLES]
    rows = [
        str(number)
        for number, fields in _rows(table)
        if all(
            type(value)(fields[place]) == value
            for place, value in zip(places, expected, strict=True)
        )
    ]
    return DataError(
        f"{table.source.label}, {table.row_word}s {' and '.join(rows)}: the same event "
        f"(user {user}, item {item}, timestamp {timestamp})",
        "Keep one of them.",
    )


def _first_problem(table: EventTable) -> DataError | None:
    """The error for the first row that the fast path refuses."""
    for number, fields in _rows(table):
        problem = _wrong_shape(fields, len(table.header)) or _wrong_value(table, fields)
        if problem:
            place = f"{table.source.label}, {table.row_word} {number}"
            return DataError(f"{place}: {problem.message}", problem.remedy)
    return None


def _wrong_shape(fields: list[str], expected: int) -> RowProblem | None:
    if not any(fields):
        return RowProblem("the line is blank", "Delete the line.")
    if len(fields) != expected:
        return RowProblem(
            f"{len(fields)} fields, expected {expected}",
            "The file is cut off there, or a text with a separator in it is not quoted: "
            + CORRECT.lower(),
        )
    return None


def _wrong_value(table: EventTable, fields: list[str]) -> RowProblem | None:
    """The problem of the first bad value of a row."""
    for role, name in table.names.items():
        text = fields[table.header.index(name)]
        is_whole = WHOLE_NUMBER.fullmatch(text)
        if not text.strip():
            return RowProblem(f"{name} is empty", CORRECT)
        if role == "rating":
            try:
                if not math.isfinite(float(text)):
                    return RowProblem(f"{name} is {text!r}, not a finite number", CORRECT)
            except ValueError:
                return RowProblem(f"{name} is {text!r}, not a number", CORRECT)
        elif role == "timestamp":
            if not is_whole:
                return RowProblem(f"{name} is {text!r}, not a whole number of seconds", CORRECT)
            if problem := _wrong_time(name, int(text)):
                return problem
        elif table.integer_ids and not is_whole:
            return RowProblem(
                f"{name} is {text!r}, not a whole number as in MovieLens",
                f"Correct it; if ids are text, give the file by itself. {NAME_COLUMNS}",
            )
    return None


def _wrong_time(name: str, seconds: int) -> RowProblem | None:
    if 0 <= seconds <= LATEST_TIMESTAMP:
        return None
    for unit, factor in FINER_UNITS.items():
        if EARLIEST_LIKELY <= seconds / factor <= LATEST_TIMESTAMP:
            return RowProblem(
                f"{name} is {seconds}, which is {unit}, not seconds",
                f"Divide the column by {factor:,}: timestamps are seconds since 1970-01-01 UTC.",
            )
    return RowProblem(
        f"{name} is {seconds}, {'before 1970' if seconds < 0 else 'after the year 2100'}",
        "Timestamps are seconds since 1970-01-01 UTC: correct them.",
    )


def _rows(table: EventTable) -> Rows:
    """The rows of a table as text, each with its number in the file; a header is line 1."""
    if table.format == "csv":
        return itertools.islice(_csv_rows(table.source), 1, None)
    return _dat_rows(table.source) if table.format == "dat" else _parquet_rows(table)


def _csv_rows(source: DataFile, encoding: str = "utf-8-sig") -> Rows:
    # utf-8-sig: a byte order mark is not part of the first column's name.
    with io.TextIOWrapper(source.open(), encoding, errors="replace", newline="") as stream:
        reader = csv.reader(stream)
        before = 0  # last line of the previous record: a quoted field may hold line breaks
        try:
            for fields in reader:
                yield before + 1, fields
                before = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{source.label}, line {before + 1}: not valid CSV from here ({error})",
                "Look for a quote that is not closed.",
            ) from error


def _dat_rows(source: DataFile, encoding: str = "latin-1") -> Rows:
    with source.open() as stream:
        for number, line in enumerate(stream, start=1):
            text = line.decode(encoding).rstrip("\r\n")
            yield number, text.split("::") if text else []


def _parquet_rows(table: EventTable) -> Rows:
    columns = [column.to_pylist() for column in _read_parquet(table).values()]
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield number, ["" if value is None else str(value) for value in values]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


# ---------------------------------------------------------------- titles


class Movie(NamedTuple):
    """What a movies file says about an item."""

    title: str  # as published, with its year; "" where there is none
    year: int | None  # from a title that ends in "(1995)"
    genres: list[str]


def read_movies(source: DataFile) -> dict[int, Movie]:
    """Read a MovieLens movies.csv or movies.dat: movies by id, the first of those with one id.

    Raises:
        DataError: names file and line, the value found there, and the remedy.
    """
    encoding = _encoding(source)
    header: tuple[str, ...] = MOVIE_COLUMNS
    if source.label.endswith(".dat"):
        rows = _movies_dat_rows(source, encoding)
    else:
        rows = _csv_rows(source, encoding)
        header = _csv_header(source, rows)
    for name in MOVIE_COLUMNS:
        if name not in header:
            raise DataError(
                f"{source.label}, line 1: no column {name!r}; the columns are {', '.join(header)}",
                "Give MovieLens' own movies.csv, or none: titles are optional.",
            )
    places = [header.index(name) for name in MOVIE_COLUMNS]
    movies: dict[int, Movie] = {}
    for number, fields in rows:
        problem = _wrong_shape(fields, len(header))
        if not problem and not WHOLE_NUMBER.fullmatch(fields[places[0]]):
            problem = RowProblem(f"movieId is {fields[places[0]]!r}, not a whole number", CORRECT)
        if problem:
            raise DataError(f"{source.label}, line {number}: {problem.message}", problem.remedy)
        item_id, title, genres = (fields[place].strip() for place in places)
        year = YEAR.search(title)
        listed = [] if genres in ("", "(no genres listed)") else genres.split("|")
        movies.setdefault(int(item_id), Movie(title, int(year[1]) if year else None, listed))
    return movies


def _movies_dat_rows(source: DataFile, encoding: str) -> Rows:
    """The rows of a movies.dat; a title may contain "::"."""
    for number, fields in _dat_rows(source, encoding):
        if len(fields) > len(MOVIE_COLUMNS):
            fields = [fields[0], "::".join(fields[1:-1]), fields[-1]]
        yield number, fields


def _encoding(source: DataFile) -> str:
    """UTF-8, or the latin-1 of MovieLens' older releases."""
    try:
        source.read().decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"
