"""Connections that reject a request before it is handled, while the queue is full.

Most requests are rejected here in a long overload: aiohttp has parsed them, and makes neither a
task nor a response for them. `app.recommend` rejects those that came before the queue was full.
"""

from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from server import metrics
from server.app import make_problem
from server.batching import FULL
from server.schema import OverloadedError
from server.service import Service


def _rejection() -> bytes:
    """The bytes of the response to every rejected request."""
    error = OverloadedError(FULL)
    response = make_problem(error.status, error.title, FULL, error.headers)
    body = response.body
    assert isinstance(body, bytes)
    fields = {**response.headers, "Content-Length": len(body)}
    head = [f"HTTP/1.1 {response.status} {response.reason}"]
    head += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


REJECTION = _rejection()


class Connection(web.RequestHandler):
    """A connection to the service. aiohttp wakes its handler through the future `_waiter`."""

    __slots__ = ("_service",)

    def __init__(self, manager: web.Server, service: Service, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._service = service

    def data_received(self, data: bytes) -> None:
        """Parse what came; reject it, or wake the handler."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done() or not self._service.batcher.is_full():
            self._waiter = waiter
            super().data_received(data)
            return
        super().data_received(data)
        self._waiter = waiter
        if len(self._messages) == 1 and self._is_rejectable(data):
            self._messages.clear()
            assert self._parser is not None
            assert self.transport is not None
            self._parser.message_consumed()
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            metrics.SHED.labels("early").inc()
            metrics.REQUESTS.labels("/recommend", 503).inc()
            self.transport.write(REJECTION)
        elif self._messages:
            waiter.set_result(None)

    def _is_rejectable(self, data: bytes) -> bool:
        [(message, body)] = self._messages
        return (
            isinstance(message, RawRequestMessage)
            and (message.method, message.path) == ("POST", "/recommend")
            and body.is_eof()
            and b'"degrade"' not in data  # The popular items are its answer.
            and not (message.should_close or self._paused or self._reading_paused)
            and not self._service.draining
        )


class _Server(web.Server):
    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """aiohttp's runner with `Connection`; `service` is one of its settings."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **made._kwargs)
