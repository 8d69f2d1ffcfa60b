"""Posted events: a log in SQLite that the workers of one host share and that survives a restart.

Ids are the data set's own, so that the log outlives a bundle. Every worker keeps the events in
memory by user and reads the rest when the log has grown; checking for that takes microseconds.
"""

import sqlite3
import time
from pathlib import Path

from nanorecsys.serving.errors import ServingError

_TABLE = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user_id NOT NULL, item_id NOT NULL,
    unix_s REAL NOT NULL
)"""


class EventLog:
    """The log in one file.

    `append` may be called from any thread, one at a time; `of_user` from the thread that made this.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """

    def __init__(self, path: Path) -> None:
        self._by_user: dict[int | str, list[int | str]] = {}
        self._last, self._version = 0, -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path, timeout_s=10.0)
            self._writer.execute(_TABLE)
            self._reader = _connect(path, timeout_s=1.0)
            self._read_new()
        except (sqlite3.Error, OSError) as error:
            raise ServingError(
                f"{path}: cannot keep events there: {error}", "Name another file: --events."
            ) from error

    def append(self, user_id: int | str, item_id: int | str) -> None:
        """Store an event. It is on the disk when this returns."""
        self._writer.execute(
            "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)",
            (user_id, item_id, time.time()),
        )

    def of_user(self, user_id: int | str) -> list[int | str]:
        """Item ids of a user's events, oldest first, from all workers."""
        self._read_new()
        return self._by_user.get(user_id, [])

    def _read_new(self) -> None:
        version = self._reader.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        for number, user_id, item_id in self._reader.execute(
            "SELECT number, user_id, item_id FROM events WHERE number > ? ORDER BY number",
            (self._last,),
        ):
            # A new list each time: a request may hold the old one.
            self._by_user[user_id] = [*self._by_user.get(user_id, ()), item_id]
            self._last = number
        self._version = version

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    # With the write-ahead log readers and the writer do not wait for each other. FULL syncs each
    # event to the disk.
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
    return connection
