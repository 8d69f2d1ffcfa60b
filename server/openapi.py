"""The OpenAPI document, made from the structs that requests are checked against."""

from importlib import metadata
from typing import Any

import msgspec

from server.schema import (
    MAX_FOUND,
    MAX_QUERY,
    Accepted,
    Answer,
    Event,
    Found,
    Item,
    Problem,
    Request,
)

_SCHEMAS = "#/components/schemas/"
_BUNDLE = "3f2a9c01d4be"

_RECOMMEND = {
    "history": {"summary": "A history", "value": {"history": [1, 260, 1196], "k": 3}},
    "user": {"summary": "A user", "value": {"user_id": 5, "k": 3}},
    "ids": {
        "summary": "What was seen too, without titles, and an answer even under overload",
        "value": {
            "user_id": 5,
            "k": 3,
            "exclude_seen": False,
            "include_titles": False,
            "degrade": True,
        },
    },
}
_ANSWER = Answer(
    [
        Item(1210, 3.41, "Star Wars: Episode VI - Return of the Jedi (1983)"),
        Item(3114, 2.87, "Toy Story 2 (1999)"),
    ],
    "model",
    _BUNDLE,
)
_FOUND = {
    "item_id": 1,
    "title": "Toy Story (1995)",
    "year": 1995,
    "genres": ["Adventure", "Animation"],
}

_HEADERS = {
    "Server-Timing": {
        "description": "Milliseconds in each stage that this answer went through, of cache, queue, encode, retrieve "
        "and rank, and total: from the request's arrival to the answer's bytes. Of what computes, `cpu` is the part "
        "that was work, the rest was waiting for a core.",
        "required": True,
        "schema": {"type": "string"},
        "example": "cache;dur=0.020, queue;dur=1.301, encode;dur=3.114;cpu=2.905, retrieve;dur=0.120;cpu=0.119, "
        "rank;dur=0.231;cpu=0.230, total;dur=4.902",
    },
    "X-Worker": {
        "description": "Process that answered.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
        "example": 4711,
    },
    "Retry-After": {
        "description": "Seconds to wait before another try.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    },
    "Allow": {
        "description": "The methods that this path has.",
        "required": True,
        "schema": {"type": "string"},
        "example": "GET,HEAD",
    },
}
# status: component, title of the example, its detail
_PROBLEMS = {
    400: ("MalformedJson", "Malformed JSON", "JSON is malformed: expected ',' or '}' (byte 14)"),
    404: ("Unknown", "Unknown user", "this bundle has no user 7"),
    405: ("WrongMethod", "Method Not Allowed", "PUT is not allowed here, GET, HEAD is"),
    408: ("TooSlow", "Request too slow", "the body did not come in time"),
    413: ("TooLarge", "Request Entity Too Large", "Maximum request body size 262144 exceeded."),
    415: ("WrongContentType", "Wrong content type", "expected application/json, got 'text/plain'"),
    422: ("Invalid", "Invalid request", "Expected `int` <= 100 - at `$.k`"),
    503: ("NotNow", "Overloaded", "64 requests wait already"),
}
_PROBLEM_DESCRIPTIONS = {
    400: "The body is not JSON.",
    404: "The bundle has no such user or item.",
    405: "The path has no such method.",
    408: "The client took too long to send its request.",
    413: "The body is larger than the server takes.",
    415: "The body is not declared as application/json.",
    422: "Well-formed, and not what is expected: a missing or unknown field, a wrong type, a number out of bounds.",
    503: "Deliberately not answered: too much to do, or about to end. Another try after `Retry-After` may succeed.",
}
_OF_A_BODY = (400, 404, 405, 408, 413, 415, 422, 503)


def document() -> dict[str, Any]:
    """The document of this version, OpenAPI 3.1, as plain dicts, lists and scalars."""
    kinds = (Request, Answer, Event, Accepted, Found, Problem)
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS + "{name}")
    schemas["Request"] = _either(schemas["Request"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nanorecsys",
            "version": metadata.version("nanorecsys"),
            "summary": "Recommendations from a serving bundle.",
            "description": "Ids are those of the data set; whole numbers are written as such, 5 and not 5.0. "
            "What cannot be answered is told as a problem description "
            "(RFC 9457), whose `detail` says what was expected and what came.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "recommendations", "description": "Ask, tell what happened, find items."},
            {"name": "operation", "description": "What a supervisor and a monitor ask."},
            {"name": "pages", "description": "For people."},
        ],
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "headers": _HEADERS,
            "responses": {name: _problem(status) for status, (name, *_) in _PROBLEMS.items()},
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/recommend": {
            "post": _operation(
                "recommend",
                "The best items of a user, or after a history",
                "A user's answer depends on the events posted for that user too. Equal requests are answered from a "
                "cache, and computed once where they come at the same time. Without any history the popular items "
                "answer, marked as `fallback`; under overload so they do where `degrade` allows it.",
                "recommendations",
                body=_json(_ref("Request"), examples=_RECOMMEND),
                answer=_response(
                    "The best items first.",
                    _json(_ref("Answer"), example=msgspec.to_builtins(_ANSWER)),
                    headers=("Server-Timing", "X-Worker"),
                ),
                problems=_OF_A_BODY,
            )
        },
        "/events": {
            "post": _operation(
                "append_event",
                "Store that a user interacted with an item",
                "The event is on the disk when this answers, and counts in the user's next recommendation.",
                "recommendations",
                body=_json(_ref("Event"), example={"user_id": 5, "item_id": 1}),
                answer=_response(
                    "Stored.", _json(_ref("Accepted"), example={"user_id": 5, "events": 1})
                ),
                status=201,
                problems=_OF_A_BODY,
            )
        },
        "/items/search": {
            "get": _operation(
                "search_items",
                "Find items by their titles",
                "Items whose title has every word of `q`, as a word or as the beginning of one, the most popular "
                "first. Case, accents and punctuation do not count.",
                "recommendations",
                parameters=[
                    _query(
                        "q",
                        "Words of the title.",
                        {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": MAX_QUERY,
                            "pattern": r"\S",
                        },
                        required=True,
                        example="toy sto",
                    ),
                    _query(
                        "limit",
                        "How many items.",
                        {"type": "integer", "minimum": 1, "maximum": MAX_FOUND, "default": 10},
                    ),
                ],
                answer=_response(
                    "What was found; it may be nothing.",
                    _json(_ref("Found"), example={"items": [_FOUND]}),
                ),
                problems=(405, 422),
            )
        },
        "/healthz": {
            "get": _operation(
                "healthz",
                "Whether the process lives",
                "Always answers while the event loop turns.",
                "operation",
                answer=_response(
                    "It does.", _json(_object(status={"const": "ok"}), example={"status": "ok"})
                ),
            )
        },
        "/readyz": {
            "get": _operation(
                "readyz",
                "Whether it can answer",
                "503 once the worker is about to end, so that a balancer sends it nothing more.",
                "operation",
                answer=_response(
                    "It can.",
                    _json(
                        _object(
                            status={"const": "ready"},
                            bundle={"type": "string"},
                            engine={"enum": ["onnx", "torch"]},
                        ),
                        example={"status": "ready", "bundle": _BUNDLE, "engine": "onnx"},
                    ),
                ),
                problems=(405, 503),
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Metrics of all workers",
                "In Prometheus's text format: requests, time by stage, queue depth, batch sizes, cache hits, sheds.",
                "operation",
                answer=_response(
                    "The metrics.",
                    {
                        "text/plain": {
                            "schema": {"type": "string"},
                            "example": "nanorecsys_queue_depth 0.0\n",
                        }
                    },
                ),
            )
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document",
                "OpenAPI 3.1.",
                "pages",
                answer=_response(
                    "It.", _json({"type": "object", "required": ["openapi", "info", "paths"]})
                ),
            )
        },
        "/docs": {"get": _page("docs", "This document to read, and to send requests from")},
        "/": {
            "get": _page("try_it", "Pick films and see recommendations, and where their time goes")
        },
    }


def _either(schema: dict[str, Any]) -> dict[str, Any]:
    """The request's schema with what its struct checks in code: one of user and history is given, the other is not.

    A field that is null is not given.
    """
    given = {
        name: {**field, "anyOf": [kind for kind in field["anyOf"] if kind != {"type": "null"}]}
        for name in ("user_id", "history")
        for field in [
            {key: value for key, value in schema["properties"][name].items() if key != "default"}
        ]
    }
    ways = [
        {
            "title": title,
            "required": [name],
            "properties": {name: given[name], other: {"type": "null"}},
        }
        for title, name, other in (
            ("of a user", "user_id", "history"),
            ("after a history", "history", "user_id"),
        )
    ]
    return {**schema, "oneOf": ways}


def _operation(
    name: str,
    summary: str,
    description: str,
    tag: str,
    *,
    answer: dict[str, Any],
    status: int = 200,
    problems: tuple[int, ...] = (405,),
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "description": description,
        "tags": [tag],
        "responses": {
            str(status): answer,
            **{
                str(code): {"$ref": f"#/components/responses/{_PROBLEMS[code][0]}"}
                for code in problems
            },
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _page(name: str, summary: str) -> dict[str, Any]:
    answer = _response("The page.", {"text/html": {"schema": {"type": "string"}}})
    return _operation(name, summary, "Works without any other host.", "pages", answer=answer)


def _response(
    description: str, content: dict[str, Any], headers: tuple[str, ...] = ()
) -> dict[str, Any]:
    response = {"description": description, "content": content}
    if headers:
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return response


def _problem(status: int) -> dict[str, Any]:
    _, title, detail = _PROBLEMS[status]
    example = msgspec.to_builtins(Problem("about:blank", title, status, detail))
    content = {"application/problem+json": {"schema": _ref("Problem"), "example": example}}
    headers = {405: ("Allow",), 503: ("Retry-After",)}.get(status, ())
    return _response(_PROBLEM_DESCRIPTIONS[status], content, headers)


def _json(schema: dict[str, Any], **examples: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **examples}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _SCHEMAS + name}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _query(name: str, description: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}
