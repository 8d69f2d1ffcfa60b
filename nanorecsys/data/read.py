"""Events and titles from files: delimited text of any dialect, parquet, and MovieLens layouts.

Arrow parses a text in one go. Python's csv module, which is strict about quotes, reads the same
text row by row where Arrow refuses it, where a line holds no row, and to find the line of an error.
"""

import codecs
import csv
import io
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from nanorecsys.data.errors import DataError

BLOCK_BYTES = 8 * 2**20  # size of the blocks that text is parsed in
HEAD_BYTES = 2**16  # size of the part that shows the dialect
# 2100-01-01 in seconds: a later timestamp is a mistake or has another unit.
LATEST_TIMESTAMP = 4_102_444_800
# 1980-01-01: a later time in a finer unit is taken for one in that unit.
EARLIEST_LIKELY = 315_532_800
FINER_UNITS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
REQUIRED_ROLES = ("user", "item", "timestamp")
# Names of each role's column in lower case, the preferred first.
KNOWN_COLUMNS = {
    "user": ("user", "userid", "user_id"),
    "item": ("item", "movieid", "movie_id", "itemid", "item_id"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
}
MOVIELENS_COLUMNS = ("userId", "movieId", "rating", "timestamp")
MOVIE_COLUMNS = ("movieId", "title", "genres")
RATINGS_FILE = re.compile(r"([^/]+/)?(ratings?\.(csv|dat)|u\.data)(\.gz)?")
PART_FILE = re.compile(r"([^/_.][^/]*/)?(part-[^/]+|[^/_.][^/]*\.parquet)")  # as Spark names them
RECBOLE_TYPE = re.compile(r":(token|float)(_seq)?$")
NUMBER = re.compile(r"\s*[-+]?([0-9.]+(e[-+]?[0-9]+)?|inf|infinity|nan)\s*", re.IGNORECASE)
WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,30})(\.0+)?")
# A text that is the only way to write its number: the ids "7" and "007" are different. pandas
# writes 7.0 in a column where a value was missing.
PLAIN_NUMBER = r"^(0|-?[1-9][0-9]{0,17})(\.0+)?$"
DATE = re.compile(r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]+(Z|[-+][0-9:]+)?)?\s*")
YEAR = re.compile(r"\(([0-9]{4})\)$")
MISSING = ("", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "\\N", "n/a", "nan", "null")
NAME_COLUMNS = (
    "Name its columns: columns=user=...,item=...,timestamp=... and, where there is one, rating=..."
)
CORRECT = "Correct or delete it, or fetch the file again."
SAMPLE_BYTES = 1 << 20  # beginning of a text whose lines are counted for an estimate
COMPRESSION = 4  # times as large as its file that a compressed text is taken to be
SAVE_AS_UTF_8 = "Save it as text in UTF-8, or as parquet with the ending .parquet."

Rows = Iterator[tuple[int, list[str]]]  # line number and fields
Columns = dict[str, pa.ChunkedArray]  # by role
Types = dict[str, pa.DataType]  # by role


@dataclass(frozen=True)
class DataFile:
    """A file or the content of a zip's member, with its name for errors."""

    label: str
    data: Path | bytes

    @property
    def is_parquet(self) -> bool:
        return self.label.lower().endswith(".parquet")

    @property
    def size(self) -> int:
        """Size in bytes, before any decompression."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size

    def open(self) -> BinaryIO:
        """The content as a stream: decompressed, and in UTF-8 where the file is UTF-16."""
        stream = io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data.open("rb")
        start = stream.read(4)
        stream.seek(0)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            with stream:
                return io.BytesIO(stream.read().decode("utf-16", "replace").encode())
        for magic, codec in COMPRESSIONS.items():
            if start.startswith(magic):
                return pa.CompressedInputStream(stream, codec)
        return stream

    def error(self, message: str, remedy: str = CORRECT, line: int = 0) -> DataError:
        return DataError(f"{self.label}{f', line {line}' if line else ''}: {message}", remedy)


@dataclass(frozen=True)
class EventTable:
    """A table of events whose columns are known and whose rows are not read yet."""

    source: DataFile
    names: dict[str, str]  # role: column, for user, item, timestamp and, where there is one, rating
    header: tuple[str, ...]  # the columns of a row
    integer_ids: bool  # MovieLens; elsewhere ids may be text
    separator: str = ","
    first_line: int = 2  # number of the first event's line
    more: tuple["EventTable", ...] = ()  # further parts of the table

    def rows(self) -> Rows:
        """The rows by Python's csv module, with the errors of `_rows`."""
        lines = _lines(self.source, self.separator)
        return _rows(self.source, lines, len(self.header), self.first_line)

    def row_numbers(self) -> Iterable[int]:
        """The number of each row in a parquet file, or of its line in a text."""
        if not self.source.is_parquet:
            return (number for number, _ in self.rows())
        with self.source.open() as stream:
            return range(1, parquet.read_metadata(stream).num_rows + 1)


# ---------------------------------------------------------------- files and columns


def find_events(path: Path) -> tuple[list[DataFile], DataFile | None]:
    """Find the files of events and, if any, the movies file: of a folder or zip, or a single file.

    In a folder or zip, the events are in one ratings file in MovieLens layout, or in the parts of
    one table as Spark writes them, at its top or one folder deep. Members of a zip are read into
    memory, so nothing is left on disk.

    Raises:
        DataError: no such file, several ratings files, or a zip that is truncated or damaged.
    """
    if path.is_dir():
        files = {f.relative_to(path).as_posix(): f for f in (*path.glob("*"), *path.glob("*/*"))}
        events, movies = _layout(path, list(files))
        found = [DataFile(str(files[name]), files[name]) for name in (*events, *movies)]
    elif path.suffix.lower() != ".zip":
        return [DataFile(str(path), path)], None
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                events, movies = _layout(path, archive.namelist())
                members = {name: archive.read(name) for name in (*events, *movies)}
        # RuntimeError: an encrypted zip
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise DataError(
                f"{path}: not a whole zip file ({error})",
                "It was truncated or damaged on its way: fetch it again.",
            ) from error
        found = [DataFile(f"{path}:{name}", data) for name, data in members.items()]
    return found[: len(events)], found[-1] if movies else None


def estimate_rows(path: Path) -> int:
    """Rows of a folder or file of events before it is parsed, for an estimate of memory.

    The number is exact for parquet and small texts, otherwise by the length of the first lines. It
    is 0 where the table cannot be read, since reading it gives the reason.
    """
    try:
        if path.suffix.lower() == ".zip" and path.is_file():
            with zipfile.ZipFile(path) as archive:
                events, _ = _layout(path, archive.namelist())
                members = ((n, archive.open(n), archive.getinfo(n).file_size) for n in events)
                return sum(_rows_of(*member) for member in members)
        return sum(_rows_of(f.label, f.open(), f.size) for f in find_events(path)[0])
    except (DataError, pa.ArrowException, OSError, zipfile.BadZipFile, zlib.error, RuntimeError):
        return 0


def _rows_of(name: str, stream: IO[bytes], size: int) -> int:
    """Rows of a file: exact for parquet, else by the length of its first lines; not unpacked."""
    with stream:
        if name.lower().endswith(".parquet"):
            return parquet.read_metadata(stream).num_rows
        head = stream.read(SAMPLE_BYTES)
    size *= COMPRESSION if isinstance(stream, pa.CompressedInputStream) else 1
    lines = max(head.count(b"\n"), head.count(b"\r"))
    return lines if len(head) < SAMPLE_BYTES else size * lines // len(head)


def _layout(path: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """The names of the files of events and, where it is there, of the movies file beside them."""
    ratings = sorted(filter(RATINGS_FILE.fullmatch, names))
    parts = sorted(filter(PART_FILE.fullmatch, names))
    if parts and not ratings:
        return parts, []
    if len(ratings) != 1:
        several = f"{len(ratings)} ratings files ({', '.join(ratings)})"
        raise DataError(
            f"{path}: {several if ratings else 'no ratings.csv or ratings.dat'} "
            "at its top or one folder deep, expected one",
            "Give a folder or zip with one data set in MovieLens layout or with parquet parts, or "
            f"any other table as a .csv or .parquet file. {NAME_COLUMNS}",
        )
    file = PurePosixPath(ratings[0])
    movies = file.with_name(file.name.replace("rating", "movie").replace("u.data", "u.item"))
    return ratings, [str(movies)] if str(movies) in names else []


def open_events(
    source: DataFile, columns: str | None = None, more: Iterable[DataFile] = ()
) -> EventTable:
    """Find out the format of a file of events, and which column is what.

    Args:
        source: Parquet where its name ends so, otherwise delimited text. Text has a header line,
            except a `.dat` or `.data` that begins with numbers: MovieLens' user, item, rating,
            timestamp.
        columns: Column names such as "user=uid,item=sku,timestamp=t", with rating=... where there
            is one. By default user,item,timestamp and, if present, rating, or the names in
            `KNOWN_COLUMNS`; ids are integers where they are MovieLens' own userId,movieId.
        more: Further files of the same table.

    Raises:
        DataError: empty or unreadable file, missing column, or `columns` that makes no sense.
    """
    if source.is_parquet:
        separator, header, first_line = "", _parquet_header(source), 0
    else:
        separator, header, first_line = _sniff(source)
    names = _parse_columns(columns) if columns is not None else {}
    lowered = {name.lower(): name for name in header}
    for role, known in KNOWN_COLUMNS.items() if columns is None else ():
        found = [lowered[name] for name in known if name in lowered]
        if found or role in REQUIRED_ROLES:
            names[role] = [*found, known[0]][0]
    for name in names.values():
        if (count := header.count(name)) != 1:
            found_columns = f"{'two columns' if count else 'no column'} {name!r}; the columns are "
            remedy = f"{NAME_COLUMNS}. The separator is one of , ; | :: and tab."
            raise source.error(
                found_columns + ", ".join(header), remedy, int(not source.is_parquet)
            )
    is_movielens = columns is None and (names["user"], names["item"]) == MOVIELENS_COLUMNS[:2]
    parts = tuple(open_events(part, columns) for part in more)
    return EventTable(source, names, header, is_movielens, separator, first_line, parts)


def _parse_columns(columns: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in columns.split(",")]
    names = {role.strip(): name.strip() for role, _, name in pairs}
    roles_fit = set(REQUIRED_ROLES) <= names.keys() <= KNOWN_COLUMNS.keys()
    if not roles_fit or not all(names.values()) or len(set(names.values())) < len(pairs):
        raise DataError(
            f"columns={columns!r} does not name one column each for user, item, timestamp "
            "and, if any, rating",
            "Write it like user=uid,item=sku,timestamp=t "
            "or user=uid,item=sku,rating=stars,timestamp=t.",
        )
    return names


def _sniff(source: DataFile) -> tuple[str, tuple[str, ...], int]:
    """The separator, the columns, and the number of the line below the header."""
    with source.open() as stream:
        head = stream.read(HEAD_BYTES)
    if b"\0" in head:
        raise source.error(f"not text in UTF-8, it begins with {head[:8]!r}", SAVE_AS_UTF_8)
    line = re.split(r"[\r\n]", head.decode("utf-8-sig", "replace"), maxsplit=1)[0]
    if not line.strip():
        remedy = "Give a table whose first line names its columns."
        raise source.error("the file is empty, it has no header line", remedy)
    unquoted = re.sub('"[^"]*"', "", line)
    separators = [separator for separator in ("::", "\t") if separator in unquoted]
    separator = [*separators, max(",;|", key=unquoted.count)][0]
    rows = _lines(source, separator)
    _, fields = next(rows)
    is_headerless = {".dat", ".data"} & set(PurePosixPath(source.label.lower()).suffixes)
    if is_headerless and all(map(NUMBER.fullmatch, fields)):
        return separator, MOVIELENS_COLUMNS, 1
    header = tuple(RECBOLE_TYPE.sub("", field.strip()) for field in fields)
    return separator, header, next(rows, (2, []))[0]


def _parquet_header(source: DataFile) -> tuple[str, ...]:
    try:
        with source.open() as stream:
            return tuple(parquet.read_schema(stream).names)
    except (pa.ArrowException, OSError) as error:
        found = f"not a whole parquet file ({str(error).splitlines()[0]})"
        raise source.error(found, "Write it again, or fetch it again.") from error


# ---------------------------------------------------------------- events


def read_events(table: EventTable) -> pa.Table:
    """Read and check the events of a table, in the order of its rows.

    Returns:
        user and item (int64, or string where an id of that column is not a plain whole number),
        rating float32 (1.0 where the table has none), timestamp int64 in seconds, or Arrow's
        timestamp in nanoseconds where the table has dates and times.

    Raises:
        DataError: names file and line, the value found there, and the remedy.
    """
    events = pa.concat_tables(
        pa.table(_read_parquet(part) if part.source.is_parquet else _read_text(part))
        for part in (table, *table.more)
    )
    if not len(events):
        remedy = "Give a file with the events of two users or more."
        raise table.source.error("the table is empty, it has no events", remedy)
    columns = {role: _as_ids(events[role]) for role in ("user", "item")}
    ones = pa.chunked_array([np.ones(len(events), np.float32)])
    columns["rating"] = events["rating"] if "rating" in table.names else ones
    return pa.table(columns | {"timestamp": events["timestamp"]})


def name_rows(table: EventTable, indices: Iterable[int]) -> str:
    """Name the file and the lines (or rows) of events, given by their index in `read_events`."""
    wanted, found = set(indices), defaultdict(list)
    numbers = ((part, number) for part in (table, *table.more) for number in part.row_numbers())
    for index, (part, number) in zip(range(max(wanted) + 1), numbers, strict=False):
        if index in wanted:
            word = "row" if part.source.is_parquet else "line"
            found[f"{part.source.label}, {word}"].append(str(number))
    return "; ".join(
        f"{place}{'s' * (len(rows) > 1)} {' and '.join(rows)}" for place, rows in found.items()
    )


def _read_parquet(table: EventTable) -> Columns:
    """The named columns; ids are whole numbers or text, timestamps whole numbers or dates."""
    with table.source.open() as stream:
        read = parquet.ParquetFile(stream).read(columns=list(table.names.values()))
    columns, types = {}, {"rating": pa.float32()}
    for role, name in table.names.items():
        column = read[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if role in ("user", "item") and _is_text(column) and not table.integer_ids:
            types[role] = pa.string()
        elif role == "timestamp" and pa.types.is_temporal(column.type):
            types[role] = pa.timestamp("ns")
        columns[role] = column
        types.setdefault(role, pa.int64())
    return _checked(table, columns, types)


def _read_text(table: EventTable) -> Columns:
    """The named columns of delimited text."""
    types = dict.fromkeys(("user", "item"), pa.int64() if table.integer_ids else pa.string())
    types |= {"rating": pa.float32(), "timestamp": pa.int64()}
    try:
        columns = _parse(table, types)
        return {role: _typed(role, column, types[role]) for role, column in columns.items()}
    except ValueError:  # Arrow's errors are ValueErrors
        pass
    try:
        columns = _parse(table, dict.fromkeys(types, pa.string()))
    except ValueError:
        number = 0
        for number, fields in table.rows():
            if "\ufffd" in "".join(fields):
                raise table.source.error("not text in UTF-8", SAVE_AS_UTF_8, number) from None
        if number:
            raise
        return {role: pa.array([], types[role]) for role in table.names}
    if date := DATE.fullmatch("".join(columns["timestamp"][:1].to_pylist())):
        types["timestamp"] = pa.timestamp("ns", "UTC" if date[2] else None)
    return _checked(table, columns, types)


def _parse(table: EventTable, types: Types) -> Columns:
    """The named columns by Arrow.

    Raises:
        pa.ArrowInvalid: a row has the wrong number of fields, or a value another type.
        DataError: there are not as many rows as lines, because the quotes are wrong.
    """
    numbers, skip = [str(place) for place in range(len(table.header))], table.first_line - 1
    places = {role: numbers[table.header.index(name)] for role, name in table.names.items()}
    kinds = {place: types[role] for role, place in places.items()}
    is_quoted = table.separator != "::"
    with table.source.open() as stream:
        if not is_quoted:  # Arrow takes a separator of one byte
            stream = io.BytesIO(stream.read().replace(b"::", b"\x1f"))
        read = arrow_csv.read_csv(
            stream,
            arrow_csv.ReadOptions(column_names=numbers, skip_rows=skip, block_size=BLOCK_BYTES),
            arrow_csv.ParseOptions(
                delimiter=table.separator if is_quoted else "\x1f",
                quote_char='"' if is_quoted else False,
                newlines_in_values=len(table.header) > len(table.names),
                invalid_row_handler=lambda row: "error" if row.text.strip() else "skip",
            ),
            arrow_csv.ConvertOptions(column_types=kinds, include_columns=kinds, null_values=[""]),
        )
    if len(read) != _line_count(table.source) - skip and len(read) != sum(1 for _ in table.rows()):
        raise pa.ArrowInvalid("its quotes are not those of RFC 4180")
    return {role: read[place] for role, place in places.items()}


def _line_count(source: DataFile) -> int:
    """Number of lines up to the last that is not blank."""
    lines, tail = 1, b""
    with source.open() as stream:
        while block := stream.read(BLOCK_BYTES):
            lines += block.count(b"\n")
            tail = (tail + block)[-HEAD_BYTES:]
    return lines - tail[len(tail.rstrip(b"\r\n")) :].count(b"\n")


def _rows(source: DataFile, lines: Rows, width: int, first_line: int) -> Rows:
    """The rows of a text below its header; blank lines at its end are nothing.

    Raises:
        DataError: names the line with wrong quotes, the wrong number of fields, or nothing in it.
    """
    blank = 0
    for number, fields in lines:
        if number < first_line:
            continue
        if not "".join(fields).strip():
            blank = blank or number
        elif blank:
            raise source.error("the line is blank", "Delete the line.", blank)
        elif len(fields) != width:
            remedy = "The file is cut off there, or a text with a separator in it is not quoted: "
            found = f"{len(fields)} fields, expected {width}"
            raise source.error(found, remedy + CORRECT.lower(), number)
        else:
            yield number, fields


def _lines(source: DataFile, separator: str, errors: str = "replace") -> Rows:
    """The fields of each record of a text, with the number of its first line."""
    with io.TextIOWrapper(source.open(), "utf-8-sig", errors, newline="") as stream:
        if separator == "::":
            for number, line in enumerate(stream, start=1):
                yield number, line.rstrip("\r\n").split(separator)
            return
        reader = csv.reader(stream, delimiter=separator, strict=True)
        before = 0  # last line of the previous record: a quoted field may hold line breaks
        try:
            for fields in reader:
                yield before + 1, fields
                before = reader.line_num
        except csv.Error as error:
            found = f"not valid CSV from here ({error})"
            raise source.error(found, "Look for a quote that is not closed.", before + 1) from error


# ---------------------------------------------------------------- values


def _checked(table: EventTable, columns: Columns, types: Types) -> Columns:
    """The columns in their final types; see `_typed`.

    Raises:
        DataError: names the line of the first value that is refused.
    """
    checked, refused = {}, []
    for role, column in columns.items():
        try:
            checked[role] = _typed(role, column, types[role])
        except ValueError:
            good, bad = 0, len(column)  # column[:good] is accepted, and column[:bad] is refused
            while bad - good > 1:
                middle = (good + bad) // 2
                try:
                    _typed(role, column[good:middle], types[role])
                    good = middle
                except ValueError:
                    bad = middle
            refused.append((good, role))
    if refused:
        index, role = min(refused, key=lambda place: place[0])
        value = columns[role][index].as_py()
        text = "" if value is None else str(value).strip()
        message, remedy = _problem(table.names[role], role, text, types[role])
        raise DataError(f"{name_rows(table, [index])}: {message}", remedy)
    return checked


def _typed(role: str, column: pa.ChunkedArray, final: pa.DataType) -> pa.ChunkedArray:
    """A column in its final type; times of a day become nanoseconds in UTC.

    Raises:
        ValueError: a value is missing, of another type or out of range.
    """
    refused = pc.is_null(column)
    if _is_text(column):
        column = pc.ascii_trim_whitespace(column)
        if final == pa.int64():
            column = pc.replace_substring_regex(column, r"\.0+$", "")
        if role in ("user", "item"):
            refused = pc.is_in(column, pa.array(MISSING))
    column = column.cast(final)
    if role == "rating":
        refused = pc.invert(pc.is_finite(column))
    elif role == "timestamp":
        seconds = column
        if final != pa.int64():
            column = column.cast(pa.timestamp("ns"))
            seconds = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        refused = pc.or_(pc.less(seconds, 0), pc.greater(seconds, LATEST_TIMESTAMP))
    if column.null_count or pc.any(refused).as_py():
        raise ValueError
    return column


def _problem(name: str, role: str, text: str, final: pa.DataType) -> tuple[str, str]:
    """What is wrong with a value that `_typed` refuses, and the remedy."""
    found, whole = f"{name} is {text!r}", WHOLE_NUMBER.fullmatch(text)
    if not text:
        return f"{name} is empty", CORRECT
    if role == "rating":
        return f"{found}, not a {'finite ' * bool(NUMBER.fullmatch(text))}number", CORRECT
    if role != "timestamp":
        if text in MISSING:
            remedy = "Delete the line, or give this id another name."
            return f"{found}, which marks a missing value", remedy
        remedy = f"Correct it; if ids are text, give the file by itself. {NAME_COLUMNS}"
        return f"{found}, not a whole number as in MovieLens", remedy
    if final != pa.int64():
        return f"{found}, not a date and time from 1970 to 2099 like the first one", CORRECT
    for unit, factor in FINER_UNITS.items():
        if whole and EARLIEST_LIKELY <= int(whole[1]) / factor <= LATEST_TIMESTAMP:
            remedy = "Divide the column by {:,}: timestamps are seconds since 1970-01-01 UTC."
            return f"{found}, which is {unit}, not seconds", remedy.format(factor)
    remedy = "Write all of them as seconds since 1970-01-01 UTC or like 2005-04-02 23:53:47."
    return f"{found}, not a whole number of seconds from 1970 to 2099", remedy


def _as_ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """int64 if every id is a plain whole number, else string."""
    if _is_text(column):
        if not pc.all(pc.match_substring_regex(column, PLAIN_NUMBER)).as_py():
            return column
        if pc.any(pc.match_substring(column, ".")).as_py():
            column = pc.replace_substring_regex(column, r"\.0+$", "")
    return column.cast(pa.int64())


def _is_text(column: pa.ChunkedArray) -> bool:
    return column.type in (pa.string(), pa.large_string(), pa.string_view())


# ---------------------------------------------------------------- titles


class Movie(NamedTuple):
    """What a movies file says about an item."""

    title: str  # as published, with its year; "" where there is none
    year: int | None  # from a title that ends in "(1995)"
    genres: list[str]


def _latin_1(error: Any) -> tuple[str, int]:
    """The bytes that are not UTF-8 as latin-1: the encoding of MovieLens' older releases."""
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("latin-1", _latin_1)


def read_movies(source: DataFile) -> dict[int, Movie]:
    """Read MovieLens' movies.csv, movies.dat or u.item: movies by id, the first of those with one.

    Titles and genres are optional. The genres of u.item are not read.

    Raises:
        DataError: names file and line, the value found there, and the remedy.
    """
    separator, header, first_line = _sniff(source)
    lines = _lines(source, separator, "latin-1")
    if separator == "::":
        header, first_line = MOVIE_COLUMNS, 1
        # a title may contain "::"
        lines = ((n, [*row[:1], "::".join(row[1:-1]), *row[2:][-1:]]) for n, row in lines)
    elif separator == "|":
        header, first_line = (*MOVIE_COLUMNS[:2], *header[2:]), 1
    if "movieId" not in header:
        found = f"no column 'movieId'; the columns are {', '.join(header)}"
        remedy = "Give MovieLens' own movies.csv, or none: titles are optional."
        raise source.error(found, remedy, 1)
    movies: dict[int, Movie] = {}
    for number, fields in _rows(source, lines, len(header), first_line):
        values = dict(zip(header, map(str.strip, fields), strict=True))
        raw_id, title = values["movieId"], values.get("title", "")
        if not (item_id := WHOLE_NUMBER.fullmatch(raw_id)):
            raise source.error(f"movieId is {raw_id!r}, not a whole number", line=number)
        year = YEAR.search(title)
        genres = [genre.strip() for genre in values.get("genres", "").split("|")]
        listed = [genre for genre in genres if genre not in ("", "(no genres listed)")]
        movies.setdefault(int(item_id[1]), Movie(title, int(year[1]) if year else None, listed))
    return movies
