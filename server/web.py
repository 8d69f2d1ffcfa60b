"""The pages for people, which need no other host, and the connections of clients."""

from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

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
    """aiohttp's runner; a client that is slow to send headers loses its connection.

    It may take as long as `lingering_time`, the time in which aiohttp reads a body that no handler
    wants.
    """

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ("_timed",)

    def data_received(self, data: bytes) -> None:
        """Parse data. Where it ends within headers, a timer starts, once for each request."""
        before = self._request_count
        super().data_received(data)
        is_body = self._messages or self._current_request is not None
        if self._request_count == before != getattr(self, "_timed", None) and not is_body:
            self._timed = before
            self._loop.call_later(self._lingering_time, self._end_if_slow, before)

    def _end_if_slow(self, before: int) -> None:
        if self._request_count == before and self._current_request is None:
            self.force_close()

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log what the server does wrong. What is no HTTP gets 400, and no traceback."""
        if not isinstance(options.get("exc_info"), HttpProcessingError):
            super().log_exception(*args, **options)
