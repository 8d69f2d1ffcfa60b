"""Posted events, in SQLite for the workers of one host; `redis_events` has those of several hosts.

Ids are the data set's own, so that events outlive a bundle.
"""

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nanorecsys.serving.errors import ServingError
from server.settings import EVENTS_KEPT

MOST_WAITING = 100  # events of a worker that may wait for the disk
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


class Events:
    """Events by user."""

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        """Store an event; return the number of this user's events that count."""
        raise NotImplementedError

    async def of_user(self, user_id: int | str) -> list[int | str] | None:
        """Item ids of a user's latest `EVENTS_KEPT` events from all workers, oldest first.

        None if they are unknown.
        """
        raise NotImplementedError

    async def failure(self) -> str | None:
        """Why an event could not be stored now, as far as that is found out; else None."""
        return None

    async def close(self) -> None:
        """Close files and connections."""


class EventLog(Events):
    """A log in one SQLite file, which the workers of a host share and which survives a restart.

    An event is on the disk when `append` returns.

    SQLite is asked about every user, also those without an event, which takes some microseconds. A
    worker's own list of the users with events could lack what another worker has just stored.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """

    def __init__(self, path: Path) -> None:
        self._writer, self._reader = open_log(path), open_log(path, timeout_s=1.0)
        self._thread = ThreadPoolExecutor(1, "events")  # one, for one writer
        self._waiting = 0

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        statement = "INSERT INTO events (user_id, item_id, unix_s) VALUES (?, ?, ?)"
        values = (user_id, item_id, time.time())
        if self._waiting == MOST_WAITING:
            raise sqlite3.OperationalError(f"{self._waiting} events wait for the disk")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._writer.execute, statement, values)
        finally:
            self._waiting -= 1
        return len(await self.of_user(user_id))

    async def of_user(self, user_id: int | str) -> list[int | str]:
        statement = "SELECT item_id FROM events WHERE user_id = ? ORDER BY number DESC LIMIT ?"
        latest = self._reader.execute(statement, (user_id, EVENTS_KEPT)).fetchall()
        return [item_id for (item_id,) in reversed(latest)]

    async def close(self) -> None:
        self._thread.shutdown()
        self._writer.close()
        self._reader.close()


def open_log(path: Path, timeout_s: float = 10.0) -> sqlite3.Connection:
    """Open the file, and make it where it is missing.

    Args:
        path: SQLite file.
        timeout_s: Longest wait for another connection, in seconds.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, timeout=timeout_s, isolation_level=None, check_same_thread=False
        )
        connection.executescript(_SCHEMA)
    except (sqlite3.Error, OSError) as error:
        remedy = "Name another file: --events."
        raise ServingError(f"{path}: cannot keep events there: {error}", remedy) from error
    return connection
