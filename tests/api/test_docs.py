"""`/docs` and `/openapi.json`: complete, and working without a network."""

from __future__ import annotations

import json

import pytest

from playground.api.docs import ASSETS, as_version_3_0
from playground.types import knobs


@pytest.fixture
def described(client) -> dict:
    return client.get("/openapi.json").json()


def test_every_route_is_described(described):
    """A4: summary, description and answers of each; errors included."""
    assert set(described["paths"]) == {"/health", "/v1/models", "/v1/models/{model_id}", "/v1/chat/completions"}
    for path in described["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert operation["description"]
            assert operation["responses"]["200"]["description"]
    chat = described["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]) == {"200", "4XX", "5XX"}
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


def test_bounds_and_helps_are_those_of_the_settings(described):
    """G4: one declaration, so that the pages and the API cannot differ."""
    fields = described["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    names = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens", "n": "num_return_sequences"}
    for name in (*knobs(), *names):
        if name in fields:
            knob = knobs()[names.get(name, name)]
            assert fields[name].get("minimum") == knob.low
            assert fields[name].get("maximum") == (None if knob.high is None else float(knob.high))
            assert fields[name]["description"] == knob.help


def test_there_is_an_example_to_try(described):
    """A4: "Try it out" starts from something that works."""
    example = described["components"]["schemas"]["ChatCompletionRequest"]["example"]
    assert example["model"] == "starter:pirate"


def test_the_description_is_valid_openapi_3_0(described):
    """A4: the bundled Swagger UI reads 3.0, which has neither null types nor const."""
    text = json.dumps(described)
    assert described["openapi"] == "3.0.3"
    assert '"const"' not in text
    assert '{"type": "null"}' not in text


def test_as_version_3_0():
    """A4: nullable instead of a null type, an enum of one instead of const, one example."""
    assert as_version_3_0({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "title": "N"}) == {
        "type": "integer",
        "minimum": 1,
        "title": "N",
        "nullable": True,
    }
    assert as_version_3_0({"anyOf": [{"$ref": "#/x"}, {"type": "null"}]}) == {
        "allOf": [{"$ref": "#/x"}],
        "nullable": True,
    }
    assert as_version_3_0([{"const": "a", "examples": [1, 2]}]) == [{"enum": ["a"], "example": 1}]


def test_the_page_needs_nothing_from_elsewhere(client):
    """S4: every file that the page names is served here, and no other host is named."""
    page = client.get("/docs").text
    assert "//" not in page.replace("<!doctype html>", "")
    for name in (*ASSETS, "start.js"):
        assert f"/docs/{name}" in page
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/docs/__init__.py").status_code == 404
    assert client.get("/docs/..%2F__init__.py").status_code == 404
