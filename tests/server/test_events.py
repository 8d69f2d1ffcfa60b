"""Events are on the disk when acknowledged, and every worker sees them. 1 s."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from nanorecsys.serving.errors import ServingError
from server import events
from server.events import EventLog, open_log


def test_an_event_is_seen_by_all_and_kept(tmp_path):
    async def main():
        one, other = EventLog(tmp_path / "log"), EventLog(tmp_path / "log")
        assert await one.append(7, "a") == 1
        assert await other.append(7, 3) == 2
        assert await one.append("seven", 4) == 1
        for log in (one, other):
            assert await log.of_user(7) == ["a", 3]
            assert await log.of_user("seven") == [4]  # 7 and "7" are two users
            assert await log.of_user("7") == []
            await log.close()
        again = EventLog(tmp_path / "log")
        assert await again.of_user(7) == ["a", 3]
        await again.close()

    asyncio.run(main())


def test_an_event_is_read_at_once_by_a_worker_that_looks_all_the_time(tmp_path):
    """A look while the event is on its way to the disk must not hide it afterwards."""

    async def main():
        one, other = EventLog(tmp_path / "log"), EventLog(tmp_path / "log")
        stored = asyncio.Event()

        async def look():
            while not stored.is_set():
                assert await other.of_user("nobody") == []
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        for user in range(30):
            await one.append(user, "a")
            assert await other.of_user(user) == ["a"]
        stored.set()
        await looking

    asyncio.run(main())


def test_events_that_wait_for_a_stalled_disk_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MOST_WAITING", 2)

    async def main():
        log = EventLog(tmp_path / "log")
        with closing(sqlite3.connect(tmp_path / "log", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [asyncio.create_task(log.append(7, item)) for item in "ab"]
            await asyncio.sleep(0)
            with pytest.raises(sqlite3.Error, match="2 events wait for the disk"):
                await log.append(7, "c")
            other.execute("ROLLBACK")
        await asyncio.gather(*waiting)
        assert await log.append(7, "d") == 3
        assert await log.of_user(7) == ["a", "b", "d"]

    asyncio.run(main())


def test_a_user_with_any_number_of_events_costs_no_more_than_the_latest(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "EVENTS_KEPT", 3)

    async def main():
        log = EventLog(tmp_path / "log")
        assert [await log.append(7, item) for item in range(5)] == [1, 2, 3, 3, 3]
        assert await log.of_user(7) == [2, 3, 4]
        await log.close()

    asyncio.run(main())


def test_a_truncated_file_is_an_error_and_ends_no_process(tmp_path):
    async def main():
        log, other = EventLog(tmp_path / "log"), EventLog(tmp_path / "log")
        await log.append(7, "a")
        assert {file.name for file in tmp_path.iterdir()} == {"log", "log-wal", "log-shm"}
        (tmp_path / "log-wal").write_bytes(b"")
        with pytest.raises(sqlite3.Error):
            await other.of_user(7)

    asyncio.run(main())


@pytest.mark.parametrize("open_it", [EventLog, open_log])
def test_a_file_that_is_something_else_is_refused(tmp_path, open_it):
    (tmp_path / "log").write_text("no database" * 200)
    with pytest.raises(ServingError, match="cannot keep events there"):
        open_it(tmp_path / "log")
    assert (tmp_path / "log").read_text().startswith("no database")
