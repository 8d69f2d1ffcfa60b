"""Posted events: a log in SQLite that the workers of one host share and that survives a restart.

Ids are the data set's own, so that the log outlives a bundle.

Most users have no event, and asking SQLite about each of them would cost a tenth of a cached
answer. So every worker knows the users with events, and asks SQLite for those alone. It looks for
new ones when the file of SQLite's write-ahead log has changed, and each second in any case: the
time of a change is coarse.
"""

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from nanorecsys.serving.errors import ServingError

LOOK_S = 1.0  # age of the last look for new users at which a worker looks again
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
# By number: the index, in the order of users, would be read as a whole.
_NEW = "SELECT user_id, MAX(number) FROM events NOT INDEXED WHERE number > ? GROUP BY user_id"


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
        self._ahead = f"{path.resolve()}-wal"
        self._users: set[int | str] = set()
        self._latest = 0  # number of the latest event when the users were read
        self._changed, self._look_at = (0, 0), 0.0

    def append(self, user_id: int | str, item_id: int | str) -> None:
        """Store an event. It is on the disk when this returns."""
        statement = "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)"
        self._writer.execute(statement, (user_id, item_id, time.time()))
        self._users.add(user_id)

    def of_user(self, user_id: int | str) -> list[int | str]:
        """Item ids of a user's events, oldest first, from all workers."""
        self._look()
        if user_id not in self._users:
            return []
        statement = "SELECT item_id FROM events WHERE user_id = ? ORDER BY number"
        return [item_id for (item_id,) in self._reader.execute(statement, (user_id,))]

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()

    def _look(self) -> None:
        """Read the users with new events if there may be some."""
        changed, now = self._changed, time.monotonic()
        with suppress(OSError):  # then time decides alone
            status = os.stat(self._ahead)
            changed = status.st_mtime_ns, status.st_size
        if changed != self._changed or now > self._look_at:
            found = dict(self._reader.execute(_NEW, (self._latest,)).fetchall())
            self._users.update(found)
            self._latest = max(found.values(), default=self._latest)
            self._changed, self._look_at = changed, now + LOOK_S


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    connection.executescript(_SCHEMA)
    return connection
