"""Posted events: a log in SQLite that the workers of one host share, and that a restart keeps.

Ids are the data set's own, so that the log outlives a bundle. Every worker keeps the log's events
in memory by user, and reads on where the log has grown; asking whether it has costs microseconds.
"""

import sqlite3
import time
from pathlib import Path

from server.errors import SettingsError

_TABLE = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user_id NOT NULL, item_id NOT NULL, unix_s REAL NOT NULL
)"""


class EventLog:
    """The log in one file.

    `append` may be called from one thread at a time, any one; `of_user` belongs to the thread that
    made the log.

    Raises:
        SettingsError: the file cannot be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path, timeout=10.0)
            self._writer.execute(_TABLE)
            self._reader = _connect(path, timeout=1.0)
            self._by_user: dict[int | str, list[int | str]] = {}
            self._last, self._version = 0, -1
            self._read_on()
        except (sqlite3.Error, OSError) as error:
            raise SettingsError(
                f"{path}: cannot keep events there: {error}", "Name another file: --events"
            ) from error

    def append(self, user_id: int | str, item_id: int | str) -> None:
        """Store an event; it is on the disk when this returns."""
        self._writer.execute(
            "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)",
            (user_id, item_id, time.time()),
        )

    def of_user(self, user_id: int | str) -> list[int | str]:
        """Item ids of a user's events, oldest first, those of other workers included."""
        self._read_on()
        return self._by_user.get(user_id, [])

    def _read_on(self) -> None:
        version = self._reader.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        rows = self._reader.execute(
            "SELECT number, user_id, item_id FROM events WHERE number > ? ORDER BY number",
            (self._last,),
        )
        for number, user_id, item_id in rows:
            # a new list, not a longer one: requests at work hold the old
            self._by_user[user_id] = [*self._by_user.get(user_id, ()), item_id]
            self._last = number
        self._version = version

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout, isolation_level=None, check_same_thread=False
    )
    # in the write-ahead log readers and the writer do not wait for each other; FULL syncs each
    # event to the disk
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection
