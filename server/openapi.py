"""The OpenAPI document, made from a table of routes and from the structs that JSON is checked with.

A handler's docstring describes its operation: the first line is the summary.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web

from server import schema

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SCHEMAS = "#/components/schemas/"
BODY_ERRORS = (400, 404, 405, 408, 413, 415, 422, 503)  # errors of every route with a body
TAGS = {
    "recommendations": "Ask for items, report events, find items.",
    "operation": "For supervisors and monitors.",
    "pages": "For people.",
}
# By status: meaning, and title and detail of the example.
PROBLEMS = {
    400: ("The body is not JSON.", "Malformed JSON", "Input data was truncated"),
    404: ("The bundle has no such user or item.", "Unknown user", "this bundle has no user 7"),
    405: ("The path has no such method.", "Method Not Allowed", "PUT is not allowed; GET is"),
    408: ("The client sends too slowly.", "Request too slow", "the body did not come in time"),
    413: ("The body is too large.", "Content Too Large", "Maximum request body size exceeded."),
    415: ("The body is not declared as JSON.", "Wrong content type", "expected application/json"),
    422: ("A field is wrong.", "Invalid request", "Expected `int` <= 100 - at `$.k`"),
    503: ("The worker is overloaded or ends.", "Overloaded", "64 requests wait already"),
}
HEADERS = {
    "Server-Timing": "Milliseconds by stage and in total, and of them CPU time as `cpu`.",
    "X-Worker": "Process that answers.",
    "Retry-After": "Seconds to wait before a retry.",
}
# Examples of each struct, by title.
EXAMPLES: dict[type, dict[str, Any]] = {
    schema.Request: {
        "A history": {"history": [1, 260, 1196], "k": 3},
        "A user": {"user_id": 5, "k": 3},
        "Seen items too, no titles": {"user_id": 5, "exclude_seen": False, "include_titles": False},
    },
    schema.Answer: {
        "An item": schema.Answer([schema.Item(1210, 3.41, "Alien (1979)")], "model", "3f2a9c01d4be")
    },
    schema.Event: {"An event": {"user_id": 5, "item_id": 1}},
    schema.Accepted: {"The first event": schema.Accepted(5, 1)},
    schema.Found: {"An item": schema.Found([schema.FoundItem(1, "Alien", 1979, ["Horror"])])},
    schema.Health: {"Alive": schema.Health()},
    schema.Ready: {"Ready": schema.Ready("3f2a9c01d4be", "onnx")},
}


@dataclass(frozen=True)
class Route:
    """A path, what it takes and what it returns.

    Args:
        method: HTTP method in lower case.
        path: Path of the route.
        handler: aiohttp handler; its docstring describes the operation.
        tag: Section of the document.
        answer: Struct that is returned as JSON, or a media type.
        body: Struct of the request's JSON.
        query: Struct of the query parameters.
        status: HTTP status of success.
        errors: HTTP statuses of further errors.
        timed: Whether the answer has the headers Server-Timing and X-Worker.
    """

    method: str
    path: str
    handler: Handler
    tag: str
    answer: type[msgspec.Struct] | str
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    timed: bool = False


def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Make the document (OpenAPI 3.1) as plain dicts, lists and scalars."""
    _, schemas = msgspec.json.schema_components(
        [schema.Problem, *EXAMPLES], ref_template=SCHEMAS + "{name}"
    )
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
            "error is a problem description (RFC 9457); its `detail` says what was expected.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": {route.path: {route.method: _operation(route)} for route in routes},
        "components": {
            "schemas": schemas,
            "headers": {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in HEADERS.items()
            },
            "responses": {_name(status): _problem(status) for status in PROBLEMS},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    summary, _, description = (inspect.getdoc(route.handler) or "").partition("\n")
    answer = {"description": "Success.", "content": _content(route.answer)}
    if route.timed:
        answer["headers"] = _headers("Server-Timing", "X-Worker")
    errors = BODY_ERRORS if route.body else (405, 422) if route.query else (405, *route.errors)
    responses = {str(e): {"$ref": f"#/components/responses/{_name(e)}"} for e in errors}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": summary.rstrip("."),
        "description": " ".join(description.split()) or summary,
        "tags": [route.tag],
        "responses": {str(route.status): answer, **responses},
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


def _content(kind: type[msgspec.Struct] | str) -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {} if kind == "application/json" else {"type": "string"}}}
    examples = {
        title.replace(" ", "_"): {"summary": title, "value": msgspec.to_builtins(value)}
        for title, value in EXAMPLES[kind].items()
    }
    reference = {"$ref": SCHEMAS + kind.__name__}
    return {"application/json": {"schema": reference, "examples": examples}}


def _problem(status: int) -> dict[str, Any]:
    meaning, title, detail = PROBLEMS[status]
    example = msgspec.to_builtins(schema.Problem(title, status, detail))
    content = {"schema": {"$ref": f"{SCHEMAS}Problem"}, "example": example}
    response = {"description": meaning, "content": {"application/problem+json": content}}
    return response | ({"headers": _headers("Retry-After")} if status == 503 else {})


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")
