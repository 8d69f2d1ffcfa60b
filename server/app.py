"""The HTTP interface: routes, their handlers, and problem descriptions for what fails."""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from nanorecsys.serving.errors import RetrievalError
from server import metrics, schema
from server.engine import Timings
from server.openapi import Handler, Route, document
from server.schema import OverloadedError, ProblemError
from server.service import Recommendation, Service
from server.settings import Settings
from server.web import STATIC, docs, static, try_it

log = logging.getLogger("server")
SERVICE = web.AppKey("service", Service)
JSON = "application/json"
PID = str(os.getpid())  # A worker imports this module after the fork.
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


def create_app(settings: Settings) -> web.Application:
    """Make the application of one worker; it opens its bundle when it starts."""
    app = web.Application(middlewares=[_problems], client_max_size=settings.max_body)
    app[SERVICE] = Service(settings)
    app.cleanup_ctx.append(_run_service)
    for route in ROUTES:
        getattr(app.router, f"add_{route.method}")(route.path, route.handler)
    for name in STATIC:
        app.router.add_get(f"/static/{name}", static)
    return app


async def recommend(request: web.Request) -> web.StreamResponse:
    """Recommend the best items to a user, or after a history.

    The answer to a user depends on the events posted for that user too. Equal requests are answered
    from a cache, and computed once if they come at the same time. Without any history the popular
    items answer, marked `fallback`; if `degrade` is set, also under overload and without retrieval.
    Without `degrade` an overloaded worker rejects any request, cached or not. The header
    `Server-Timing` has the milliseconds of each stage, and their CPU time as `cpu`.
    """
    start = time.perf_counter_ns()
    asked = await _read(request, schema.Request)
    service = request.app[SERVICE]
    timings: Timings = {}
    try:
        found = await service.recommend(asked, timings)
    except OverloadedError:
        if not service.draining:
            await service.rejections.wait()
        raise
    body = _encode(_answer(found, asked))
    timings["total"] = ((time.perf_counter_ns() - start) / 1e6, None)
    metrics.SOURCE[found.source].inc()
    for stage, (ms, _) in timings.items():
        metrics.stage(stage).observe(ms / 1e3)
    headers = {"Server-Timing": _server_timing(timings), "X-Worker": PID}
    return web.Response(body=body, content_type=JSON, headers=headers)


async def append_event(request: web.Request) -> web.Response:
    """Store that a user interacts with an item.

    The answer comes when the event is on the disk, or in Redis. The user's next recommendation
    depends on it, on every host that has the same Redis. After 503 an event may or may not be
    stored.
    """
    event = await _read(request, schema.Event)
    stored = await request.app[SERVICE].append(event.user_id, event.item_id)
    return _json(schema.Accepted(event.user_id, stored), status=201)


async def search_items(request: web.Request) -> web.Response:
    """Find items by their titles.

    A title matches if it has every word of `q`, whole or as a prefix. The most popular items come
    first. Case, accents and punctuation do not count.
    """
    search = msgspec.convert(dict(request.query), schema.Search, strict=False)
    # A word that is in most titles of a large catalogue takes long to find.
    find = request.app[SERVICE].engine.find
    found = await asyncio.get_running_loop().run_in_executor(None, find, search.q, search.limit)
    return _json(schema.Found(found))


async def healthz(request: web.Request) -> web.Response:
    """Check whether the process lives.

    It answers as long as the event loop runs.
    """
    return _json(schema.Health())


async def readyz(request: web.Request) -> web.Response:
    """Check whether the worker can answer.

    503 once the worker is about to end, so that a load balancer stops sending requests to it, and
    when nothing can be computed. Without the Redis of the events it is still 200, with the reason:
    all hosts miss it alike, and recommendations go on.
    """
    service = request.app[SERVICE]
    if service.draining:
        raise ProblemError(503, "Draining", "this worker is about to end", {"Retry-After": "1"})
    await service.check()
    failure = await service.events.failure() or UNSET
    return _json(schema.Ready(service.engine.id, service.settings.engine, events_failure=failure))


async def read_metrics(request: web.Request) -> web.Response:
    """Read the metrics of all workers.

    In Prometheus's text format: requests, time by stage, queue depth, batch sizes, cache hits and
    rejected requests.
    """
    text = await asyncio.get_running_loop().run_in_executor(None, metrics.exposition)
    return web.Response(
        body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def openapi(request: web.Request) -> web.Response:
    """Read this document (OpenAPI 3.1)."""
    return web.Response(body=DOCUMENT, content_type=JSON)


ROUTES = (
    Route("post", "/recommend", recommend, schema.Answer, schema.Request),
    Route("post", "/events", append_event, schema.Accepted, schema.Event, status=201),
    Route("get", "/items/search", search_items, schema.Found, query=schema.Search, errors=(422,)),
    Route("get", "/healthz", healthz, schema.Health),
    Route("get", "/readyz", readyz, schema.Ready, errors=(503,)),
    Route("get", "/metrics", read_metrics, "text/plain"),
    Route("get", "/openapi.json", openapi, JSON),
    Route("get", "/docs", docs, "text/html"),
    Route("get", "/", try_it, "text/html"),
)
DOCUMENT = msgspec.json.encode(document(ROUTES))


def _json(answer: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=_encode(answer), content_type=JSON, status=status)


def _answer(found: Recommendation, asked: schema.Request) -> schema.Answer:
    engine, ranked = found.engine, found.ranked
    items, scores = ranked.items[: asked.k].tolist(), ranked.scores[: asked.k].tolist()
    ids, titles = engine.item_ids, engine.titles if asked.include_titles else None
    best = [
        schema.Item(ids[i], score, titles[i] if titles else UNSET)
        for i, score in zip(items, scores, strict=True)
    ]
    return schema.Answer(best, found.source, engine.id, found.events_unread or UNSET)


def _server_timing(timings: Timings) -> str:
    """Format timings as https://www.w3.org/TR/server-timing, with CPU time as `cpu`."""
    return ", ".join(
        f"{stage};dur={ms:.3f}" if cpu is None else f"{stage};dur={ms:.3f};cpu={cpu:.3f}"
        for stage, (ms, cpu) in timings.items()
    )


async def _read(request: web.Request, kind: type[T]) -> T:
    """Read the request's JSON as a checked struct.

    Raises:
        ProblemError: 408 if the body is too slow, 415 if it is not declared as JSON.
        msgspec.DecodeError: It is not JSON, or a field is wrong.
    """
    if request.content_type != JSON or "Content-Encoding" in request.headers:
        detail = f"expected {JSON}, not compressed, got {request.content_type!r:.99}"
        raise ProblemError(415, "Wrong content type", detail)
    try:
        # Nearly every body is complete already; a timer would cost more than all the rest.
        if request.content.is_eof():
            body = await request.read()
        else:
            async with asyncio.timeout(request.app[SERVICE].settings.read_timeout_s):
                body = await request.read()
    except TimeoutError:
        raise ProblemError(408, "Request too slow", "the body did not come in time") from None
    return msgspec.json.decode(body, type=kind)


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Describe problems, count responses, and close connections while the worker drains."""
    try:
        response = await handler(request)
    except ProblemError as problem:
        response = _problem(problem.status, problem.title, problem.detail, problem.headers)
    except web.HTTPException as error:
        text = (error.text or error.reason).removeprefix(f"{error.status}: ")
        detail = f"{request.method} {request.path:.99}: {text}"
        allowed = {name: value for name, value in error.headers.items() if name == "Allow"}
        response = _problem(error.status, error.reason, detail, allowed)
    except msgspec.ValidationError as error:
        response = _problem(422, "Invalid request", str(error), {})
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        response = _problem(400, "Malformed JSON", str(error), {})
    except (ConnectionResetError, web.RequestPayloadError):
        # The client is gone, so no one reads this answer, and the server did not fail.
        response = _problem(400, "Connection lost", "the request ended early", {})
    except RetrievalError as error:
        detail = "; ".join(filter(None, (error.message, error.remedy)))
        response = _problem(503, "No retrieval", detail, {"Retry-After": "1"})
    except sqlite3.Error as error:  # the disk is full, say
        log.error("events fail: %s", error)
        detail = f"events cannot be stored or read: {error}"
        response = _problem(503, "No events", detail, {"Retry-After": "1"})
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        response = _problem(500, "Internal error", "the server failed; see its log", {})
    resource = request.match_info.route.resource
    metrics.REQUESTS.labels(resource.canonical if resource else "unknown", response.status).inc()
    if request.app[SERVICE].draining:
        response.force_close()
    return response


def _problem(status: int, title: str, detail: str, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=status,
        body=_encode(schema.Problem(title, status, detail)),
        content_type="application/problem+json",
        headers={**headers, "X-Worker": PID},
    )


async def _run_service(app: web.Application) -> AsyncIterator[None]:
    await app[SERVICE].open()
    yield
    await app[SERVICE].close()
