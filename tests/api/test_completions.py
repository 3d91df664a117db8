"""`POST /v1/completions` over a scripted engine: prompts, echo, log-probabilities, refusals."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import aclosing
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from playground.api import create_app
from playground.api.completions import AT_ONCE, Completions
from playground.api.schemas.openai import MOST_PROMPTS, Completion, CompletionRequest
from playground.api.streaming import together
from playground.errors import ContextOverflow, EngineFailure
from playground.services.assembly import Services
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec, Provenance, Token
from tests.api.fake_engine import FakeEngine, Step, end, endless, text
from tests.api.test_chat import USAGE, events, refused

URL = "/v1/completions"
ASKED = {"model": "starter", "prompt": "Once upon"}
END = Token(9, "<end>", -0.25)


@pytest.fixture
def write(client: TestClient, fake: FakeEngine):
    """Send a completion whose fields are laid over a minimal one; ``script`` replaces the engine's."""

    def send(script=None, **fields: object):
        if script is not None:
            fake.script = lambda: list(script)
        return client.post(URL, json=ASKED | fields)

    return send


def test_a_whole_text(write, fake):
    """A4: the object that OpenAI's clients parse; the prompt reaches the engine raw, and 16 tokens are the default."""
    reply = write().json()
    assert reply.pop("id").startswith("cmpl-")
    assert reply.pop("created") > 0
    assert reply == {
        "object": "text_completion",
        "model": "starter",
        "choices": [{"index": 0, "text": "Hello there", "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    (request,) = fake.requests
    assert (request.prompt, request.template, request.settings.max_new_tokens) == ("Once upon", "raw", 16)


def test_a_streamed_text_joins_to_the_whole_one(write):
    """A4, G5: a chunk for each event, the finish reason in the last, then the counts if asked for, and the end mark."""
    *chunks, usage, done = events(write(stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 7)


@pytest.mark.parametrize(
    ("prompt", "texts", "ids"),
    [
        ("One", ["One"], [()]),
        (["One", "two"], ["One", "two"], [(), ()]),
        ([5, 6], [None], [(5, 6)]),
        ([[5, 6], [7]], [None, None], [(5, 6), (7,)]),
    ],
)
def test_prompts_are_texts_or_token_ids(write, fake, prompt, texts, ids):
    """A4: one or many of either; ids reach the engine as they are."""
    reply = write(prompt=prompt).json()
    assert [request.prompt for request in fake.requests] == texts
    assert [request.prompt_ids for request in fake.requests] == ids
    assert [choice["index"] for choice in reply["choices"]] == list(range(len(texts)))
    assert reply["usage"]["prompt_tokens"] == 5 * len(texts)


@pytest.mark.parametrize("stream", [False, True])
def test_choices_are_numbered_prompt_by_prompt(write, fake, stream):
    """A4: with n answers each, prompt number p has the choices from n·p on, however the answers arrive."""
    script = [text("b", index=1), text("a", index=0), end("stop", index=0), end("length", index=1)]
    response = write(script, prompt=["x", "y", "z"], n=2, stream=stream)
    whole = ["", "", "", "", "", ""]
    reasons: list = [None] * 6
    for chunk in events(response)[:-1] if stream else [response.json()]:
        for choice in chunk["choices"]:
            whole[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    assert whole == ["a", "b"] * 3
    assert reasons == ["stop", "length"] * 3
    assert all(request.settings.num_return_sequences == 2 for request in fake.requests)


def test_every_accepted_field_reaches_the_engine(write, fake):
    """A5: what is accepted has an effect."""
    write(
        temperature=0.5, top_p=0.8, top_k=7, min_p=0.1, max_tokens=9, repetition_penalty=1.2, presence_penalty=-1,
        frequency_penalty=2, logit_bias={"5": -100, "7": 1.5}, stop=["END"], seed=11, n=3, best_of=3, logprobs=4,
        reproducible=True,
    )  # fmt: skip
    (request,) = fake.requests
    assert request.settings == GenerationSettings(
        temperature=0.5, top_p=0.8, top_k=7, min_p=0.1, max_new_tokens=9, repetition_penalty=1.2, presence_penalty=-1,
        frequency_penalty=2, logit_bias=((5, -100.0), (7, 1.5)), stop=("END",), seed=11, num_return_sequences=3,
        top_logprobs=4, reproducible=True,
    )  # fmt: skip


def test_log_probabilities_are_four_lists(write):
    """A4: the token that ended the answer is among them, as evaluations leave out the last; alternatives by text."""
    said = Token(1, " there", -0.5, ((1, " there", -0.5), (2, "\ufffd", -1.5), (3, "\ufffd", -2.5)))
    script = [text(" there", 1, tokens=(said,)), replace(end("stop", "", 2), end=END)]
    expected = {
        "tokens": [" there", "<end>"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{" there": -0.5, "\ufffd": -1.5}, {"<end>": -0.25}],
        "text_offset": [0, 6],
    }
    reply = write(script, logprobs=3).json()
    assert reply["choices"][0] == {"index": 0, "text": " there", "logprobs": expected, "finish_reason": "stop"}
    assert Completion.model_validate(reply).choices[0].logprobs is not None
    chunks = [chunk["choices"][0]["logprobs"] for chunk in events(write(script, logprobs=3, stream=True))[:-1]]
    assert {name: [value for chunk in chunks for value in chunk[name]] for name in expected} == expected
    assert write(script).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_comes_first_with_its_log_probabilities(write, stream):
    """A4: the first token has none, for nothing predicts it; offsets go on where the prompt ends."""
    said = Token(1, " there", -0.5)
    response = write([text(" there", 1, tokens=(said,)), end(count=1)], echo=True, logprobs=1, stream=stream)
    choices = [chunk["choices"][0] for chunk in (events(response)[:-1] if stream else [response.json()])]
    assert "".join(choice["text"] for choice in choices) == "Once upon there"
    found = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert {name: [value for part in found for value in part[name]] for name in found[0]} == {
        "tokens": ["Once", " upon", " there"],
        "token_logprobs": [None, -1.0, -0.5],
        "top_logprobs": [None, {"other0": -1.0, " upon": -1.0}, {" there": -0.5}],
        "text_offset": [0, 4, 9],
    }


@pytest.mark.parametrize("stream", [False, True])
def test_no_token_is_written_where_none_was_asked_for(write, fake, stream):
    """A4: max_tokens 0 with echo only reads, ids as well as texts; the prompt is counted."""
    response = write(prompt=[[5, 6], [7]], echo=True, logprobs=0, max_tokens=0, stream=stream,
                     **({"stream_options": {"include_usage": True}} if stream else {}))  # fmt: skip
    chunks = events(response)[:-1] if stream else [response.json()]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    whole = ["".join(choice["text"] for choice in choices if choice["index"] == index) for index in (0, 1)]
    assert whole == ["<5><6>", "<7>"]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length", "length"]
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    assert fake.requests == []


def test_an_echo_without_log_probabilities_costs_no_reading(write, fake):
    """A4: a text is known already, so nothing is computed for it; ids have to be put into words."""
    fake.prompt_tokens = None
    assert write(echo=True).json()["choices"][0]["text"] == "Once uponHello there"
    del fake.prompt_tokens
    assert write(echo=True, prompt=[5]).json()["choices"][0]["text"] == "<5>Hello there"


def test_impossible_tokens_are_numbers_that_json_knows(write):
    """A4: minus infinity is OpenAI's −9999."""
    script = [text("a", 1, tokens=(Token(1, "a", -0.5, ((2, "b", -math.inf),)),)), end(count=1)]
    found = write(script, logprobs=1).json()["choices"][0]["logprobs"]["top_logprobs"]
    assert found == [{"b": -9999.0, "a": -0.5}]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"suffix": "end"}, "suffix", ["suffix"]),
        ({"sufix": "end"}, "sufix", ["sufix"]),
        ({"promt": "x"}, "promt", ["promt", "prompt"]),
        ({"messages": []}, "messages", ["messages"]),
        ({"best_of": 3}, None, ["best_of"]),
        ({"max_tokens": 0}, None, ["max_tokens"]),
        ({"max_tokens": -1}, "max_tokens", ["max_tokens"]),
        ({"logprobs": 21}, "logprobs", ["logprobs"]),
        ({"logprobs": True}, "logprobs", ["logprobs"]),
        ({"stream_options": {"include_usage": True}}, None, ["stream"]),
        ({"prompt": ""}, None, ["empty"]),
        ({"prompt": []}, "prompt", ["list"]),
        ({"prompt": [[]]}, "prompt", ["list"]),
        ({"prompt": ["a", 5]}, "prompt", ["list"]),
        ({"prompt": [5, True]}, "prompt", ["list"]),
        ({"prompt": [-1]}, None, ["token id"]),
        ({"prompt": {"a": 1}}, "prompt", ["text"]),
        ({"prompt": None}, "prompt", ["prompt"]),
        ({"prompt": ["x"] * (MOST_PROMPTS + 1)}, "prompt", [str(MOST_PROMPTS)]),
        ({"logit_bias": {"x": 1}}, "logit_bias", ["'x'", "token id"]),
        ({"logit_bias": {"\ud800": 1}}, "logit_bias", ["token id"]),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", ["100"]),
        ({"logit_bias": {"5": 1, "05": 2}}, None, ["twice"]),
        ({"logit_bias": [5]}, "logit_bias", ["logit_bias"]),
        ({"response_format": {"type": "json_object"}}, "response_format", ["response_format"]),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(refusing, idle, fields, param, words):
    """A5: nothing is accepted and then ignored; a near name is suggested."""
    body = json.dumps(ASKED | fields)
    response = refusing.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert refused(response, *words)["param"] == param
    assert idle.requests == []


def test_neutral_values_pass(write):
    """A5: what clients send without meaning anything by it."""
    neutral = {"suffix": None, "best_of": None, "echo": False, "user": "me", "logit_bias": {}, "presence_penalty": 0}
    assert write(**neutral).status_code == 200


def test_an_unknown_model_is_404_and_never_the_base(write, fake):
    """A4: as for chats."""
    assert refused(write(model="starter:parrot"), "starter:parrot", status=404)["code"] == "model_not_found"
    assert fake.requests == []


@pytest.mark.parametrize("stream", [False, True])
def test_the_first_failure_ends_all_prompts(write, fake, stream):
    """G6: a status before the first word, also where one prompt of several fails; nothing goes on."""
    response = write([ContextOverflow("Too long.", "Shorten it.")], prompt=["a", "b", "c"], stream=stream)
    assert refused(response, "Shorten it.")["code"] == "context_length_exceeded"
    assert fake.running == 0


def test_a_failure_in_the_middle_of_a_stream_ends_it_with_the_error(write, fake):
    """G6: an error event, no end mark."""
    *_, last = events(write([text("He"), EngineFailure("It failed.", "Try again.")], prompt=["a", "b"], stream=True))
    assert last["error"]["message"] == "It failed. Try again."
    assert fake.running == 0


def test_only_so_many_prompts_of_one_request_run_at_once(config):
    """A7: a long list leaves room for others; where a caller may have eight running, four."""
    for allowed, expected in ((0, AT_ONCE), (8, 4), (1, 1)):
        fake, seen = FakeEngine(), []

        def counted(fake: FakeEngine = fake, seen: list[int] = seen) -> list[Step]:
            seen.append(fake.running)
            return [text("a"), 0.001, end()]

        fake.script = counted
        limited = replace(config, at_once=allowed)
        client = TestClient(create_app(limited, Services.over(fake, limited)), base_url="http://localhost")
        assert len(client.post(URL, json=ASKED | {"prompt": ["x"] * 40}).json()["choices"]) == 40
        assert max(seen) == expected


def test_leaving_ends_the_reading_of_an_echoed_prompt(config, fake, monkeypatch):
    """A7: the engine hears that its result is not wanted any more."""
    told = threading.Event()

    def reading(request: GenerationRequest, top: int, wanted: Callable[[], bool]) -> tuple[Token, ...]:
        while wanted():
            time.sleep(0.01)
        told.set()
        raise CancelledError

    monkeypatch.setattr(fake, "prompt_tokens", reading)
    completions = Completions(config, Services.over(fake, config))
    body = CompletionRequest(**ASKED | {"echo": True, "logprobs": 0})

    async def leave() -> None:
        events = completions._continued(body, GenerationRequest(ModelSpec("starter"), "Hello", template="raw"))
        for _ in range(2):  # the reading has begun by the second sign of life
            await anext(events)
        await events.aclose()

    asyncio.run(leave())
    assert told.wait(30)


def test_leaving_stops_every_prompt(config):
    """G6, A7: whoever closes the joined events closes each of them."""
    fake = FakeEngine(endless)

    async def left() -> list[GenerationEvent]:
        sources = [lambda: fake.astream(None)] * 3
        seen = []
        async with aclosing(together(sources, 1, 2)) as joined:
            async for event in joined:
                seen.append(event)
                if len(seen) == 5:
                    assert fake.running == 2
                    break
        return seen

    assert {event.index for event in asyncio.run(left())} == {0, 1}
    assert fake.running == 0


@pytest.mark.parametrize("stream", [False, True])
def test_reading_a_prompt_shows_signs_of_life_and_fails_as_a_status(write, fake, stream):
    """G5, G6: comments while an echoed prompt is read, for which a model may have to be loaded; an error before that."""
    read = fake.prompt_tokens

    def slowly(request: GenerationRequest, top: int, wanted: object) -> tuple[Token, ...]:
        time.sleep(0.5)
        return read(request, top)

    def broken(request: GenerationRequest, top: int, wanted: object) -> tuple[Token, ...]:
        raise ContextOverflow("Too long.", "Shorten it.")

    fake.prompt_tokens = slowly
    response = write(echo=True, logprobs=0, stream=stream)
    assert response.status_code == 200
    assert (response.text.count(": queued reading the prompt\n\n") >= 2) == stream
    fake.prompt_tokens = broken
    refused(write(echo=True, logprobs=0, stream=stream), "Shorten it.")


def test_a_kept_answer_is_the_same_to_its_last_token(config):
    """A8, A4: evaluations that are run twice get the same numbers, the token that ended the answer among them."""
    made = Provenance("m", "", (), "none", "float32", "cpu", "raw", GenerationSettings(), 3, {})
    said = Token(1, " there", -0.5, ((1, " there", -0.5),))
    script = [
        replace(text(""), provenance=made),
        text(" there", 1, tokens=(said,)),
        replace(end("stop", "", 2), end=END, provenance=made),
    ]
    fake, keeping = FakeEngine(lambda: script), replace(config, answer_cache=10)
    client = TestClient(create_app(keeping, Services.over(fake, keeping)), base_url="http://localhost")
    first, second = (client.post(URL, json=ASKED | {"temperature": 0, "logprobs": 1}).json() for _ in range(2))
    assert ("cached" in first, second["cached"]) == (False, True)
    assert first["choices"] == second["choices"]
    assert first["choices"][0]["logprobs"]["tokens"] == [" there", "<end>"]


def test_a_prompt_may_fill_the_window_where_it_is_only_read(write, fake):
    """A4: nothing has to fit behind it, so that the longest texts can be evaluated as well."""

    def full(request: GenerationRequest):
        raise ContextOverflow("2 tokens, 2 fit.", "Shorten it.")

    fake.render = full
    reply = write(prompt=[5, 6], echo=True, logprobs=0, max_tokens=0).json()
    assert reply["choices"][0]["text"] == "<5><6>"
