"""The HTTP interface: routes, what they read and answer, and problem descriptions for what cannot be answered."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import web

from server import metrics
from server.engine import Engine, Ranked
from server.errors import ProblemError
from server.schema import (
    MAX_FOUND,
    MAX_QUERY,
    Accepted,
    Answer,
    Event,
    Found,
    FoundItem,
    Item,
    Problem,
    Request,
)
from server.service import Service, Timings
from server.settings import Settings
from server.web import add_routes

log = logging.getLogger("server")
SERVICE = web.AppKey("service", Service)
JSON, PROBLEM = "application/json", "application/problem+json"
LAG_PERIOD_S = 0.25
PID = str(os.getpid())  # a worker imports this after the fork
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_encode = msgspec.json.Encoder().encode
_decoders: dict[type, msgspec.json.Decoder] = {
    kind: msgspec.json.Decoder(kind) for kind in (Request, Event)
}


def create_app(settings: Settings) -> web.Application:
    """The application of one worker; its bundle is opened when it starts."""
    app = web.Application(middlewares=[_problems], client_max_size=settings.max_body)
    app[SERVICE] = Service(settings)
    app.cleanup_ctx.append(_service)
    app.router.add_post("/recommend", recommend)
    app.router.add_post("/events", events)
    app.router.add_get("/items/search", search)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    add_routes(app)
    return app


async def recommend(request: web.Request) -> web.Response:
    """The best items of a user or of a history."""
    timings = Timings()
    service = request.app[SERVICE]
    asked = await _body(request, Request)
    engine, ranked, source = await service.recommend(asked, timings)
    body = _encode(_answer(engine, ranked, source, asked))
    timings.stages["total"] = timings.total_ms()
    metrics.SOURCE[source].inc()
    for stage, ms in timings.stages.items():
        metrics.STAGE[stage].observe(ms / 1e3)
    return web.Response(
        body=body,
        content_type=JSON,
        headers={
            "Server-Timing": timings.header(),
            "X-Worker": PID,
        },
    )


async def events(request: web.Request) -> web.Response:
    """Store that a user interacted with an item."""
    event = await _body(request, Event)
    stored = await request.app[SERVICE].append(event.user_id, event.item_id)
    return web.Response(
        body=_encode(Accepted(event.user_id, stored)), content_type=JSON, status=201
    )


async def search(request: web.Request) -> web.Response:
    """Items whose title has every word of the query."""
    words, limit = request.query.get("q", ""), request.query.get("limit", "10")
    if not 0 < len(words.strip()) <= len(words) <= MAX_QUERY:
        raise ProblemError(
            422,
            "Invalid query",
            f"expected q of 1 to {MAX_QUERY} characters, got {len(words.strip())}",
        )
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_FOUND):
        raise ProblemError(
            422, "Invalid limit", f"expected limit from 1 to {MAX_FOUND}, got {limit!r:.50}"
        )
    engine = request.app[SERVICE].engine
    rows = engine.bundle.items[engine.search.find(words, int(limit))].iter_rows(named=True)
    found = [
        FoundItem(row["item_id"], row["title"], row["year"], row["genres"] or []) for row in rows
    ]
    return web.Response(body=_encode(Found(found)), content_type=JSON)


async def healthz(request: web.Request) -> web.Response:
    """The process lives."""
    return web.Response(body=b'{"status":"ok"}', content_type=JSON)


async def readyz(request: web.Request) -> web.Response:
    """It can answer, and is not about to end."""
    service = request.app[SERVICE]
    if service.draining:
        raise ProblemError(
            503, "Draining", "this worker answers what is at work and ends", {"Retry-After": "1"}
        )
    ready = {"status": "ready", "bundle": service.engine.id, "engine": service.settings.engine}
    return web.Response(body=_encode(ready), content_type=JSON)


async def exposition(request: web.Request) -> web.Response:
    """Metrics of all workers."""
    loop = asyncio.get_running_loop()
    text = await loop.run_in_executor(None, metrics.exposition)
    return web.Response(
        body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


def _answer(engine: Engine, ranked: Ranked, source: str, asked: Request) -> Answer:
    items, scores = ranked.items[: asked.k].tolist(), ranked.scores[: asked.k].tolist()
    ids, titles = engine.item_ids, engine.titles
    if asked.include_titles:
        return Answer(
            [Item(ids[i], s, titles[i]) for i, s in zip(items, scores, strict=True)],
            source,
            engine.id,
        )
    return Answer([Item(ids[i], s) for i, s in zip(items, scores, strict=True)], source, engine.id)


async def _body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON as a checked struct.

    Raises:
        ProblemError: 408, 413, 415, 400 for text that is not JSON, 422 for JSON that is something
            else.
    """
    if request.content_type != JSON:
        raise ProblemError(
            415, "Wrong content type", f"expected {JSON}, got {request.content_type!r:.99}"
        )
    try:
        if (
            request.content.is_eof()
        ):  # nearly always it is all there, and a timer would cost more than the rest
            body = await request.read()
        else:
            async with asyncio.timeout(request.app[SERVICE].settings.read_timeout_s):
                body = await request.read()
    except TimeoutError:
        raise ProblemError(408, "Request too slow", "the body did not come in time") from None
    try:
        return _decoders[kind].decode(body)
    except msgspec.ValidationError as error:
        raise ProblemError(422, "Invalid request", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProblemError(400, "Malformed JSON", str(error)) from None


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Problem descriptions for errors, a count of answers, and a word to the client when the worker is about to end."""
    try:
        response = await handler(request)
    except ProblemError as problem:
        response = _problem(problem.status, problem.title, problem.detail, problem.headers)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        kept = {name: value for name, value in error.headers.items() if name == "Allow"}
        response = _problem(error.status, error.reason, _plain(error), kept)
    except (ConnectionResetError, web.RequestPayloadError):
        # the client went away in mid-request: nobody reads this, and it is no failure of the server
        response = _problem(400, "Connection lost", "the request ended before it was whole")
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        response = _problem(500, "Internal error", "the server failed; its log has the reason")
    resource = request.match_info.route.resource
    metrics.REQUESTS.labels(resource.canonical if resource else "unknown", response.status).inc()
    if request.app[SERVICE].draining:
        response.force_close()
    return response


def _problem(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None
) -> web.Response:
    body = _encode(Problem("about:blank", title, status, detail))
    return web.Response(
        status=status, body=body, content_type=PROBLEM, headers={**(headers or {}), "X-Worker": PID}
    )


def _plain(error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return error.text or "the body is too large"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{error.method} is not allowed here, {', '.join(sorted(error.allowed_methods))} is"
    return (
        "there is nothing here; /docs lists what there is"
        if error.status == HTTPStatus.NOT_FOUND
        else error.reason
    )


async def _service(app: web.Application) -> AsyncIterator[None]:
    await app[SERVICE].open()
    lag = asyncio.create_task(_watch_loop())
    yield
    lag.cancel()
    await app[SERVICE].close()


async def _watch_loop() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_PERIOD_S
        await asyncio.sleep(LAG_PERIOD_S)
        metrics.LOOP_LAG.observe(max(loop.time() - due, 0.0))
