"""The pages for people, and the document they are made from: read once, served from memory, asking no other host."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib import resources

import msgspec
from aiohttp import ETag, web

from server.openapi import document

# Everything from this server alone, and no script inside a page: what a title or an error may hold
# cannot run.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # ask whether it changed: the answer is a 304
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PAGES = {"/": "index.html", "/docs": "docs.html"}
STATIC = ("common.css", "index.css", "index.js", "docs.css", "docs.js")


def add_routes(app: web.Application) -> None:
    """Add `/`, `/docs`, `/openapi.json` and what the pages are made of, `/static/...`."""
    folder = resources.files("server") / "pages"
    app.router.add_get("/openapi.json", _serve(msgspec.json.encode(document()), "application/json"))
    files = {**_PAGES, **{f"/static/{name}": name for name in STATIC}}
    for path, name in files.items():
        app.router.add_get(
            path, _serve((folder / name).read_bytes(), _TYPES[name.rpartition(".")[2]])
        )


def _serve(content: bytes, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that answers with `content`, or with 304 where the client has it."""
    tag = ETag(hashlib.sha256(content).hexdigest()[:16])
    charset = None if content_type == "application/json" else "utf-8"

    async def handler(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(other.value in (tag.value, "*") for other in known):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(
                body=content, content_type=content_type, charset=charset, headers=_HEADERS
            )
        response.etag = tag
        return response

    return handler
