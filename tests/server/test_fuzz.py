"""The server against its own document: every response is as documented. 10 s."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import schemathesis

from server.app import ROUTES
from server.openapi import document
from tests.server.films import ITEM_IDS, USER_IDS, Running, build, serving

EXAMPLES = 40  # random ones per operation, beside those that cover every bound and type
# A body of any form may be too large.
ACCEPTED, REJECTED = ["2xx", "404", "413"], ["400", "405", "413", "415", "422"]


def api(schema: dict[str, Any], **generation: Any) -> schemathesis.BaseSchema:
    """Operations of a document to fuzz, with the same examples each time."""
    settings = {
        "generation": {
            "max-examples": EXAMPLES,
            "deterministic": True,
            "database": "none",
            **generation,
        },
        "checks": {
            "positive_data_acceptance": {"expected-statuses": ACCEPTED},
            "negative_data_rejection": {"expected-statuses": REJECTED},
        },
    }
    return schemathesis.openapi.from_dict(schema, config=schemathesis.Config.from_dict(settings))


def of_known_ids() -> dict[str, Any]:
    """The document with only the ids of the bundle: random ones would all end in a 404."""
    known = deepcopy(document(ROUTES))
    known["paths"] = {
        path: methods for path, methods in known["paths"].items() if "post" in methods
    }
    schemas = known["components"]["schemas"]
    user, item = {"enum": USER_IDS}, {"enum": ITEM_IDS}
    schemas["Event"]["properties"] = {"user_id": user, "item_id": item}
    schemas["Request"]["properties"] |= {
        "user_id": user,
        "history": {"type": "array", "items": item, "maxItems": 30},
    }
    schemas["Request"]["oneOf"] = [{"required": ["user_id"]}, {"required": ["history"]}]
    return known


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    """A server of one worker; its log has no traceback in the end."""
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    with serving(build(folder), folder) as running:
        yield running
    log = running.log.read_text()
    assert "Traceback" not in log, log


def written_whole(value: Any) -> Any:
    """Write 5 for 5.0: both are integers in JSON Schema, but the server takes only the first."""
    if isinstance(value, dict):
        return {key: written_whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [written_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


ANY, KNOWN = api(document(ROUTES)), api(of_known_ids(), mode="positive")
for schema in (ANY, KNOWN):
    schema.hook("map_body")(lambda context, body: written_whole(body))


@ANY.parametrize()
def test_every_answer_is_as_documented(case: schemathesis.Case, server: Running) -> None:
    case.call_and_validate(base_url=server.url)


@KNOWN.parametrize()
def test_known_ids_are_answered(case: schemathesis.Case, server: Running) -> None:
    response = case.call_and_validate(base_url=server.url)
    assert response.status_code in (200, 201)
