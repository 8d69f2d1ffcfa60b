"""Posted events, in SQLite for the workers of one host; `redis_events` has those of several hosts.

Ids are the data set's own, so that events outlive a bundle.
"""

import asyncio
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
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


class Events:
    """Events by user."""

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        """Store an event; return the number of events stored of this user."""
        raise NotImplementedError

    async def of_user(self, user_id: int | str) -> list[int | str] | None:
        """Item ids of a user's events from all workers, oldest first; None if they are unknown."""
        raise NotImplementedError

    async def failure(self) -> str | None:
        """Why an event could not be stored now, as far as that is found out; else None."""
        return None

    async def close(self) -> None:
        """Close files and connections."""


class EventLog(Events):
    """A log in one SQLite file, which the workers of a host share and which survives a restart.

    An event is on the disk when `append` returns.

    Most users have no event, and asking SQLite about each of them would cost a tenth of a cached
    answer. So every worker knows the users with events, and asks SQLite for those alone. It looks
    for new ones when the file of SQLite's write-ahead log has changed, and each second in any case:
    the time of a change is coarse.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """

    def __init__(self, path: Path) -> None:
        self._writer, self._reader = _open(path)
        self._thread = ThreadPoolExecutor(1, "events")  # one, for one writer
        self._ahead = f"{path.resolve()}-wal"
        self._users: set[int | str] = set()
        self._latest = 0  # number of the latest event when the users were read
        self._changed, self._look_at = (0, 0), 0.0

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        statement = "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)"
        values = (user_id, item_id, time.time())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._writer.execute, statement, values)
        self._users.add(user_id)
        return len(await self.of_user(user_id))

    async def of_user(self, user_id: int | str) -> list[int | str]:
        self._look()
        if user_id not in self._users:
            return []
        statement = "SELECT item_id FROM events WHERE user_id = ? ORDER BY number"
        return [item_id for (item_id,) in self._reader.execute(statement, (user_id,))]

    async def close(self) -> None:
        self._thread.shutdown()
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


def make_log(path: Path) -> None:
    """Make the file, once before several workers would race to make it.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """
    for connection in _open(path):
        connection.close()


def _open(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """Open a connection to write and one to read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _connect(path, timeout_s=10.0), _connect(path, timeout_s=1.0)
    except (sqlite3.Error, OSError) as error:
        remedy = "Name another file: --events."
        raise ServingError(f"{path}: cannot keep events there: {error}", remedy) from error


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    connection.executescript(_SCHEMA)
    return connection
