"""Events are on the disk when acknowledged, and every worker sees them. 1 s."""

import asyncio
import sqlite3

import pytest

from nanorecsys.serving.errors import ServingError
from server import events
from server.events import EventLog, make_log


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


def test_sqlite_is_asked_only_for_users_with_events(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 1e9)

    async def main():
        await EventLog(tmp_path / "log").append(7, "a")
        log, other = EventLog(tmp_path / "log"), EventLog(tmp_path / "log")
        assert await log.of_user(7) == ["a"]
        asked: list[str] = []
        log._reader.set_trace_callback(asked.append)
        assert [await log.of_user(user) for user in range(7)] == [[]] * 7
        assert not asked
        await other.append(3, "b")
        assert await log.of_user(3) == ["b"]
        assert await log.of_user(4) == []
        assert len(asked) == 2  # who has events now, and those of user 3

    asyncio.run(main())


def test_an_event_that_the_file_does_not_tell_of_is_seen_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "LOOK_S", 0.3)

    async def main():
        log, other = EventLog(tmp_path / "log"), EventLog(tmp_path / "log")
        log._ahead = str(tmp_path / "nowhere")
        assert await log.of_user(7) == []
        await other.append(7, "a")
        assert await log.of_user(7) == []
        await asyncio.sleep(0.4)
        assert await log.of_user(7) == ["a"]

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


@pytest.mark.parametrize("open_it", [EventLog, make_log])
def test_a_file_that_is_something_else_is_refused(tmp_path, open_it):
    (tmp_path / "log").write_text("no database" * 200)
    with pytest.raises(ServingError, match="cannot keep events there"):
        open_it(tmp_path / "log")
    assert (tmp_path / "log").read_text().startswith("no database")
