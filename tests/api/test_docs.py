"""`/docs` and `/openapi.json`: complete, and working without a network."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from playground.api import create_app
from playground.api.docs import ASSETS, as_version_3_0
from playground.services.assembly import Services
from playground.types import knobs
from tests.api.fake_engine import FakeEngine

OURS = {"/health", "/v1/models", "/v1/models/{model_id}", "/v1/chat/completions", "/v1/completions", "/load_model"}


@pytest.fixture
def described(client) -> dict:
    return client.get("/openapi.json").json()


def test_every_route_is_described(described):
    """A4: summary, description and answers of each; errors included, and always as JSON."""
    assert set(described["paths"]) >= OURS
    for path in described["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert operation["description"]
            assert any(
                status.startswith("2") and said["description"] for status, said in operation["responses"].items()
            )
            for status, said in operation["responses"].items():
                assert status.startswith("2") or set(said["content"]) == {"application/json"}
    for path in ("/v1/chat/completions", "/v1/completions"):
        responses = described["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "4XX", "5XX"}
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        assert responses["200"]["content"]["text/event-stream"]["example"].endswith("data: [DONE]\n\n")


def test_the_examples_are_what_the_server_takes_and_sends(client, described):
    """A4: each request's example is answered, and each stream's example is made of the same parts as the stream."""
    for path in ("/v1/chat/completions", "/v1/completions"):
        operation = described["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        body = described["components"]["schemas"][schema]["example"]
        assert client.post(path, json=body).status_code == 200
        example = operation["responses"]["200"]["content"]["text/event-stream"]["example"]
        sent = client.post(path, json=body | {"stream": True}).text
        shown, real = ([json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
                       for text in (example, sent))  # fmt: skip
        assert set(shown[0]) == set(real[0])
        assert set(shown[0]["choices"][0]) == set(real[0]["choices"][0])


def test_a_key_can_be_entered_where_one_is_needed(config):
    """A6: only there; Swagger UI shows its button for it then."""
    for keys in ((), ("secret",)):
        keyed = replace(config, api_keys=keys)
        described = create_app(keyed, Services.over(FakeEngine(), keyed)).openapi()
        assert ("securitySchemes" in described["components"]) == bool(keys)
        assert described.get("security", []) == ([{"key": []}] if keys else [])
        assert "secret" not in json.dumps(described)


def test_bounds_and_helps_are_those_of_the_settings(described):
    """G4: one declaration, so that the pages and the API cannot differ."""
    fields = described["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    names = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens", "n": "num_return_sequences"}
    for name in (*knobs(), *names):
        if name in fields and name != "logit_bias":  # pairs in the settings, an object here
            knob = knobs()[names.get(name, name)]
            assert fields[name].get("minimum") == knob.low
            assert fields[name].get("maximum") == (None if knob.high is None else float(knob.high))
            assert fields[name]["description"] == knob.help


def test_there_is_an_example_to_try(described):
    """A4: "Try it out" starts from something that works."""
    example = described["components"]["schemas"]["ChatCompletionRequest"]["example"]
    assert example["model"] == "starter:pirate"
    for path in described["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schema = content["schema"]  # of one kind, of one that may be left out, or of several
                for named in schema.get("allOf", schema.get("anyOf", [schema])):
                    assert "example" in described["components"]["schemas"][named["$ref"].rpartition("/")[2]]


def test_what_comes_back_has_an_example_too(described):
    """A4: of every kind of answer: with all that it must have and that is not null, and nothing that it has not."""
    schemas = described["components"]["schemas"]
    for path in described["paths"].values():
        for operation in path.values():
            for status in {"200", "202"} & operation["responses"].keys():
                if sent := operation["responses"][status]["content"].get("application/json"):
                    schema = schemas[sent["schema"].get("items", sent["schema"])["$ref"].rpartition("/")[2]]
                    never_null = {name for name in schema["required"] if not schema["properties"][name].get("nullable")}
                    assert never_null <= set(schema["example"]) <= set(schema["properties"])


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
