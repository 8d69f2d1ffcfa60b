"""Calls to Redis over one connection, which the cache and the events make alike."""

import asyncio
import logging
import time
from typing import Any

import redis.asyncio
from prometheus_client import Counter
from redis.exceptions import ResponseError

log = logging.getLogger("server")
PAUSE_S = 1.0  # pause after a failure
CONNECTION = "connection"
WRONG_TYPE = "WRONGTYPE"  # how Redis's error begins if a key has a value of another type

_Call = tuple[tuple[Any, ...], asyncio.Future]  # a command and its answer


class RedisFailedError(Exception):
    """A call without an answer; the text is the reason, without a password."""


class RedisCalls:
    """Sends commands.

    Calls that come while others are under way are sent together when those are done. Any number of
    clients needs no further connection, and a call costs less under load.

    After a failure Redis is not asked for a second, and calls fail at once. If Redis itself answers
    with an error, as when its memory is full, only that command pauses. If a key has a value of
    another type, only the call fails and nothing pauses.

    Args:
        url: redis://HOST:PORT/DB.
        timeout_s: Seconds after which a call fails, far above Redis's own time: both may wait for a
            busy processor.
        meanwhile: What the server does without Redis, for the log.
        failures: Counter of failures.
    """

    def __init__(self, url: str, timeout_s: float, meanwhile: str, failures: Counter) -> None:
        self._client = redis.asyncio.Redis.from_url(
            url,
            protocol=2,  # every version of Redis knows it
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        self._meanwhile, self._failures = meanwhile, failures
        self._waiting: list[_Call] = []
        self._sending: asyncio.Task | None = None
        # When to ask again and why not now, by command or CONNECTION.
        self._paused: dict[str, tuple[float, str]] = {}

    async def call(self, *command: Any) -> Any:
        """Send a command and return its answer.

        Raises:
            RedisFailedError: Redis did not answer, refused the command, or did so just now.
        """
        for name in (command[0], CONNECTION):
            until, reason = self._paused.get(name, (0.0, ""))
            if time.monotonic() < until:
                raise RedisFailedError(reason)
        call: _Call = command, asyncio.get_running_loop().create_future()
        self._waiting.append(call)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await call[1]

    async def _send(self) -> None:
        """Send calls until none waits."""
        while self._waiting:
            calls, self._waiting = self._waiting, []
            answers: list[Any]
            try:
                answers = await self._ask([command for command, _ in calls])
            except ResponseError as error:
                answers = [error] * len(calls)  # on connecting: Redis has no such database
            except Exception as error:  # redis-py passes on half a dozen of asyncio's errors too
                calls, self._waiting = calls + self._waiting, []
                answers = [error] * len(calls)
            for (command, future), answer in zip(calls, answers, strict=True):
                self._note(command[0], answer)
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(RedisFailedError(_reason(answer)))
                else:
                    future.set_result(answer)
        self._sending = None

    async def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if len(commands) == 1:  # cheaper without a pipeline
            return [await self._client.execute_command(*commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    def _note(self, command: str, answer: Any) -> None:
        """Pause after a failure. The log has a line for the first one, and one for the recovery."""
        if isinstance(answer, ResponseError) and str(answer).startswith(WRONG_TYPE):
            self._failures.inc()  # it concerns one key
        elif isinstance(answer, Exception):
            failed, reason = CONNECTION, _reason(answer)
            if isinstance(answer, ResponseError):
                failed = command
            if failed not in self._paused:
                log.warning("Redis %s fails, %s: %s", failed, self._meanwhile, reason)
            until, _ = self._paused.get(failed, (0.0, ""))
            if until <= (now := time.monotonic()):
                self._failures.inc()
                self._paused[failed] = now + PAUSE_S, reason
        elif self._paused:
            for recovered in self._paused.keys() & {command, CONNECTION}:
                del self._paused[recovered]
                log.info("Redis %s works again", recovered)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _reason(error: Exception) -> str:
    return str(error) or repr(error)
