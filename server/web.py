"""The pages for people. They need no other host."""

from pathlib import Path

from aiohttp import web

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
