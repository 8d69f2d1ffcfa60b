"""Posted events: a log in SQLite that the workers of one host share and that survives a restart.

Ids are the data set's own, so that the log outlives a bundle. Reading a user's events takes
microseconds.
"""

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
        except (sqlite3.Error, OSError) as error:
            remedy = "Name another file: --events."
            raise ServingError(f"{path}: cannot keep events there: {error}", remedy) from error

    def append(self, user_id: int | str, item_id: int | str) -> None:
        """Store an event. It is on the disk when this returns."""
        statement = "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)"
        self._writer.execute(statement, (user_id, item_id, time.time()))

    def of_user(self, user_id: int | str) -> list[int | str]:
        """Item ids of a user's events, oldest first, from all workers."""
        statement = "SELECT item_id FROM events WHERE user_id = ? ORDER BY number"
        return [item_id for (item_id,) in self._reader.execute(statement, (user_id,))]

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    connection.executescript(_SCHEMA)
    return connection
