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

import polars as pl

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
_WHOLE_NUMBER = re.compile(r"\s*[+-]?\d{1,30}\s*")
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
    header: tuple[str, ...]  # every column
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
    header = _parquet_header(source) if table_format == "parquet" else _csv_header(source)
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


def _csv_header(source: Source) -> tuple[str, ...]:
    _, fields = next(_csv_rows(source), (1, []))
    if any(fields):
        return tuple(fields)
    raise DataError(
        f"{source.label}: the file is empty, it has no header line",
        "Give a CSV whose first line names its columns.",
    )


def _parquet_header(source: Source) -> tuple[str, ...]:
    try:
        return tuple(pl.read_parquet_schema(source.data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{source.label}: not a whole parquet file ({_first_line(error)})",
            "Write it anew, or fetch it again.",
        ) from error


# ---------------------------------------------------------------- events


def read_events(table: EventTable) -> pl.DataFrame:
    """The checked events of a table, in the order of its rows.

    Returns:
        user and item (Int64, or String where an id of that column is not a plain whole number),
        rating Float32 (1.0 where the table has none), timestamp Int64 in seconds.

    Raises:
        DataError: names file and line, what came there, and the remedy.
    """
    try:
        events = _READERS[table.format](table)
    except pl.exceptions.PolarsError as error:
        raise _first_problem(table) or DataError(
            f"{table.source.label}: unreadable ({_first_line(error)})",
            "Check that it is the file you meant.",
        ) from error
    if events.is_empty():
        raise DataError(
            f"{table.source.label}: the table is empty, it has no events",
            "Give a file with the events of two users or more.",
        )
    timestamp = events["timestamp"]
    sound = (
        not any(column.null_count() for column in events)
        and not any(
            (events[role] == "").any()
            for role in ("user", "item")
            if events[role].dtype == pl.String
        )
        and events["rating"].is_finite().all()
        and timestamp.min() >= 0
        and timestamp.max() <= LATEST_TIMESTAMP
    )
    if not sound:
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


def _read_csv(table: EventTable) -> pl.DataFrame:
    id_type = pl.Int64 if table.integer_ids else pl.String
    types = {"user": id_type, "item": id_type, "rating": pl.Float32, "timestamp": pl.Int64}
    frame = pl.read_csv(
        table.source.data,
        columns=list(table.names.values()),
        schema_overrides={name: types[role] for role, name in table.names.items()},
    )
    return _as_events({role: frame[name] for role, name in table.names.items()})


def _read_dat(table: EventTable) -> pl.DataFrame:
    # Polars takes a separator of one byte: "::" is two of them around an empty column
    frame = pl.read_csv(
        table.source.data,
        has_header=False,
        separator=":",
        columns=[0, 2, 4, 6],
        schema_overrides=[
            pl.Int64,
            pl.String,
            pl.Int64,
            pl.String,
            pl.Float32,
            pl.String,
            pl.Int64,
        ],
    )
    return _as_events(dict(zip(table.names, frame.get_columns(), strict=True)))


def _read_parquet(table: EventTable) -> pl.DataFrame:
    return _as_events(dict(zip(table.names, _parquet_columns(table), strict=True)))


_READERS = {"csv": _read_csv, "dat": _read_dat, "parquet": _read_parquet}


def _parquet_columns(table: EventTable) -> list[pl.Series]:
    """The named columns in the order of their roles; ids as integers or text, dates as seconds."""
    frame = pl.read_parquet(table.source.data, columns=list(table.names.values()))
    columns = []
    for role, name in table.names.items():
        column = frame[name]
        if role in ("user", "item") and isinstance(column.dtype, pl.Categorical | pl.Enum):
            column = column.cast(pl.String)
        if role == "timestamp" and isinstance(column.dtype, pl.Datetime | pl.Date):
            column = column.dt.epoch("s")
        is_integer, is_text = column.dtype.is_integer(), column.dtype == pl.String
        if not (is_integer or (is_text and role in ("user", "item")) or role == "rating"):
            raise DataError(
                f"{table.source.label}: column {name!r} has type {column.dtype}, not "
                + (
                    "a whole number of seconds or a date"
                    if role == "timestamp"
                    else "a whole number or text"
                ),
                "Cast the column and write the file anew.",
            )
        columns.append(column)
    return columns


def _as_events(columns: dict[str, pl.Series]) -> pl.DataFrame:
    def ids(column: pl.Series) -> pl.Series:
        if column.dtype == pl.String and not column.str.contains(_PLAIN_NUMBER).all():
            return column
        return column.cast(pl.Int64)

    timestamp = columns["timestamp"].cast(pl.Int64)
    rating = columns.get("rating", pl.repeat(1.0, len(timestamp), eager=True))
    return pl.DataFrame(
        {
            "user": ids(columns["user"]),
            "item": ids(columns["item"]),
            "rating": rating.cast(pl.Float32),
            "timestamp": timestamp,
        }
    )


# ---------------------------------------------------------------- titles


def read_movies(source: Source) -> pl.DataFrame:
    """The movies of a MovieLens movies.csv or movies.dat.

    Returns:
        item_id Int64 (the first of equal ones), title String, year Int16 (from a title that ends in
        "(1995)", else null), genres List(String) ("(no genres listed)" gives an empty list).

    Raises:
        DataError: names file and line, what came there, and the remedy.
    """
    text = _decode(source)
    try:
        raw = _movies_dat(text) if source.label.endswith(".dat") else _movies_csv(source, text)
    except pl.exceptions.PolarsError as error:
        raise _first_bad_movie(source) or DataError(
            f"{source.label}: unreadable ({_first_line(error)})", "Fetch the file again."
        ) from error
    movies = raw.select(
        pl.col("movieId").str.strip_chars().cast(pl.Int64, strict=False).alias("item_id"),
        pl.col("title").str.strip_chars(),
        pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int16).alias("year"),
        pl.when(pl.col("genres") == "(no genres listed)")
        .then(pl.lit([], dtype=pl.List(pl.String)))
        .otherwise(pl.col("genres").str.split("|"))
        .alias("genres"),
    )
    if movies.select(pl.col("item_id", "title", "genres").has_nulls().any()).row(0) != (
        False,
        False,
        False,
    ):
        raise _first_bad_movie(source) or DataError(
            f"{source.label}: a value is missing", "Fetch the file again."
        )
    return movies.unique("item_id", keep="first", maintain_order=True)


def _movies_csv(source: Source, text: str) -> pl.DataFrame:
    header = _csv_header(source)
    for name in _MOVIE_COLUMNS:
        if name not in header:
            raise DataError(
                f"{source.label}, line 1: no column {name!r}; the columns are {', '.join(header)}",
                "Give MovieLens' own movies.csv, or none: titles are optional.",
            )
    return pl.read_csv(text.encode(), columns=list(_MOVIE_COLUMNS), infer_schema=False)


def _movies_dat(text: str) -> pl.DataFrame:
    lines = pl.Series(text.removesuffix("\n").split("\n"))
    return lines.str.extract_groups(
        r"^(?<movieId>[^:]+)::(?<title>.*)::(?<genres>[^:]*?)\r?$"
    ).struct.unnest()


def _first_bad_movie(source: Source) -> DataError | None:
    is_dat = source.label.endswith(".dat")
    header = _MOVIE_COLUMNS if is_dat else _csv_header(source)
    place = header.index("movieId")
    for number, fields in (
        _dat_rows(source) if is_dat else itertools.islice(_csv_rows(source), 1, None)
    ):
        problem = _wrong_shape(fields, len(header))
        if not problem and not _WHOLE_NUMBER.fullmatch(fields[place]):
            problem = f"movieId is {fields[place]!r}, not a whole number", _CORRECT
        if problem:
            return DataError(f"{source.label}, line {number}: {problem[0]}", problem[1])
    return None


def _decode(source: Source) -> str:
    """The text of a file in UTF-8, or in the latin-1 of MovieLens' older releases."""
    with source.open() as stream:
        content = stream.read()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


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
    """The rows of a table as text, each with its number in the file, the header counted as line 1."""
    if table.format == "csv":
        return itertools.islice(_csv_rows(table.source), 1, None)
    return _dat_rows(table.source) if table.format == "dat" else _parquet_rows(table)


def _csv_rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    with source.open() as stream:
        # utf-8-sig: a byte order mark is no part of the first column's name
        reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline=""))
        before = 0  # a record starts in the line after the last one's end: quoted fields hold line breaks
        try:
            for fields in reader:
                yield before + 1, fields
                before = reader.line_num
        except csv.Error as error:
            raise DataError(
                f"{source.label}, line {before + 1}: no CSV from there on ({error})",
                "Look for a quote that is not closed.",
            ) from error


def _dat_rows(source: Source) -> Iterator[tuple[int, list[str]]]:
    with source.open() as stream:
        for number, line in enumerate(stream, start=1):
            text = line.decode("latin-1").rstrip("\r\n")
            yield number, text.split("::") if text else []


def _parquet_rows(table: EventTable) -> Iterator[tuple[int, list[str]]]:
    frame = pl.DataFrame(dict(zip(table.names.values(), _parquet_columns(table), strict=True)))
    places = [table.header.index(name) for name in table.names.values()]
    for number, values in enumerate(frame.iter_rows(), start=1):
        fields = [" "] * len(table.header)
        for place, value in zip(places, values, strict=True):
            fields[place] = "" if value is None else str(value)
        yield number, fields


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
