"""The OpenAPI document, made from a table of routes and from the structs that JSON is checked with.

A handler's docstring describes its operation: the first line is the summary.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web

from server import schema

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SCHEMAS = "#/components/schemas/"
# Errors of a route with a body.
ERRORS = {
    400: "The body is not JSON.",
    404: "The bundle has no such user or item.",
    405: "The path has no such method.",
    408: "The client sends too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    422: "A value is missing, of the wrong type or out of bounds.",
    503: "The worker is overloaded, without retrieval or about to end. `Retry-After` has seconds.",
}
# Examples of bodies, by title.
EXAMPLES: dict[type, dict[str, Any]] = {
    schema.Request: {
        "A history": {"history": [1, 260, 1196], "k": 3},
        "A user": {"user_id": 5, "k": 3},
        "Seen items too, no titles": {"user_id": 5, "exclude_seen": False, "include_titles": False},
    },
    schema.Event: {"An event": {"user_id": 5, "item_id": 1}},
}


@dataclass(frozen=True)
class Route:
    """A path, what it takes and what it returns.

    Args:
        method: HTTP method in lower case.
        path: Path of the route.
        handler: aiohttp handler; its docstring describes the operation.
        answer: Struct that is returned as JSON, or a media type.
        body: Struct of the request's JSON.
        query: Struct of the query parameters.
        status: HTTP status of success.
        errors: HTTP statuses of errors beside 405, of a route without a body.
    """

    method: str
    path: str
    handler: Handler
    answer: type[msgspec.Struct] | str
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()


def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Make the document (OpenAPI 3.1) as plain dicts, lists and scalars."""
    named = [kind for route in routes for kind in (route.body, route.answer, schema.Problem)]
    structs = [kind for kind in named if isinstance(kind, type)]
    _, schemas = msgspec.json.schema_components(structs, ref_template=SCHEMAS + "{name}")
    # The struct checks this in code: one of the two is given, and null means not given.
    schemas["Request"]["oneOf"] = [
        {"title": title, "required": [name], "properties": {name: {"type": types}}}
        for title, name, types in (
            ("of a user", "user_id", ["integer", "string"]),
            ("after a history", "history", ["array"]),
        )
    ]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nanorecsys",
            "version": metadata.version("nanorecsys"),
            "summary": "Recommendations from a serving bundle.",
            "description": "Ids are those of the data set; a whole number is 5, not 5.0. Every "
            "error of a well-formed HTTP request is a problem description (RFC 9457); its `detail` "
            "says what was expected. What is no valid HTTP gets a plain 400.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "."}],  # where this document is, so a proxy may add a prefix
        "paths": {route.path: {route.method: _operation(route)} for route in routes},
        "components": {"schemas": schemas},
    }


def _operation(route: Route) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(route.handler) or "").partition("\n")
    answer = {"description": "Success.", "content": _content(route.answer)}
    problem = _content(schema.Problem, "application/problem+json")
    errors = {
        str(status): {"description": ERRORS[status], "content": problem}
        for status in (ERRORS if route.body else (405, *route.errors))
    }
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": summary.rstrip("."),
        "description": " ".join(description.split()) or summary,
        "responses": {str(route.status): answer, **errors},
    }
    if route.query:
        [search] = msgspec.json.schema_components([route.query])[1].values()
        operation["parameters"] = [
            {"in": "query", "name": name, "required": name in search["required"], "schema": kind}
            for name, kind in search["properties"].items()
        ]
    if route.body:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
    return operation


def _content(kind: type | str, media_type: str = "application/json") -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {} if kind == media_type else {"type": "string"}}}
    examples = {
        title: {"summary": title, "value": value} for title, value in EXAMPLES.get(kind, {}).items()
    }
    return {media_type: {"schema": {"$ref": SCHEMAS + kind.__name__}, "examples": examples}}
