"""Events and titles from files: MovieLens layouts, or any CSV or parquet with named columns.

The fast path is one vectorised read and a few vectorised checks. Only when it meets something wrong
does a slow one go through the file row by row, to say in which line.
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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv_files
import pyarrow.parquet as parquet

from nanorecsys.data.errors import DataError

LATEST_TIMESTAMP = (
    4_102_444_800  # 2100-01-01 in seconds: later ones are in another unit, or an accident
)
_EARLIEST_LIKELY = 315_532_800  # 1980-01-01, to recognise which other unit
_FINER_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_MOVIELENS_NAMES = {
    "user": "userId",
    "item": "movieId",
    "rating": "rating",
    "timestamp": "timestamp",
}
_PLAIN_NAMES = {role: role for role in _MOVIELENS_NAMES}
_MOVIE_COLUMNS = ("movieId", "title", "genres")
_REQUIRED = ("user", "item", "timestamp")
_WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,30}\s*")
_YEAR = re.compile(r"\(([0-9]{4})\)$")
# text that is the only way to write its number: the ids "7" and "007" stay apart
_PLAIN_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"
_NAME_COLUMNS = (
    "Name its columns: columns=user=...,item=...,timestamp=... and, where there is one, rating=..."
)
_CORRECT = "Correct or delete it, or fetch the file again."


@dataclass(frozen=True)
class Source:
    """A file or a member of a zip, under the name that errors give it."""

    label: str
    data: Path | bytes

    def open(self) -> io.BufferedIOBase:
        return io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")


@dataclass(frozen=True)
class EventTable:
    """A table of events whose columns are known and whose rows are not read yet."""

    source: Source
    format: str  # csv, dat or parquet
    names: dict[str, str]  # role: column, for user, item, timestamp and, where there is one, rating
    header: tuple[str, ...]  # the columns of a row
    integer_ids: bool  # MovieLens; elsewhere ids may be text

    @property
    def row_word(self) -> str:
        return "row" if self.format == "parquet" else "line"


# ---------------------------------------------------------------- which files, which columns


def find_movielens(path: Path) -> tuple[Source, Source | None]:
    """The ratings file and, where there is one, the movies file of a folder or zip in MovieLens layout.

    They are at its top or one folder deep; members of a zip are read into memory, so nothing is
    left on disk.

    Raises:
        DataError: no ratings file or several, or a zip that is truncated or damaged.
    """
    if path.is_dir():
        files = {
            f.relative_to(path).as_posix(): f for depth in ("*", "*/*") for f in path.glob(depth)
        }
        return tuple(
            name and Source(str(files[name]), files[name]) for name in _layout(path, list(files))
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = _layout(path, archive.namelist())
            return tuple(name and Source(f"{path}:{name}", archive.read(name)) for name in names)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted
        raise DataError(
            f"{path}: not a whole zip file ({error})",
            "It was truncated or damaged on its way: fetch it again.",
        ) from error


def _layout(path: Path, names: list[str]) -> tuple[str, str | None]:
    ratings = sorted(name for name in names if re.fullmatch(r"([^/]+/)?ratings\.(csv|dat)", name))
    if len(ratings) != 1:
        came = (
            f"{len(ratings)} ratings files ({', '.join(ratings)})"
            if ratings
            else "no ratings.csv or ratings.dat"
        )
        raise DataError(
            f"{path}: {came} at its top or one folder deep, expected one",
            "Give a folder or zip with one data set in MovieLens layout, or any other table as a .csv or .parquet "
            f"file. {_NAME_COLUMNS}",
        )
    movies = "movies".join(ratings[0].rsplit("ratings", 1))
    return ratings[0], movies if movies in names else None


def open_events(source: Source, columns: str | None = None) -> EventTable:
    """The table of events in a file: its format, and which column is what.

    Args:
        source: `.dat` is MovieLens' headerless user::item::rating::timestamp, `.parquet` is
            parquet, and anything else CSV with a header line.
        columns: such as "user=uid,item=sku,timestamp=t", with rating=... where there is one. By
            default MovieLens' own names userId,movieId,rating,timestamp with integer ids, or else
            user,item,timestamp and, if present, rating.

    Raises:
        DataError: empty or unreadable file, missing column, or `columns` that makes no sense.
    """
    suffix = Path(source.label).suffix.lower()
    if suffix == ".dat":
        header = tuple(_MOVIELENS_NAMES.values())
        return EventTable(source, "dat", _MOVIELENS_NAMES, header, integer_ids=True)
    table_format = "parquet" if suffix == ".parquet" else "csv"
    if table_format == "parquet":
        header = _parquet_header(source)
    else:
        header = _csv_header(source, _csv_rows(source))
    if columns is not None:
        names = _parse_columns(columns)
    elif "userId" in header or "movieId" in header:
        names = _MOVIELENS_NAMES
    else:
        names = {
            role: name for role, name in _PLAIN_NAMES.items() if role in _REQUIRED or name in header
        }
    for name in names.values():
        if name not in header:
            raise DataError(
                f"{source.label}{', line 1' if table_format == 'csv' else ''}: no column {name!r}; "
                f"the columns are {', '.join(header)}",
                _NAME_COLUMNS,
            )
    if table_format == "parquet":
        header = tuple(names.values())  # the other columns are never read
    return EventTable(source, table_format, names, header, integer_ids=names is _MOVIELENS_NAMES)


def _parse_columns(columns: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in columns.split(",")]
    names = {role.strip(): name.strip() for role, _, name in pairs}
    roles_fit = set(_REQUIRED) <= names.keys() <= _PLAIN_NAMES.keys()
    if not roles_fit or not all(names.values()) or len(set(names.values())) < len(pairs):
        raise DataError(
            f"columns={columns!r} does not name one column each for user, item, timestamp and, if any, rating",
            "Write it like user=uid,item=sku,timestamp=t or user=uid,item=sku,rating=stars,timestamp=t.",
        )
    return names


def _csv_header(source: Source, rows: Iterator[tuple[int, list[str]]]) -> tuple[str, ...]:
    """The first of the rows, which names the columns."""
    _, fields = next(rows, (1, []))
    if any(fields):
        return tuple(fields)
    raise DataError(
        f"{source.label}: the file is empty, it has no header line",
        "Give a CSV whose first line names its columns.",
    )


def _parquet_header(source: Source) -> tuple[str, ...]:
    try:
        with source.open() as stream:
            return tuple(parquet.read_schema(stream).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{source.label}: not a whole parquet file ({_first_line(error)})",
            "Write it anew, or fetch it again.",
        ) from error


# ---------------------------------------------------------------- events


def read_events(table: EventTable) -> pa.Table:
    """Read and check the events of a table, in the order of its rows.

    Returns:
        user and item (int64, or string where an id of that column is not a plain whole number),
        rating float32 (1.0 where the table has none), timestamp int64 in seconds.

    Raises:
        DataError: names file and line, the value found there, and the remedy.
    """
    try:
        events = _as_events(_READERS[table.format](table))
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


def duplicate_error(
    table: EventTable, user: int | str, item: int | str, timestamp: int
) -> DataError:
    """The error for an event that is in the table twice; it names the rows."""

    def is_same(field: str, value: int | str) -> bool:
        return int(field) == value if isinstance(value, int) else field == value

    places = [table.header.index(table.names[role]) for role in _REQUIRED]
    rows = [
        str(number)
        for number, fields in _rows(table)
        if all(
            is_same(fields[place], value)
            for place, value in zip(places, (user, item, timestamp), strict=True)
        )
    ]
    return DataError(
        f"{table.source.label}, {table.row_word}s {' and '.join(rows)}: the same event "
        f"(user {user}, item {item}, timestamp {timestamp})",
        "Keep one of them.",
    )


def _read_csv(table: EventTable) -> dict[str, pa.ChunkedArray]:
    id_type = pa.int64() if table.integer_ids else pa.string()
    types = {"user": id_type, "item": id_type, "rating": pa.float32(), "timestamp": pa.int64()}
    with table.source.open() as stream:
        read = csv_files.read_csv(
            stream,
            parse_options=csv_files.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv_files.ConvertOptions(
                column_types={name: types[role] for role, name in table.names.items()},
                include_columns=list(table.names.values()),
                null_values=[""],
            ),
        )
    return {role: read[name] for role, name in table.names.items()}


def _read_dat(table: EventTable) -> dict[str, pa.ChunkedArray]:
    # Arrow takes a separator of one byte: "::" is two of them around an empty column.
    types = {
        "user": pa.int64(),
        "gap 1": pa.null(),
        "item": pa.int64(),
        "gap 2": pa.null(),
        "rating": pa.float32(),
        "gap 3": pa.null(),
        "timestamp": pa.int64(),
    }
    with table.source.open() as stream:
        read = csv_files.read_csv(
            stream,
            read_options=csv_files.ReadOptions(column_names=list(types)),
            parse_options=csv_files.ParseOptions(
                delimiter=":", quote_char=False, ignore_empty_lines=False
            ),
            convert_options=csv_files.ConvertOptions(column_types=types, null_values=[""]),
        )
    return {role: read[role] for role in table.names}


def _read_parquet(table: EventTable) -> dict[str, pa.ChunkedArray]:
    """The named columns by their roles; ids as whole numbers or text, dates as seconds."""
    with table.source.open() as stream:
        read = parquet.ParquetFile(stream).read(columns=list(table.names.values()))
    columns = {}
    for role, name in table.names.items():
        column = read[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if role == "timestamp" and (
            pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        ):
            column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        is_id = role in ("user", "item") and _is_text(column)
        if not (is_id or pa.types.is_integer(column.type) or role == "rating"):
            expected = "a whole number of seconds or a date"
            raise DataError(
                f"{table.source.label}: column {name!r} has type {column.type}, not "
                + (expected if role == "timestamp" else "a whole number or text"),
                "Cast the column and write the file anew.",
            )
        columns[role] = column
    return columns


_READERS = {"csv": _read_csv, "dat": _read_dat, "parquet": _read_parquet}


def _as_events(columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    """The columns in the types of `read_events`."""
    ids = {}
    for role in ("user", "item"):
        column = columns[role]
        is_text = _is_text(column) and not (
            pc.all(pc.match_substring_regex(column, _PLAIN_NUMBER)).as_py()
        )
        ids[role] = column.cast(pa.string() if is_text else pa.int64())
    timestamp = columns["timestamp"].cast(pa.int64())
    rating = columns.get("rating", pa.chunked_array([np.ones(len(timestamp), np.float32)]))
    return pa.table(ids | {"rating": rating.cast(pa.float32()), "timestamp": timestamp})


def _is_text(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


# ---------------------------------------------------------------- titles


@dataclass(frozen=True)
class Movie:
    """What a movies file says about one item."""

    title: str  # as published, with its year; "" where there is none
    year: int | None  # from a title that ends in "(1995)"
    genres: list[str]


def read_movies(source: Source) -> dict[int, Movie]:
    """The movies of a MovieLens movies.csv or movies.dat by their ids, the first of equal ones.

    Raises:
        DataError: names file and line, the value found there, and the remedy.
    """
    encoding = _encoding(source)
    if source.label.endswith(".dat"):
        header = _MOVIE_COLUMNS
        rows = _movies_dat_rows(source, encoding)
    else:
        rows = _csv_rows(source, encoding)
        header = _csv_header(source, rows)
    for name in _MOVIE_COLUMNS:
        if name not in header:
            raise DataError(
                f"{source.label}, line 1: no column {name!r}; the columns are {', '.join(header)}",
                "Give MovieLens' own movies.csv, or none: titles are optional.",
            )
    places = [header.index(name) for name in _MOVIE_COLUMNS]
    movies: dict[int, Movie] = {}
    for number, fields in rows:
        problem = _wrong_shape(fields, len(header))
        if not problem and not _WHOLE_NUMBER.fullmatch(fields[places[0]]):
            problem = f"movieId is {fields[places[0]]!r}, not a whole number", _CORRECT
        if problem:
            raise DataError(f"{source.label}, line {number}: {problem[0]}", problem[1])
        item_id, title, genres = (fields[place].strip() for place in places)
        year = _YEAR.search(title)
        listed = genres.split("|") if genres not in ("", "(no genres listed)") else []
        movies.setdefault(int(item_id), Movie(title, int(year[1]) if year else None, listed))
    return movies


def _movies_dat_rows(source: Source, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a movies.dat, in whose titles "::" may occur."""
    for number, fields in _dat_rows(source, encoding):
        if len(fields) > len(_MOVIE_COLUMNS):
            fields = [fields[0], "::".join(fields[1:-1]), fields[-1]]
        yield number, fields


def _encoding(source: Source) -> str:
    """UTF-8, or the latin-1 of MovieLens' older releases."""
    with source.open() as stream:
        content = stream.read()
    try:
        content.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


# ---------------------------------------------------------------- the slow path: which row is
# wrong, and why


def _first_problem(table: EventTable) -> DataError | None:
    """The error for the first row that the fast path cannot have liked."""
    for number, fields in _rows(table):
        problem = _wrong_shape(fields, len(table.header)) or _wrong_value(table, fields)
        if problem:
            return DataError(
                f"{table.source.label}, {table.row_word} {number}: {problem[0]}", problem[1]
            )
    return None


def _wrong_shape(fields: list[str], expected: int) -> tuple[str, str] | None:
    if not any(fields):
        return "the line is blank", "Delete the line."
    if len(fields) != expected:
        return (
            f"{len(fields)} fields, expected {expected}",
            "The file is cut off there, or a text with a separator in it is not quoted: "
            + _CORRECT.lower(),
        )
    return None


def _wrong_value(table: EventTable, fields: list[str]) -> tuple[str, str] | None:
    """What is wrong with the first bad value of a row, and the remedy."""
    for role, name in table.names.items():
        text = fields[table.header.index(name)]
        if text.strip() == "":
            return f"{name} is empty", _CORRECT
        if role in ("user", "item"):
            if table.integer_ids and not _WHOLE_NUMBER.fullmatch(text):
                return (
                    f"{name} is {text!r}, not a whole number as in MovieLens",
                    f"Correct it; if ids are text, give the file by itself. {_NAME_COLUMNS}",
                )
        elif role == "rating":
            try:
                if not math.isfinite(float(text)):
                    return f"{name} is {text!r}, not a finite number", _CORRECT
            except ValueError:
                return f"{name} is {text!r}, not a number", _CORRECT
        elif not _WHOLE_NUMBER.fullmatch(text):
            return f"{name} is {text!r}, not a whole number of seconds", _CORRECT
        elif problem := _wrong_time(name, int(text)):
            return problem
    return None


def _wrong_time(name: str, seconds: int) -> tuple[str, str] | None:
    if seconds < 0:
        return (
            f"{name} is {seconds}, before 1970",
            "Timestamps are seconds since 1970-01-01 UTC: correct them.",
        )
    if seconds <= LATEST_TIMESTAMP:
        return None
    for unit, factor in _FINER_UNITS.items():
        if _EARLIEST_LIKELY <= seconds / factor <= LATEST_TIMESTAMP:
            return (
                f"{name} is {seconds}, which is {unit}, not seconds",
                f"Divide the column by {factor:,}: timestamps are seconds since 1970-01-01 UTC.",
            )
    return (
        f"{name} is {seconds}, after the year 2100",
        "Timestamps are seconds since 1970-01-01 UTC: correct them.",
    )


def _rows(table: EventTable) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table as text, each with its number in the file; a header is line 1."""
    if table.format == "csv":
        return itertools.islice(_csv_rows(table.source), 1, None)
    return _dat_rows(table.source) if table.format == "dat" else _parquet_rows(table)


def _csv_rows(source: Source, encoding: str = "utf-8-sig") -> Iterator[tuple[int, list[str]]]:
    # utf-8-sig: a byte order mark is not part of the first column's name
    with source.open() as stream:
        reader = csv.reader(io.TextIOWrapper(stream, encoding, errors="replace", newline=""))
        before = 0  # the last line of the record before: a quoted field may hold line breaks
        try:
            for fields in reader:
                yield before + 1, fields
                before = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{source.label}, line {before + 1}: no CSV from there on ({error})",
                "Look for a quote that is not closed.",
            ) from error


def _dat_rows(source: Source, encoding: str = "latin-1") -> Iterator[tuple[int, list[str]]]:
    with source.open() as stream:
        for number, line in enumerate(stream, start=1):
            text = line.decode(encoding).rstrip("\r\n")
            yield number, text.split("::") if text else []


def _parquet_rows(table: EventTable) -> Iterator[tuple[int, list[str]]]:
    columns = [column.to_pylist() for column in _read_parquet(table).values()]
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield number, ["" if value is None else str(value) for value in values]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
