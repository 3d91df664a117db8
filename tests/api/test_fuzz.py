"""Random bodies: whatever is sent, the answer is a status with a sentence, never a 500."""

from __future__ import annotations

import functools
import json
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from playground.api import create_app
from playground.api.schemas.openai import NEUTRAL, ChatCompletionRequest
from playground.config import load_config
from playground.services.assembly import Services
from playground.services.chat_files import EXPORT_FORMATS, FORMAT
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
SAVED = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text(st.characters()) | ANY},
    optional={
        "conversation_id": st.sampled_from(["one", "a/b"]) | st.text(st.characters()) | ANY,
        "model_id": st.text(st.characters()) | ANY,
        "use_case": st.sampled_from(["qa", "code-generation"]) | ANY,
        "parrot": ANY,
    },
)
SPOKEN = {"role": "user", "content": "Hello"}
TURN: dict[str, object] = {"id": "t", "parent": "", "role": "assistant", "content": "Ahoy", "at": 1.5, "thumb": 1}
WHOLE: dict[str, object] = {
    "id": "c", "title": "", "created_at": 1.5, "updated_at": 2, "use_case": "qa", "system": "", "leaf": "t", "turns": [TURN]
}  # fmt: skip


def one_changed(whole: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """``whole`` with anything at all in the place of one of its fields, or beside them."""
    anything = ANY | st.text(st.characters(), min_size=1) | st.floats(0, 1e10)
    return st.builds(lambda name, value: whole | {name: value}, st.sampled_from([*whole, "parrot"]), anything)


# Files of conversations in which one thing is wrong, or nothing, or everything.
FILE = st.one_of(
    st.builds(lambda turn: {"messages": [SPOKEN, turn]}, one_changed(SPOKEN)),
    st.builds(
        lambda turn, whole: {
            "format": FORMAT, "alike": [], "conversations": [WHOLE | {"turns": [TURN | turn]}, whole]
        },
        one_changed(TURN), one_changed(WHOLE),
    ),
    ANY,
)  # fmt: skip
NAME = st.text(st.characters(), max_size=20)
TAKEN_IN = st.one_of(
    st.fixed_dictionaries({"name": NAME, "text": FILE.map(json.dumps)}),
    st.fixed_dictionaries({"name": NAME | ANY, "text": st.text(st.characters()) | ANY}, optional={"parrot": ANY}),
)


@functools.cache
def server() -> TestClient:
    """One for all bodies: putting the API together takes longer than hundreds of answers."""
    config = load_config()
    app = create_app(config, Services.over(FakeEngine(), config))
    here = ("127.0.0.1", 50000)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, client=here)


def check(body: object, path: str = "/v1/chat/completions") -> None:
    response = server().post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
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


CONVERSATIONS = {
    "/api/inference/conversation/save": (SAVED, SPOKEN),
    "/api/inference/conversations/import": (TAKEN_IN, {"name": "", "text": json.dumps([{"messages": [SPOKEN]}])}),
}


def check_conversations(path: str, examples: int, **options: object) -> None:
    """Send random bodies to ``path``; what was taken can be listed, read and exported, whatever it is."""
    bodies, right = CONVERSATIONS[path]

    @given(bodies | ANY)
    @example(right)
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), **options)
    def one(body: object) -> None:
        check(body, path)

    one()
    listed = server().get("/api/inference/conversations", params={"limit": 1000})
    assert listed.json()["total"] > 0
    for line in listed.json()["conversations"]:
        assert server().get(f"/api/inference/conversation/{quote(line['id'], safe='')}").status_code == 200
    for form in EXPORT_FORMATS:
        assert server().get("/api/inference/conversations/export", params={"format": form}).status_code == 200
    assert server().delete("/api/inference/conversations").json()["deleted"] == listed.json()["total"]


@pytest.mark.parametrize("path", CONVERSATIONS)
def test_random_bodies_never_break_the_conversations(path):
    """S5: a hundred here, a thousand in the long run."""
    check_conversations(path, 100, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("path", CONVERSATIONS)
def test_a_thousand_random_bodies_never_break_the_conversations(path):
    """S5: 1,000 random API bodies give no 500."""
    check_conversations(path, 1000)


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
