"""Posted events in Redis, which any number of hosts share."""

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from server import metrics
from server.events import EventLog, Events
from server.redis_calls import RedisCalls, RedisFailedError
from server.schema import ProblemError
from server.settings import EVENTS_KEPT, is_redis

REDIS_TIMEOUT_S = 0.5  # more than the cache's: without an answer the client has to try again
_decode = msgspec.json.Decoder(list[tuple[int | str, float]]).decode


class RedisEvents(Events):
    """Events in Redis, which hosts share: a list for each user, of the latest `EVENTS_KEPT`.

    An event is in Redis when `append` returns. Every request for a user reads the user's list, so
    that it knows an event that another host has just stored. Nothing is sent twice: a client that
    gets no answer decides itself whether to send the event again.

    Args:
        url: redis://HOST:PORT/DB.
    """

    def __init__(self, url: str) -> None:
        meanwhile = "no event is stored, and answers leave out what was posted"
        self._redis = RedisCalls(url, REDIS_TIMEOUT_S, meanwhile, metrics.EVENT_FAILURES)

    async def append(self, user_id: int | str, item_id: int | str) -> int:
        """Store an event; return the number of events stored of this user.

        Raises:
            ProblemError: Redis does not say that it has stored the event.
        """
        key, event = _key(user_id), msgspec.json.encode((item_id, time.time()))
        try:
            stored = await self._redis.call("RPUSH", key, event)
        except RedisFailedError as error:
            detail = f"expected Redis to store the event: {error}"
            raise ProblemError(503, "No events", detail, {"Retry-After": "1"}) from error
        if stored > EVENTS_KEPT:
            with suppress(RedisFailedError):  # then the next event shortens the list
                await self._redis.call("LTRIM", key, -EVENTS_KEPT, -1)
        return min(stored, EVENTS_KEPT)

    async def of_user(self, user_id: int | str) -> list[int | str] | None:
        try:
            events = await self._redis.call("LRANGE", _key(user_id), -EVENTS_KEPT, -1)
            return [item_id for item_id, _ in _decode(b"[%b]" % b",".join(events))]
        except (RedisFailedError, msgspec.DecodeError):  # Something else may write there.
            return None

    async def failure(self) -> str | None:
        try:
            # Redis refuses it where it refuses an event: memory full, disk full, a replica.
            await self._redis.call("SET", _key("") + b":check", b"", "PX", 1)
        except RedisFailedError as error:
            return str(error)
        return None

    async def close(self) -> None:
        await self._redis.close()


def _key(user_id: int | str) -> bytes:
    """Key of a user's list. 7 and "7" are two users."""
    return b"nanorecsys:events:" + msgspec.json.encode(user_id)


def open_events(place: str) -> Events:
    """Open the events that a setting names: a file, or a Redis URL.

    Raises:
        ServingError: The file cannot be opened, or is no event log.
    """
    return RedisEvents(place) if is_redis(place) else EventLog(Path(place))
