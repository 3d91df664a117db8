"""Random bodies: whatever is sent, the answer is a status with a sentence, never a 500."""

from __future__ import annotations

import functools
import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from playground.api import create_app
from playground.api.schemas.openai import NEUTRAL, ChatCompletionRequest
from playground.config import load_config
from playground.services.assembly import Services
from tests.api.fake_engine import FakeEngine

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({*ChatCompletionRequest.model_fields, *NEUTRAL} - {"model", "messages"})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text() | ANY},
    optional={"name": ANY, "parrot": ANY},
)
BODY = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["starter", "starter:pirate"]) | st.text() | ANY,
        "messages": st.lists(MESSAGE, min_size=1, max_size=3) | ANY,
    },
    optional=dict.fromkeys(FIELDS, ANY),
)


@functools.cache
def server() -> TestClient:
    """One for all bodies: putting the API together takes longer than hundreds of answers."""
    config = load_config()
    app = create_app(config, Services.over(FakeEngine(), config))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def check(body: object) -> None:
    response = server().post(
        "/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code < 500, (body, response.text)
    if not response.is_success:
        assert response.json()["error"]["message"]


@given(BODY | ANY)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_random_bodies_never_break_the_server(body):
    """S5: a hundred here, a thousand in the long run."""
    check(body)


@pytest.mark.long
@given(BODY | ANY)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_thousand_random_bodies_never_break_the_server(body):
    """S5: 1,000 random API bodies give no 500."""
    check(body)


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "starter", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "starter", "\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "starter", "chat_template_kwargs": {"": "\\ud800"}, "messages": [{"role": "user", "content": ""}]}',
        b'{"model": "starter", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "starter", "max_tokens": 1' + b"0" * 5000 + b', "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_broke_others(client, content):
    """S5: half characters, NaN, endless numbers, deep nesting."""
    response = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404)
    response.json()
