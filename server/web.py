"""The pages for people, which need no other host, and the connections of clients."""

from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

FOLDER = Path(__file__).with_name("pages")
STATIC = ("common.css", "index.css", "index.js", "docs.css", "docs.js")
# A page loads from this server alone and has no inline script, so text in it cannot run.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # The client asks whether a page changed; 304 answers.
}


async def try_it(request: web.Request) -> web.FileResponse:
    """Try the server: pick films, see recommendations and where the time goes."""
    return web.FileResponse(FOLDER / "index.html", headers=_HEADERS)


async def docs(request: web.Request) -> web.FileResponse:
    """Read this document as a page, and send requests from it."""
    return web.FileResponse(FOLDER / "docs.html", headers=_HEADERS)


async def static(request: web.Request) -> web.FileResponse:
    """Styles and scripts of the pages."""
    return web.FileResponse(FOLDER / Path(request.path).name, headers=_HEADERS)


class Runner(web.AppRunner):
    """aiohttp's runner, with connections that end if a client is slow.

    Args:
        app: Application.
        read_timeout_s: Seconds that a client may take to send the headers of a request.
        options: Options of aiohttp's runner and of its connections.
    """

    def __init__(self, app: web.Application, read_timeout_s: float, **options: Any) -> None:
        super().__init__(app, **options, lingering_time=read_timeout_s, auto_decompress=False)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """A connection that ends when the headers of a request take too long.

    aiohttp would wait for as long as it keeps an idle connection.
    """

    __slots__ = ("_body", "_timed")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._body: StreamReader = EMPTY_PAYLOAD  # of the latest request
        self._timed = -1  # number of requests before the one that has a timer

    def data_received(self, data: bytes) -> None:
        """Parse data; start a timer where it ends within the headers of a request."""
        before, in_headers = self._request_count, self._body.is_eof()
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if self._request_count == before != self._timed and in_headers and data:
            self._timed = before
            self._loop.call_later(self._lingering_time, self._end_if_slow, before)

    def _end_if_slow(self, before: int) -> None:
        if self._request_count == before and self._current_request is None:
            self.force_close()

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log what the server does wrong. What is no HTTP gets 400, and no traceback."""
        if not isinstance(options.get("exc_info"), HttpProcessingError):
            super().log_exception(*args, **options)
