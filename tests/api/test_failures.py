"""Errors on the wire: one shape with a remedy, OpenAI's under `/v1`, and a status that says whose fault it is."""

from __future__ import annotations

import inspect

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from playground import errors
from playground.api import failures
from playground.api.schemas.common import Failure, OpenAIFailure, Strict
from playground.errors import InvalidRequest, PlaygroundError, RateLimited

TABLE = {  # error → (elsewhere, under /v1)
    "InvalidRequest": (422, 400),
    "ContextOverflow": (422, 400),
    "ContentRefused": (422, 400),
    "ModelNotFound": (404, 404),
    "AdapterUnknown": (404, 404),
    "NotFound": (404, 404),
    "ModelUnsupported": (422, 422),
    "AdapterInvalid": (422, 422),
    "NotPermitted": (403, 403),
    "ModelNotLoaded": (409, 409),
    "ModelBusy": (409, 503),
    "RateLimited": (429, 429),
    "OutOfMemory": (503, 503),
    "QueueFull": (503, 503),
    "ShuttingDown": (503, 503),
    "JobsUnavailable": (503, 503),
    "HistoryUnavailable": (503, 503),
    "DeadlineExceeded": (504, 504),
    "EngineFailure": (500, 500),
    "ConfigError": (500, 500),
}
TYPES = {403: "permission_error", 429: "rate_limit_error"}


class Inner(Strict):
    colour: str


class Body(Strict):
    temperature: float | None = Field(default=None, ge=0, le=2)
    prompt: str
    inner: list[Inner] | None = None


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    failures.install(app)
    raised: dict[str, Exception] = {}
    app.state.raised = raised

    def fail() -> None:
        raise raised["it"]

    def take(body: Body) -> str:
        return body.prompt

    for prefix in ("/v1", "/api"):
        app.add_api_route(f"{prefix}/fail", fail)
        app.add_api_route(f"{prefix}/take", take, methods=["POST"])
    return TestClient(app, raise_server_exceptions=False)


def failed(client: TestClient, error: Exception, path: str = "/api/fail"):
    client.app.state.raised["it"] = error  # type: ignore[attr-defined]
    return client.get(path)


def refused(client: TestClient, body: object, path: str = "/api/take") -> dict[str, str]:
    """The error for ``body``, which must be bad input there."""
    how = (
        {"content": body, "headers": {"Content-Type": "application/json"}}
        if isinstance(body, bytes)
        else {"json": body}
    )
    response = client.post(path, **how)
    assert response.status_code == (400 if path.startswith("/v1") else 422), response.text
    (OpenAIFailure if path.startswith("/v1") else Failure).model_validate(response.json(), strict=True)
    return response.json()["error"]


def test_every_error_of_ours_has_its_place_in_the_table():
    """Issue 5: whoever adds an error decides what it is on the wire."""
    ours = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, PlaygroundError) and kind is not PlaygroundError
    }
    assert ours == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_an_error_is_a_status_and_a_sentence_with_its_remedy(client, name):
    """A4, issue 5: elsewhere the remedy beside the message, under /v1 OpenAI's four keys; the same code on both sides."""
    error = getattr(errors, name)("It is so.", "Do this.")
    for path, status in zip(("/api/fail", "/v1/fail"), TABLE[name], strict=True):
        response = failed(client, error, path)
        assert response.status_code == status
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        told = {"message": "It is so. Do this.", "type": kind, "param": None, "code": error.code}
        assert response.json() == {"error": told if path.startswith("/v1") else told | {"remedy": "Do this."}}
        assert ("retry-after" in response.headers) == (status in (429, 503))
        assert failures.body_of(error, path) == response.json()


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (59.01, "60")])
def test_retry_after_is_whole_seconds_rounded_up(client, seconds, header):
    """A6: who comes again then is let in."""
    assert failed(client, RateLimited("No.", "Wait.", seconds)).headers["Retry-After"] == header


def test_what_will_fail_again_is_not_asked_again(client):
    """A6: OpenAI's clients repeat a 409 and every 5xx by themselves, and a second deadline is a second wait."""
    assert failed(client, errors.DeadlineExceeded("Late."), "/v1/fail").headers["X-Should-Retry"] == "false"
    assert "X-Should-Retry" not in failed(client, errors.QueueFull("Full."), "/v1/fail").headers


@pytest.mark.parametrize("path", ["/api/fail", "/v1/fail"])
def test_a_bug_tells_nothing_of_the_machine(client, path):
    """S3: a general sentence; the traceback is the log's."""
    response = failed(client, ValueError("/root/secret"), path)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert ("remedy" in response.json()["error"]) == (path == "/api/fail")


@pytest.mark.parametrize(
    ("body", "param", "code", "says"),
    [
        (
            {"temperature": 9, "prompt": ""},
            "temperature",
            "invalid_value",
            "temperature should be less than or equal to 2",
        ),
        ({"temperature": "1", "prompt": ""}, "temperature", "invalid_value", "temperature should be a valid number"),
        ({"temprature": 1, "prompt": ""}, "temprature", "unknown_field", "Did you mean temperature?"),
        ({"parrot": 1, "prompt": ""}, "parrot", "unknown_field", "Unknown field parrot. Leave it out."),
        ({"prompt": "", "inner": [{"color": "red"}]}, "inner.0.color", "unknown_field", "Did you mean colour?"),
        ({"prompt": "", "inner": [{}]}, "inner.0.colour", "missing_field", "inner.0.colour is missing"),
        ({}, "prompt", "missing_field", "prompt is missing. Send it as well."),
        ([], None, "invalid_value", "not a JSON object"),
        (b"", None, "invalid_value", "no body"),
        (b"{", None, "invalid_json", "character 1"),
        (b'{"prompt": "\xff"}', None, "invalid_json", "UTF-8"),
        (b'{"prompt": "", "temperature": NaN}', "temperature", "invalid_value", "finite"),
        (b'{"prompt": "", "temperature": 1' + b"0" * 5000 + b"}", None, "invalid_json", "JSON"),
        (b'{"prompt": "", "\\ud800": 1}', "\\ud800", "unknown_field", "Leave it out"),
        (b'{"prompt": "\\ud800", "x": 1}', "x", "unknown_field", "Leave it out"),
        (b"[" * 100_000, None, "invalid_json", "JSON"),
        ({"prompt": "", "x" * 100_000: 1}, "x" * 4000, "unknown_field", "Leave it out"),
    ],
    ids=map(str, range(17)),
)
def test_a_body_is_refused_by_the_field_with_what_to_do(client, body, param, code, says):
    """A5, S5: half characters, NaN, endless numbers, deep nesting and long names included; never a 500."""
    for path in ("/api/take", "/v1/take"):
        error = refused(client, body, path)
        assert (error["param"], error["code"]) == (param, code)
        assert says in error["message"]
        assert len(error["message"]) < 500


def test_what_is_well_passes(client):
    """A5: strict is not deaf."""
    assert client.post("/api/take", json={"prompt": "yes", "inner": [{"colour": "red"}]}).json() == "yes"


def test_a_sockets_message_is_refused_in_the_same_words():
    """A2: frames are validated by hand."""
    with pytest.raises(ValidationError) as raised:
        Body.model_validate({"prompt": "", "temprature": 1})
    fault = failures.invalid(raised.value)
    assert (fault.status, fault.param, fault.code) == (422, "temprature", "unknown_field")
    assert fault.body()["error"]["remedy"] == "Did you mean temperature? Else leave it out."


def test_what_http_itself_refuses_has_the_same_shape(client):
    """A4: 404, 405 with Allow, 415, 413 and the gate's own."""
    for path, four in (("/api/no/such", False), ("/v1/no/such", True)):
        error = client.get(path).json()["error"]
        assert (error["code"], path in error["message"]) == ("not_found", True)
        assert ("remedy" in error) != four
    response = client.get("/api/take")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert response.json()["error"]["remedy"] == "Use POST."
    response = client.post("/api/take", content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert "application/json" in response.json()["error"]["remedy"]
    response = failed(client, HTTPException(413, "The request is larger than 5 bytes. Send less text."))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert response.json()["error"]["remedy"] == "Send less text."


def test_a_path_that_nobody_can_read_is_a_sentence_too(client):
    """S5: whatever a path holds, and however long it is."""
    for path in ("/%00", "/%ff%fe", "/" + "x" * 10_000, "/%ED%A0%80"):
        response = client.get(path)
        assert response.status_code == 404
        assert len(response.json()["error"]["message"]) < 500


def test_a_remedy_in_the_words_of_the_error_is_kept(client):
    """Issue 5: an error without a remedy has an empty one, never none."""
    assert failed(client, InvalidRequest("Only this.")).json()["error"]["remedy"] == ""
