"""`POST /v1/chat/completions` over a scripted engine: shapes, refusals, failures."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from playground.api import create_app
from playground.api.openai import ServedModels
from playground.api.schemas.openai import ChatCompletionRequest
from playground.config import ModelEntry
from playground.errors import ContextOverflow, EngineFailure, InvalidRequest, ModelBusy, OutOfMemory, QueueFull
from playground.services.assembly import Services
from playground.services.models import Models
from playground.services.names import Named, Names
from playground.types import GenerationSettings, LoadedAdapter, Message, ResidentInfo, knobs
from tests.api.conftest import HELLO
from tests.api.fake_engine import LOADING, FakeEngine, end, text

# What the scripted answer is said to have cost: three of the prompt's tokens were known.
USAGE = {
    "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3},
}  # fmt: skip


def events(response) -> list:
    """The data of a stream's events, the end mark included."""
    lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def refused(response, *words: str, status: int = 400) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for word in words:
        assert word in error["message"]
    return error


@pytest.fixture(scope="module")
def try_out(refusing):
    """Send a chat completion that will be refused: the fields are laid over a minimal one."""
    return lambda **fields: refusing.post("/v1/chat/completions", json=HELLO | fields)


def test_a_whole_answer(ask):
    """A4: the object that OpenAI's clients parse, with true token counts."""
    reply = ask().json()
    assert reply.pop("id").startswith("chatcmpl-")
    assert reply.pop("created") > 0
    assert reply == {
        "object": "chat.completion",
        "model": "starter",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def test_a_streamed_answer_joins_to_the_whole_one(ask):
    """A4, G5: role first, text deltas, the finish reason, the end mark; one id throughout."""
    response = ask(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_a_stream_ends_with_usage_when_asked(ask):
    """A4: stream_options.include_usage: null in every chunk but the last, which has no choices."""
    *chunks, usage, _ = events(ask(stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"] == USAGE


def test_several_answers_keep_apart(ask):
    """A4: n, with each answer's own finish reason."""
    script = [text("a", index=0), text("x", index=1), end("length", "b", index=1), end("stop", "c", index=0)]
    choices = ask(script, n=2).json()["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "ac", "stop"),
        (1, "xb", "length"),
    ]
    streamed = events(ask(script, n=2, stream=True))[:-1]
    for index, expected in enumerate(("ac", "xb")):
        mine = [c["choices"][0] for c in streamed if c["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == expected
        assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == [
            choices[index]["finish_reason"]
        ]


def test_every_accepted_field_reaches_the_engine(ask, fake):
    """A5: what is accepted has an effect."""
    ask(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": []},
            {"role": "user", "content": "Go on."},
        ],
        temperature=0.5,
        top_p=0.8,
        top_k=7,
        min_p=0.1,
        max_tokens=9,
        repetition_penalty=1.2,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias={"5": -100, "7": 1.5},
        stop="END",
        seed=11,
        n=3,
        logprobs=True,
        top_logprobs=4,
        reproducible=True,
        chat_template_kwargs={"enable_thinking": False},
    )
    (request,) = fake.requests
    assert request.messages == (
        Message("system", "Be brief."),
        Message("user", "One\ntwo"),
        Message("assistant", "Yes."),
        Message("user", "Go on."),
    )
    assert request.settings == GenerationSettings(
        temperature=0.5,
        top_p=0.8,
        top_k=7,
        min_p=0.1,
        max_new_tokens=9,
        repetition_penalty=1.2,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias=((5, -100.0), (7, 1.5)),
        stop=("END",),
        seed=11,
        num_return_sequences=3,
        top_logprobs=4,
        reproducible=True,
    )
    assert request.chat_template_kwargs == {"enable_thinking": False}


def test_the_last_message_can_be_gone_on_with(ask, fake):
    """A4: vLLM's continue_final_message: an assistant's last turn is how the answer begins, and is not repeated."""
    turns = [{"role": "user", "content": "Sing."}, {"role": "assistant", "content": "La la"}]
    assert ask(messages=turns, continue_final_message=True, add_generation_prompt=False).status_code == 200
    (request,) = fake.requests
    assert (request.messages, request.prefill) == ((Message("user", "Sing."),), "La la")
    ask(messages=turns, continue_final_message=False, add_generation_prompt=True)
    assert (fake.requests[1].messages[-1].content, fake.requests[1].prefill) == ("La la", "")
    refused(ask(messages=turns[:1], continue_final_message=True), "continue_final_message")
    refused(ask(messages=turns, continue_final_message=True, add_generation_prompt=True), "continue_final_message")
    refused(ask(messages=turns, add_generation_prompt=False), "add_generation_prompt")
    refused(ask(messages=turns[1:], continue_final_message=True), "empty")
    assert len(fake.requests) == 2


def test_what_transformers_chat_sends_has_an_effect(ask, fake):
    """A4, A5: its settings as JSON text; OpenAI's own fields win; what is not ours is refused by its full name."""
    sent = {
        "do_sample": True,
        "max_new_tokens": 7,
        "temperature": 0.9,
        "repetition_penalty": 1.2,
        "stop_strings": "END",
    }
    ask(generation_config=json.dumps(sent | {"transformers_version": "5", "num_beams": 1, "use_cache": True}))
    ask(generation_config=json.dumps(sent), temperature=0.1, max_tokens=3)
    ask(generation_config=json.dumps({"do_sample": False}))
    first, second, third = (request.settings for request in fake.requests)
    assert (first.max_new_tokens, first.temperature, first.repetition_penalty) == (7, 0.9, 1.2)
    assert (first.stop, first.penalize_prompt) == (("END",), True)
    assert (second.temperature, second.max_new_tokens, second.repetition_penalty) == (0.1, 3, 1.2)
    assert third.is_greedy
    for wrong, param in (
        ({"num_beams": 4}, "num_beams"),
        ({"eos_token_id": [1]}, "eos_token_id"),
        ({"temperature": 3}, "temperature"),
    ):
        full = f"generation_config.{param}"
        assert refused(ask(generation_config=json.dumps(wrong)), param)["param"] == full
    for broken in ("{", "[]", "7", "[" * 100_000, 5):
        assert refused(ask(generation_config=broken))["param"] == "generation_config"


def test_sampling_has_a_temperature_where_the_recommendation_is_greedy():
    """A5: do_sample true has an effect."""
    sent = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "generation_config": '{"do_sample": true}'}
    greedy = GenerationSettings(strategy="greedy")
    assert not ChatCompletionRequest(**sent).settings(greedy).is_greedy


def test_what_is_left_out_comes_from_the_models_recommended_settings(ask, fake):
    """A4: a client that sets nothing gets what suits the model; one that sets something gets that."""
    ask(model="starter", top_p=0.5, max_completion_tokens=3)
    ask(model="gpt2")
    recommended, plain = (request.settings for request in fake.requests)
    assert (recommended.temperature, recommended.top_p, recommended.max_new_tokens) == (0.3, 0.5, 3)
    assert plain == GenerationSettings()


def test_a_greedy_recommendation_does_not_silence_a_clients_temperature(config):
    """A5: temperature has an effect also where the model's own recommendation is greedy."""
    sent = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    greedy = GenerationSettings(strategy="greedy")
    assert ChatCompletionRequest(**sent).settings(greedy).is_greedy
    assert not ChatCompletionRequest(**sent, temperature=0.8).settings(greedy).is_greedy


def test_a_strength_is_named_behind_the_adapter(ask, fake):
    """A4, C4: `base:adapter@0.5`; a strength that is none, or of nothing, is an error and never another strength."""
    assert ask(model="starter:pirate@0.5").json()["model"] == "starter:pirate@0.5"
    ((_, scale),) = fake.requests[0].spec.adapters
    assert scale == 0.5
    for model, status in (("starter:pirate@x", 404), ("starter:pirate@nan", 404), ("starter@0.5", 400)):
        refused(ask(model=model), repr(model), status=status)
    refused(ask(model="starter:pirate@1e9"), "strength")
    assert len(fake.requests) == 1


def test_adapters_are_named_behind_the_base(ask, fake):
    """A4: `base:adapter` is the base with that adapter, `base` is the base alone."""
    ask(model="starter:pirate")
    ask(model="starter")
    with_adapter, alone = (request.spec for request in fake.requests)
    ((path, scale),) = with_adapter.adapters
    assert path.endswith("pirate")
    assert scale == 1.0
    assert with_adapter.without_adapters() == alone


@pytest.mark.parametrize(
    "model", ["starter:parrot", "starter:", "starter ", ":pirate", "parrot", "org/parrot", "/etc", ""]
)
def test_an_unknown_model_is_404_and_never_the_base(try_out, idle, model):
    """A4: their bug: a mistyped adapter was answered by the base. Nothing is looked up on disk or on a hub either."""
    error = refused(try_out(model=model), repr(model), status=404)
    assert error["code"] == "model_not_found"
    assert idle.requests == []


NEUTRAL = {
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "logit_bias": {},
    "user": "somebody",
    "metadata": {"run": "1"},
    "store": False,
    "response_format": {"type": "text"},
    "parallel_tool_calls": True,
    "service_tier": "auto",
    "modalities": ["text"],
    "ignore_eos": False,
    "min_tokens": 0,
    "temperature": None,
    "stop": None,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
}


@pytest.mark.parametrize("field", NEUTRAL)
def test_neutral_values_of_fields_that_we_lack_pass(ask, field):
    """A5: clients send them without meaning anything by it."""
    assert ask(**{field: NEUTRAL[field]}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("store", True),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["audio"]),
        ("ignore_eos", True),
        ("min_tokens", 3),
        ("echo", True),
        ("best_of", 2),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("parrot", 1),
        ("parrot", None),
        ("max_new_tokens", 5),
    ],
)
def test_anything_else_is_refused_by_name(try_out, idle, field, value):
    """A5: nothing is accepted and then ignored."""
    error = refused(try_out(**{field: value}), field)
    assert error["param"] == field
    assert idle.requests == []


FIELD = {"max_new_tokens": "max_tokens", "num_return_sequences": "n"}
BOUNDS = [
    (FIELD.get(name, name), bound)
    for name, knob in knobs().items()
    if name not in ("num_beams", "strategy")
    for bound in ((knob.low - 1) if knob.low is not None else None, (knob.high + 1) if knob.high is not None else None)
    if bound is not None
]


@pytest.mark.parametrize(("field", "value"), BOUNDS)
def test_bounds_are_those_of_the_settings(try_out, idle, field, value):
    """G4: out of bounds is an error that names the field, never a silent clamp."""
    value = int(value) if float(value).is_integer() else value
    assert refused(try_out(logprobs=True, **{field: value}), field)["param"] == field
    assert idle.requests == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"n": 2, "temperature": 0}, "greedy"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream"),
        ({"stream": True, "stream_options": {"parrot": 1}}, "parrot"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "differ"),
        ({"stop": [1]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty"),
        ({"messages": [{"role": "parrot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "name"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "tool_calls"),
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(try_out, idle, fields, word):
    """A5, G4: what is wrong is named, in OpenAI's shape."""
    refused(try_out(**fields), word)
    assert idle.requests == []


def test_a_body_that_is_not_json_is_refused(client):
    """A5: OpenAI's shape for every error, this one included."""
    for body in (b"{", b"[]", b"null", b"", b"\xff\xfe", b'"x"'):
        refused(client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextOverflow("900 tokens, 512 fit.", "Shorten it."), 400, "context_length_exceeded"),
        (InvalidRequest("No.", "Mend it."), 400, "invalid_request"),
        (QueueFull("Full.", "Wait."), 503, "queue_full"),
        (OutOfMemory("No room.", "Unload one."), 503, "out_of_memory"),
        (ModelBusy("Busy.", "Wait."), 503, "model_busy"),
        (EngineFailure("Broken.", "Try again."), 500, "engine_failure"),
        (RuntimeError("secret path /root/x"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_word_is_a_status(ask, fake, error, status, code, stream):
    """G6, A7: also for a stream; 503 says when to come back; a bug tells nothing of the machine."""
    response = ask([error], stream=stream)
    refused(response, status=status)
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (status == 503)
    assert "secret" not in response.text
    assert fake.running == 0


def test_a_failure_in_the_middle_of_a_stream_ends_it_with_the_error(ask, fake):
    """G6: an error event, no end mark, nothing hangs; a bug's own words stay in the log."""
    *chunks, last = events(ask([text("He"), EngineFailure("The engine failed.", "Try again.")], stream=True))
    assert chunks[-1]["choices"][0]["delta"] == {"content": "He"}
    assert last["error"]["message"] == "The engine failed. Try again."
    *_, last = events(ask([text("He"), RuntimeError("secret")], stream=True))
    assert (last["error"]["code"], "secret" in last["error"]["message"]) == ("internal_error", False)
    assert fake.running == 0


def test_a_failure_in_the_middle_of_a_whole_answer_is_a_status(ask):
    """G6: half an answer is not an answer."""
    refused(ask([text("He"), OutOfMemory("No room.", "Unload one.")]), "Unload one.", status=503)


def test_a_slow_load_shows_signs_of_life(ask):
    """G5: comments while the model loads, before any text."""
    body = ask([LOADING, 0.25, LOADING, 0.25, LOADING, text("Hi"), end()], stream=True).text
    assert body.count(": loading reading weights\n\n") == 3
    assert body.index(": loading") < body.index('"Hi"')


def test_a_notice_reaches_the_client(ask):
    """G7, G10: turns left out, or an adapter without effect: `notices` in a whole answer and in a stream's last chunk."""
    script = [replace(text("Hi"), notice="2 old turns were left out."), end()]
    assert ask(script).json()["notices"] == ["2 old turns were left out."]
    streamed = ask(script, stream=True).text
    assert ": 2 old turns were left out.\n\n" in streamed
    *others, last = (json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {"))
    assert last["notices"] == ["2 old turns were left out."]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert all("notices" not in chunk for chunk in others)


def test_a_kept_answer_is_marked(ask):
    """A8: `cached` in a whole answer and in a stream's last chunk, and nowhere else."""
    script = [replace(text("Hi"), cached=True), replace(end(), cached=True)]
    assert ask(script).json()["cached"] is True
    *others, last, _ = events(ask(script, stream=True))
    assert last["cached"] is True
    assert all("cached" not in chunk for chunk in others)
    assert "cached" not in ask([text("Hi"), end()]).json()


def test_an_adapter_without_effect_is_told_from_one_that_works(config):
    """G10, A4: `/v1/models` says what is in memory, and what of it changes nothing."""
    path = {info.name: info.path for info in Models(FakeEngine(), config).adapters("starter")}
    fake = FakeEngine()
    known = {"path": config.models["starter"].path, "quantization": "none", "dtype": "float32", "device": "cpu"}
    resident = ResidentInfo(config.models["starter"].path, **known, parameters=1, bytes=1, context_window=9, loaded_at=0,
                            adapters=tuple(LoadedAdapter(name, path[name], "0", 1, False, name == "pirate")
                                           for name in ("pirate", "sql")))  # fmt: skip
    fake.residents = lambda: (resident,)
    listed = {model.id: model for model in ServedModels(Models(fake, config), Names(Models(fake, config))).list().data}
    assert (listed["starter"].loaded, listed["starter:pirate"].loaded, listed["starter:json"].loaded) == (
        True,
        True,
        False,
    )
    assert (listed["starter:pirate"].no_effect, listed["starter:pirate"].problems) == (False, [])
    assert listed["starter:sql"].no_effect
    assert listed["starter:sql"].problems == ["Adapter 'sql' has no effect: no answer changes with it."]


def test_models_lists_bases_and_their_adapters(client):
    """A4: every name that a request may carry, in OpenAI's list shape."""
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    parents = {model["id"]: model["parent"] for model in listed["data"]}
    assert parents["starter"] is None
    assert parents["starter:pirate"] == "starter"
    assert {"gpt2", "qwen"} <= set(parents)
    assert all(model["object"] == "model" and model["created"] > 0 for model in listed["data"])
    assert client.get("/v1/models/starter:pirate").json()["id"] == "starter:pirate"
    refused(client.get("/v1/models/starter:parrot"), "starter:parrot", status=404)


@pytest.mark.parametrize("name", ["Some Org/model v1.5", "org/größe ✓", "org/model@main", "a:b", "50% of/it?#x"])
def test_names_with_all_kinds_of_characters_work(config, name):
    """A4: an added hub id or folder is its own name; their bug: an id with a slash could not be addressed."""
    fake = FakeEngine()
    config = replace(config, models={**config.models, name: ModelEntry(name, name)})
    client = TestClient(create_app(config, Services.over(fake, config)), base_url="http://localhost")
    assert name in [model["id"] for model in client.get("/v1/models").json()["data"]]
    for path in (quote(name), quote(name, safe="")):  # a client may escape the slash or not
        assert client.get(f"/v1/models/{path}").json()["id"] == name
    body = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
    assert client.post("/v1/chat/completions", json=body).json()["model"] == name
    assert client.post("/v1/completions", json={"model": name, "prompt": "x"}).json()["model"] == name


def test_a_broken_adapter_is_not_listed_but_known(config, tmp_path):
    """A4, G9: asking for it reaches the engine, which says what is wrong; it is not a name that does not exist."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{", encoding="utf-8")
    models = Models(FakeEngine(), replace(config, adapters=(str(broken),)))
    served = ServedModels(models, Names(models))
    assert "starter:broken" not in [model.id for model in served.list().data]
    assert Names(models).resolve("starter:broken") == Named("starter", "broken")


def test_unknown_paths_and_methods_have_openais_shape_too(client):
    """A4: also what no route answers."""
    refused(client.get("/v1/parrot"), status=404)
    refused(client.get("/v1/chat/completions"), status=405)
