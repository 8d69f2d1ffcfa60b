"""Posted events: a log in SQLite that the workers of one host share and that survives a restart.

Ids are the data set's own, so that the log outlives a bundle.

Most users have no event, and asking SQLite about each of them would cost a tenth of a cached
answer. So every worker knows the users with events, and asks SQLite for those alone. The number of
the latest event stands in a small mapped file, which tells the other workers of a new event.
"""

import mmap
import sqlite3
import time
from pathlib import Path

from nanorecsys.serving.errors import ServingError

# With the write-ahead log readers and writers do not wait for each other. FULL syncs each event to
# the disk.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user_id NOT NULL, item_id NOT NULL,
    unix_s REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_user ON events (user_id, number, item_id);
"""


class EventLog:
    """The log in one file. One thread at a time may append, while another reads.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer, self._reader = _connect(path, timeout_s=10.0), _connect(path, 1.0)
            self._latest = _mapped_number(path.with_name(f"{path.name}-latest"))
        except (sqlite3.Error, OSError) as error:
            remedy = "Name another file: --events."
            raise ServingError(f"{path}: cannot keep events there: {error}", remedy) from error
        self._users: set[int | str] = set()
        self._known = -1  # latest event when the users were read

    def append(self, user_id: int | str, item_id: int | str) -> None:
        """Store an event. It is on the disk when this returns."""
        statement = "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)"
        written = self._writer.execute(statement, (user_id, item_id, time.time()))
        self._latest[0] = written.lastrowid or 0

    def of_user(self, user_id: int | str) -> list[int | str]:
        """Item ids of a user's events, oldest first, from all workers."""
        if (latest := self._latest[0]) != self._known:
            statement = "SELECT DISTINCT user_id FROM events WHERE number > ?"
            self._users.update(user for (user,) in self._reader.execute(statement, (self._known,)))
            self._known = latest
        if user_id not in self._users:
            return []
        statement = "SELECT item_id FROM events WHERE user_id = ? ORDER BY number"
        return [item_id for (item_id,) in self._reader.execute(statement, (user_id,))]

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()
        self._latest.release()


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    connection.executescript(_SCHEMA)
    return connection


def _mapped_number(path: Path) -> memoryview:
    """An integer in a file that processes share; 0 in a new one."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate(8)
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
