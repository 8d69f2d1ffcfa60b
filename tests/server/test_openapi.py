"""The document is valid OpenAPI 3.1 and describes every route as structs and handlers are. 3 s."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis

from server import app
from server.openapi import document
from server.schema import MAX_K, Event, Problem, Request
from server.settings import Settings

DOCUMENT = document(app.ROUTES)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to."""
    while "$ref" in node:
        found: Any = DOCUMENT
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        node = found
    return node


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from nodes(inner)


def validator(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Of one of its schemas, with the components that it refers to."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Path and method of every route of the app, but for what the pages are made of."""
    made = app.create_app(
        Settings(
            bundle=Path("none"), events=str(tmp_path_factory.mktemp("events") / "events.sqlite")
        )
    )
    every = {(route.resource.canonical, route.method.lower()) for route in made.router.routes()}
    return {
        (path, method)
        for path, method in every
        if method != "head" and not path.startswith("/static/")
    }


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    broken = {**DOCUMENT, "paths": {"/": {"get": {"responses": {"200": {}}}}}}
    with pytest.raises(jsonschema_rs.ValidationError):
        schemathesis.openapi.from_dict(broken).validate()
    for node in nodes(DOCUMENT):
        assert "$ref" not in node or resolve(node)
    names = [operation["operationId"] for *_, operation in operations()]
    assert len(names) == len(set(names))


def test_it_has_every_route_and_no_other(routes: set[tuple[str, str]]) -> None:
    assert {(path, method) for path, method, _ in operations()} == routes


def test_every_operation_is_explained() -> None:
    for path, method, operation in operations():
        assert operation["summary"], path
        assert operation["description"], path
        responses = {
            status: resolve(response) for status, response in operation["responses"].items()
        }
        expected = {"405"} | (
            {"400", "404", "408", "413", "415", "422", "503"} if method == "post" else set()
        )
        assert expected <= responses.keys(), path
        for status, response in responses.items():
            assert response["description"], (path, status)
            kinds = set(response["content"])
            assert (kinds == {"application/problem+json"}) is (status >= "400"), (path, status)


def test_every_example_is_valid() -> None:
    checked = 0
    for node in nodes(DOCUMENT):
        if "schema" not in node:
            continue
        values = [example["value"] for example in node.get("examples", {}).values()]
        for value in [*values, *([node["example"]] if "example" in node else [])]:
            validator(node["schema"]).validate(value)
            checked += 1
    assert checked == 4  # every one of a body


BODIES = [
    ({"user_id": 5}, True),
    ({"user_id": "u5", "k": 100}, True),
    ({"history": []}, True),
    ({"history": [1, "tt2"], "user_id": None, "degrade": True}, True),
    ({"user_id": 5, "history": None, "exclude_seen": False, "include_titles": False}, True),
    ({}, False),
    ({"k": 5}, False),
    ({"user_id": None}, False),
    ({"user_id": None, "history": None}, False),
    ({"user_id": 5, "history": [1]}, False),
    ({"user_id": 5, "history": []}, False),
    ({"user_id": True}, False),
    ({"user_id": 5.5}, False),
    ({"user_id": "u" * 201}, False),
    ({"history": [None]}, False),
    ({"history": 1}, False),
    ({"history": [1] * 10_001}, False),
    ({"user_id": 5, "k": 0}, False),
    ({"user_id": 5, "k": MAX_K + 1}, False),
    ({"user_id": 5, "k": "10"}, False),
    ({"user_id": 5, "k": None}, False),
    ({"user_id": 5, "degrade": 1}, False),
    ({"user_id": 5, "more": 1}, False),
    ([5], False),
    (None, False),
]


@pytest.mark.parametrize(("body", "taken"), BODIES, ids=lambda value: str(value)[:40])
def test_the_schema_takes_what_the_server_takes(body: Any, taken: bool) -> None:
    """Above all that one of user and history is given, which the struct checks in code."""
    assert validator({"$ref": "#/components/schemas/Request"}).is_valid(body) is taken
    raw = msgspec.json.encode(body)
    if taken:
        msgspec.json.decode(raw, type=Request)
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(raw, type=Request)


def test_fields_are_those_of_the_structs() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for kind in (Request, Event, Problem):
        assert list(schemas[kind.__name__]["properties"]) == list(kind.__struct_fields__)
    assert schemas["Event"]["required"] == ["user_id", "item_id"]
