"""`/api/inference`: shapes, refusals, default adapters, comparisons, and ids of every kind."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from playground.api import create_app
from playground.api.schemas.inference import SETTING_FIELDS, CompareBody, GenerateBody, SourceBody
from playground.config import ROOT, AppConfig, ModelEntry
from playground.errors import ContextOverflow, EngineFailure, OutOfMemory, QueueFull
from playground.gate import Gate
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.types import GenerationSettings, Message, Provenance, knobs
from tests.api.conftest import listening
from tests.api.fake_engine import LOADING, end, endless, text
from tests.api.loading_engine import House, LoadingEngine
from tests.api.test_leaving import wait_until

ADAPTERS = ROOT / "assets" / "adapters"
HI = {"model_id": "starter", "prompt": "Hi"}
TOLD = ["response", "generation_time_seconds", "tokens_generated", "tokens_per_second", "finish_reason", "seed"]


@pytest.fixture(scope="module")
def house(config: AppConfig) -> House:
    return House(config)


@pytest.fixture
def fake(house: House) -> LoadingEngine:
    """The engine behind `client`, empty."""
    return house.empty()


@pytest.fixture
def app(house: House, fake: LoadingEngine) -> Gate:
    return house.app


@pytest.fixture
def call(client: TestClient) -> Callable[..., Any]:
    """POST to a path under /api/inference."""

    def post(path: str, body: object = None, **options: Any) -> Any:
        return client.post(f"/api/inference/{path}", json=body, **options)

    return post


@pytest.fixture
def loaded(call) -> Callable[..., Any]:
    """`call`, with the starter in memory and the pirate as its default."""
    assert call("load", {"model_id": "starter", "adapter_path": "pirate", "use_case": "chatbot"}).status_code == 200
    return call


def made(seed: int = 7) -> Provenance:
    return Provenance("starter", "", (), "none", "float32", "cpu", "chat", GenerationSettings(), seed, {})


def refused(response: Any, status: int, code: str, *words: str) -> None:
    """The one shape of an error, with its status, code and words."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "remedy"}
    assert error["code"] == code
    for word in words:
        assert word in error["message"]


def frames(response: Any) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: ")]


def adapters(fake: LoadingEngine) -> list[str | None]:
    """The adapters that the engine was asked for, oldest first."""
    return [Path(asked.spec.adapters[0][0]).name if asked.spec.adapters else None for asked in fake.requests]


def test_load_answers_as_documented(call, fake, config):
    """A1, Appendix 1: the field names, the use case's own examples, what it takes; hyphens pass."""
    reply = call("load", {"model_id": "starter", "adapter_path": "pirate", "use_case": "code-generation"}).json()
    assert reply.pop("loaded_at").startswith("2023-11-14T22:13:21")
    assert reply == {
        "model_id": "starter",
        "status": "loaded",
        "example_prompts": list(config.use_cases["code_generation"].examples),
        "memory_usage_mb": 11.0,
        "quantization": "none",
        "adapter": "pirate",
    }
    (spec,) = fake.loads
    assert spec.adapters == ((str(ADAPTERS / "pirate"), 1.0),)


def test_every_field_of_load_has_an_effect(call, fake):
    """A5: quantization (int4 is nf4, and told so), dtype, device, and the adapter's strength by name."""
    fields = {"quantization": "int4", "dtype": "float16", "device": "cuda:1", "use_case": "qa"}
    reply = call("load", {"model_id": "starter:sql@0.5", **fields}).json()
    assert (reply["quantization"], reply["adapter"]) == ("nf4", "sql@0.5")
    (spec,) = fake.loads
    assert (spec.quantization, spec.dtype, spec.device) == ("int4", "float16", "cuda:1")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"use_case": "parrot"}, "use_case"),
        ({"quantization": "int2"}, "quantization"),
        ({"dtype": "float8"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"device": "cuda:x"}, "device"),
        ({"adapter_path": " "}, "adapter_path"),
        ({"model_id": None}, "model_id"),
        ({"quantisation": "int8"}, "quantisation"),
    ],
)
def test_load_refuses_by_name(call, fake, fields, param):
    """A5."""
    response = call("load", {"model_id": "starter", "use_case": "qa"} | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (422, param)
    assert call("load", {"model_id": "starter"}).json()["error"]["param"] == "use_case"
    assert fake.loads == []


def test_loading_again_keeps_answering(loaded, fake):
    """A1: the base is not loaded a second time, and not unloaded for it."""
    first = loaded("load", {"model_id": "starter", "use_case": "qa"}).json()
    assert first["loaded_at"] == loaded("load", {"model_id": "starter", "use_case": "qa"}).json()["loaded_at"]
    assert len(fake.in_memory) == 1


def test_a_wrong_model_or_adapter_is_404_and_a_broken_one_422(loaded, fake):
    """A1: never the base."""
    fake.broken, fake.missing = {"json"}, {"org/none"}
    for body in ({"model_id": "parrot"}, {"model_id": "starter:parrot"}, {"adapter_path": "parrot"},
                 {"model_id": "org/none"}):  # fmt: skip
        asked = {"model_id": "starter", "use_case": "qa"} | body
        refused(loaded("load", asked), 404, "model_not_found")
        if body != {"model_id": "org/none"}:
            refused(loaded("generate", HI | body), 404, "model_not_found")
    refused(loaded("load", {"model_id": "starter:json", "use_case": "qa"}), 422, "adapter_invalid", "Train it again.")
    refused(loaded("models/starter/swap-adapter", {"adapter_path": "parrot"}), 404, "model_not_found", "pirate")
    refused(loaded("models/starter/swap-adapter", {"adapter_path": "json"}), 422, "adapter_invalid")
    assert fake.requests == []
    loaded("generate", HI)
    assert adapters(fake) == ["pirate"]


def test_generate_answers_as_documented(loaded, fake):
    """A1, Appendix 1: the field names, true counts, and what made it; `cached` and `notices` only when there is cause."""
    steps = [replace(text("Hello"), provenance=made()), replace(end("stop", " there"), provenance=made())]
    fake.script = lambda: steps
    reply = loaded("generate", HI).json()
    assert reply.pop("timestamp").endswith("+00:00")
    assert reply.pop("provenance")["base"] == "starter"
    assert reply == {
        "prompt": "Hi",
        "response": "Hello there",
        "model_id": "starter",
        "generation_time_seconds": 0.2,
        "tokens_generated": 2,
        "prompt_tokens": 5,
        "reused_tokens": 3,
        "tokens_per_second": 6.67,
        "finish_reason": "stop",
        "seed": 7,
    }
    fake.script = lambda: [replace(end("length", "Hi"), notice="It has no effect.", cached=True)]
    reply = loaded("generate", HI).json()
    assert (reply["notices"], reply["cached"], reply["finish_reason"]) == (["It has no effect."], True, "length")


def test_generate_has_the_documented_defaults(loaded, fake):
    """Appendix 1: 512, 0.7, 0.9, 50, 1.1; the chat template."""
    loaded("generate", HI)
    (request,) = fake.requests
    assert request.settings == GenerationSettings(
        max_new_tokens=512, temperature=0.7, top_p=0.9, top_k=50, repetition_penalty=1.1
    )
    assert (request.template, request.prompt) == ("chat", "Hi")
    assert request.user == "address 127.0.0.1"


EVERYTHING = {
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.8,
    "top_k": 7,
    "min_p": 0.1,
    "repetition_penalty": 1.2,
    "presence_penalty": 1,
    "frequency_penalty": -1,
    "stop_sequences": ["END"],
    "seed": 11,
    "reproducible": True,
}
SETTINGS = GenerationSettings(
    max_new_tokens=9, temperature=0.5, top_p=0.8, top_k=7, min_p=0.1, repetition_penalty=1.2, presence_penalty=1,
    frequency_penalty=-1, stop=("END",), seed=11, reproducible=True,
)  # fmt: skip


def test_every_field_of_generate_reaches_the_engine(loaded, fake):
    """A5: what is accepted has an effect."""
    loaded("generate", HI | EVERYTHING | {"template": "raw"})
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    reply = loaded("generate", {"model_id": "starter", "messages": turns, "stop_sequences": "END"}).json()
    raw, chat = fake.requests
    assert set(EVERYTHING) == set(SETTING_FIELDS)
    assert (raw.settings, raw.template) == (SETTINGS, "raw")
    assert chat.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert chat.settings.stop == ("END",)
    assert reply["prompt"] == "Hi"


def test_the_default_adapter_an_explicit_one_and_null(loaded, fake):
    """A1: left out it is the default, null is the base, else the one that is named, in either place."""
    loaded("generate", HI)
    loaded("generate", HI | {"adapter_path": None})
    loaded("generate", HI | {"adapter_path": "sql"})
    loaded("generate", HI | {"adapter_path": str(ADAPTERS / "triage")})
    loaded("generate", HI | {"model_id": "starter:json"})
    loaded("generate", HI | {"model_id": "starter:json", "adapter_path": None})
    assert adapters(fake) == ["pirate", None, "sql", "triage", "json", None]
    refused(loaded("generate", HI | {"model_id": "starter:json", "adapter_path": "sql"}), 422, "invalid_request", "sql")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"prompt": " \n"}, "empty"),
        ({"prompt": None}, "neither"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "Both"),
        ({"prompt": None, "messages": []}, "messages"),
        ({"prompt": None, "messages": [{"role": "user", "content": "  "}]}, "empty"),
        ({"prompt": None, "messages": [{"role": "user", "content": "x"}], "template": "raw"}, "raw"),
        ({"prompt": None, "messages": [{"role": "parrot", "content": "x"}]}, "role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4097}, "max_tokens"),
        ({"repetition_penalty": 0.9}, "repetition_penalty"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"template": "parrot"}, "template"),
        ({"adapter_path": ""}, "adapter_path"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"parrot": None}, "parrot"),
    ],
)
def test_wrong_bodies_are_422_in_a_sentence(loaded, fake, fields, word):
    """A1, A5: before the engine hears of them."""
    response = loaded("generate", HI | fields)
    assert response.status_code == 422
    assert word in response.json()["error"]["message"]
    assert fake.requests == []


def test_bounds_are_those_of_the_settings():
    """G4: in every body that has them; only max_tokens is narrower."""
    own = {"max_tokens": "max_new_tokens", "stop_sequences": "stop"}
    for body in (GenerateBody, CompareBody, SourceBody):
        described = body.model_json_schema()["properties"]
        for field in SETTING_FIELDS:
            knob = knobs()[own.get(field, field)]
            shown = described[field]
            bounds = next((one for one in shown.get("anyOf", [shown]) if "minimum" in one), {})
            assert bounds.get("minimum") == knob.low
            assert bounds.get("maximum") == (4096 if field == "max_tokens" else knob.high)
            assert shown["description"] == knob.help


def test_a_model_that_is_not_loaded_is_409(call, fake):
    """A1: here nothing is loaded on first use; compare neither. An empty prompt is told first."""
    refused(call("generate", HI), 409, "model_not_loaded", "starter", "Load it first")
    refused(call("generate", HI | {"model_id": "gpt2"}), 409, "model_not_loaded")
    two = {"prompt": "Hi", "fine_tuned_model_id": "starter:pirate", "base_model_id": "starter"}
    refused(call("compare", two), 409, "model_not_loaded")
    refused(call("models/gpt2/swap-adapter", {"adapter_path": None}), 409, "model_not_loaded")
    refused(call("generate", HI | {"prompt": ""}), 422, "invalid_request", "empty")
    assert fake.loads == []
    assert fake.requests == []


def test_a_stream_has_the_sockets_frames(loaded, client, fake):
    """A1, G5: start, token …, complete, as over the WebSocket; comments keep the line alive while it loads."""
    steps = [LOADING, text("Hé"), text("llo"), replace(end("stop", " there"), notice="Old turns were left out.")]
    fake.script = lambda: steps
    response = loaded("generate", HI | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert ": loading reading weights\n\n" in response.text
    streamed = frames(response)
    assert [frame["type"] for frame in streamed] == ["start", "token", "token", "token", "complete"]
    assert "".join(frame["token"] for frame in streamed[1:-1]) == "Héllo there"
    assert [frame["index"] for frame in streamed[1:-1]] == [0, 1, 2]
    assert len({frame["id"] for frame in streamed}) == 1
    assert (streamed[0]["model_id"], streamed[-1]["total_tokens"]) == ("starter", 2)
    assert streamed[-1]["finish_reason"] == "stop"
    assert streamed[-1]["notices"] == ["Old turns were left out."]
    with client.websocket_connect("ws://localhost/api/inference/stream") as socket:
        socket.send_json(HI | {"id": streamed[0]["id"]})
        sent = []
        while not sent or sent[-1]["type"] != "complete":
            sent.append(socket.receive_json())
    assert sent == streamed


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextOverflow("900 tokens, 512 fit.", "Shorten it."), 422, "context_length_exceeded"),
        (QueueFull("Full.", "Wait."), 503, "queue_full"),
        (OutOfMemory("No room.", "Unload one."), 503, "out_of_memory"),
        (RuntimeError("secret path /root/x"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_word_is_a_status(loaded, fake, error, status, code, stream):
    """A7, G6: also for a stream; a bug tells nothing of the machine."""
    fake.script = lambda: [error]
    response = loaded("generate", HI | {"stream": stream})
    refused(response, status, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert "secret" not in response.text


def test_a_failure_in_the_middle_of_a_stream_is_its_last_frame(loaded, fake):
    """G6: the sentence with its remedy, and no end mark."""
    fake.script = lambda: [text("He"), EngineFailure("The engine failed.", "Try again.")]
    *_, token, last = frames(loaded("generate", HI | {"stream": True}))
    assert token["token"] == "He"
    assert (last["type"], last["error"], last["code"]) == ("error", "The engine failed. Try again.", "engine_failure")
    fake.script = lambda: [text("He"), RuntimeError("secret")]
    assert "secret" not in loaded("generate", HI | {"stream": True}).text


def test_compare_answers_as_documented(loaded, fake):
    """A1, Appendix 1: both outputs by name, and in a list with what made them."""
    fake.script = lambda: [replace(end("stop", "Arr"), provenance=made())]
    body = {"prompt": "Hi", "fine_tuned_model_id": "starter:sql", "base_model_id": "starter"}
    reply = loaded("compare", body).json()
    assert reply["prompt"] == "Hi"
    assert (reply["fine_tuned_output"], reply["base_model_output"]) == ("Arr", "Arr")
    assert (reply["fine_tuned_model_id"], reply["base_model_id"]) == ("starter:sql", "starter")
    assert [(one["model_id"], one["adapter"]) for one in reply["outputs"]] == [
        ("starter:sql", "sql"),
        ("starter", None),
    ]
    assert all(set(TOLD) < set(one) for one in reply["outputs"])
    assert adapters(fake) == ["sql", None]


def test_the_base_of_a_comparison_is_the_untouched_base(loaded, fake):
    """A1: although the pirate is its default; the fine-tune of that name is the default."""
    loaded("compare", {"prompt": "Hi", "fine_tuned_model_id": "starter", "base_model_id": "starter"})
    assert adapters(fake) == ["pirate", None]
    assert fake.requests[1].spec.adapters == ()


def test_sources_have_settings_of_their_own(loaded, fake):
    """A1, A5: what a source leaves out is the request's; all draw with one seed unless theirs is named."""
    sources = [{"model_id": "starter"}, {"model_id": "starter", "adapter_path": None} | EVERYTHING,
               {"model_id": "starter:sql@0.5", "temperature": 0.1}]  # fmt: skip
    reply = loaded("compare", {"prompt": "Hi", "sources": sources, "temperature": 1.5, "max_tokens": 3}).json()
    first, own, third = (request.settings for request in fake.requests)
    assert (first.temperature, first.max_new_tokens, third.temperature, third.max_new_tokens) == (1.5, 3, 0.1, 3)
    assert own == SETTINGS
    assert first.seed is not None
    assert first.seed == third.seed
    assert [one["adapter"] for one in reply["outputs"]] == ["pirate", None, "sql@0.5"]
    assert (reply["fine_tuned_output"], reply["base_model_output"]) == (None, None)


def test_everything_compared_is_answered_at_the_same_time(loaded, fake):
    """A1, C3: all are with the engine before any is done, so that those on one base share a batch."""

    together = []

    def script() -> Iterator[Any]:
        while not together:
            together.extend([True] if fake.running == 3 else [])
            yield 0.005
        yield end("stop", "Hi")

    fake.script = script
    sources = [{"model_id": "starter:sql"}, {"model_id": "starter"}, {"model_id": "starter", "adapter_path": None}]
    assert len(loaded("compare", {"prompt": "Hi", "sources": sources}).json()["outputs"]) == 3
    assert fake.running == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sources": [{"model_id": "starter"}, {"model_id": "starter:parrot"}]}, 404),
        ({"sources": [{"model_id": "starter"}, {"model_id": "starter", "adapter_path": "parrot"}]}, 404),
        ({"sources": [{"model_id": "starter"}, {"model_id": "starter:json"}]}, 422),
        ({"sources": [{"model_id": "starter"}, {"model_id": "gpt2"}]}, 409),
        ({"sources": [{"model_id": "starter"}, {"model_id": "starter", "top_p": 2}]}, 422),
        ({"sources": [{"model_id": "starter", "parrot": 1}]}, 422),
        ({"sources": []}, 422),
        ({"sources": [{"model_id": "starter"}] * 9}, 422),
        ({"sources": [{"model_id": "starter"}], "base_model_id": "starter"}, 422),
        ({}, 422),
        ({"base_model_id": "starter"}, 422),
        ({"fine_tuned_model_id": "starter:sql", "base_model_id": "starter:pirate"}, 422),
        ({"fine_tuned_model_id": "gpt2", "base_model_id": "starter"}, 409),
        ({"fine_tuned_model_id": "starter:sql", "base_model_id": "parrot"}, 404),
        ({"fine_tuned_model_id": "starter:sql", "base_model_id": "starter", "prompt": " "}, 422),
    ],
)
def test_one_wrong_source_refuses_the_whole_comparison(loaded, fake, body, status):
    """A1: before anything is generated."""
    fake.broken = {"json"}
    response = loaded("compare", {"prompt": "Hi"} | body)
    assert response.status_code == status, response.text
    assert fake.requests == []


def test_comparing_a_base_with_itself_is_refused(call, fake):
    """A1: two samples of the same would look like a difference."""
    call("load", {"model_id": "starter", "use_case": "qa"})
    two = {"prompt": "Hi", "fine_tuned_model_id": "starter", "base_model_id": "starter"}
    refused(call("compare", two), 422, "invalid_request", "nothing to compare", "base:adapter")
    assert fake.requests == []


def test_one_that_fails_ends_the_whole_comparison(loaded, fake):
    """A1, G6: with its error; the others are stopped."""
    scripts = iter([endless(), [text("He"), 0.05, OutOfMemory("No room.", "Unload one.")]])
    fake.script = lambda: next(scripts)
    two = {"prompt": "Hi", "fine_tuned_model_id": "starter:sql", "base_model_id": "starter"}
    refused(loaded("compare", two), 503, "out_of_memory")
    assert fake.running == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("generate", HI),
        ("generate", HI | {"stream": True}),
        ("compare", {"prompt": "Hi", "fine_tuned_model_id": "starter:sql", "base_model_id": "starter"}),
    ],
)
def test_a_client_that_leaves_stops_its_generation(loaded, address, fake, path, body):
    """A7: whole, streamed or compared."""
    fake.script = endless
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    sent = json.dumps(body)
    connection.request("POST", f"/api/inference/{path}", sent, {"Content-Type": "application/json"})
    wait_until(lambda: fake.running == (2 if path == "compare" else 1))
    connection.close()
    wait_until(lambda: fake.running == 0)


def test_what_is_loaded_is_listed_as_documented(loaded, client, fake):
    """A1, Appendix 1: with the default adapter first; what others loaded has no use case."""
    loaded("load", {"model_id": "starter:sql", "use_case": "creative-writing"})
    loaded("load", {"model_id": "gpt2", "quantization": "int8", "use_case": "qa"})
    listed = client.get("/api/inference/models/loaded").json()
    assert set(listed) == {"models"}
    assert all(line.pop("loaded_at") for line in listed["models"])
    line = {"status": "loaded", "quantization": "none", "memory_usage_mb": 12.0}
    assert listed["models"] == [
        {"model_id": "starter", "use_case": "chatbot", "adapters": ["pirate", "sql"], **line},
        {"model_id": "starter:sql", "use_case": "creative_writing", "adapters": ["sql", "pirate"], **line},
        {"model_id": "gpt2", "use_case": "qa", "adapters": [], "status": "loaded", "quantization": "int8",
         "memory_usage_mb": 10.0},
    ]  # fmt: skip


def test_swapping_the_adapter(loaded, fake):
    """A1, Appendix 1: in the body or in the query; null, or an empty query, is the base; the base stays in memory."""
    reply = loaded("models/starter/swap-adapter", {"adapter_path": "sql"}).json()
    assert reply.pop("swapped_at")
    assert reply == {"status": "swapped", "model_id": "starter", "adapter_path": "sql"}
    loaded("generate", HI)
    loaded("models/starter/swap-adapter?adapter_path=triage")
    loaded("generate", HI)
    loaded("models/starter/swap-adapter?adapter_path=json", {"adapter_path": "json"})
    loaded("generate", HI)
    assert loaded("models/starter/swap-adapter", {"adapter_path": None}).json()["adapter_path"] is None
    loaded("generate", HI)
    loaded("models/starter/swap-adapter?adapter_path=sql")
    assert loaded("models/starter/swap-adapter?adapter_path=").json()["adapter_path"] is None
    loaded("generate", HI)
    assert adapters(fake) == ["sql", "triage", "json", None, None]
    assert len(fake.in_memory) == 1


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?adapter_path=sql", {"adapter_path": "json"}),
        ("?adapter_path=sql", {"adapter_path": None}),
        ("", None),
        ("", {}),
        ("", {"adapter": "sql"}),
        ("", {"adapter_path": ""}),
        ("", {"adapter_path": 1}),
    ],
)
def test_a_swap_that_is_not_clear_is_422_and_changes_nothing(loaded, fake, query, body):
    """A1, A5."""
    assert loaded(f"models/starter/swap-adapter{query}", body).status_code == 422
    loaded("generate", HI)
    assert adapters(fake) == ["pirate"]


def test_unloading_answers_as_documented(loaded, fake, client):
    """A1, Appendix 1: what came back; then it is not loaded, and not unknown. A base that answers is 409."""
    fake.running = 1
    refused(loaded("models/starter/unload"), 409, "model_busy")
    fake.running = 0
    reply = loaded("models/starter/unload").json()
    assert reply == {"status": "unloaded", "model_id": "starter", "freed_mb": 10.0}
    refused(loaded("models/starter/unload"), 409, "model_not_loaded")
    refused(loaded("models/parrot/unload"), 404, "model_not_found")
    refused(loaded("generate", HI), 409, "model_not_loaded")
    assert client.get("/api/inference/models/loaded").json() == {"models": []}


IDS = [
    "Some-Org/model.v1",
    "a/b/c/d",
    "my model v1.5 (final)",
    "Überraschung/船",
    "100%/50%25 off",
    "user@host/model@main",
    "trailing/unload",
    "swap-adapter",
    "loaded",
    "unload/swap-adapter",
    "what?#&=+;,",
    "quote'\"<b>",
]


@pytest.fixture
def odd(config: AppConfig, fake: LoadingEngine) -> Iterator[str]:
    """The address of a server that offers models of every kind of id."""
    offered = {name: ModelEntry(name, f"org/{at}", adapters=(str(ADAPTERS),)) for at, name in enumerate(IDS)}
    changed = replace(config, models=offered)
    with listening(Gate(create_app(changed, Services.over(fake, changed)), config=changed)) as url:
        yield url


def sent(address: str, target: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """One POST with exactly this request target, whatever a client library would make of it."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    connection.request("POST", target, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_an_id_with_a_slash_can_be_unloaded(odd, fake):
    """A1: their bug: the id's second half was taken for another path. Every kind of id, with slashes as they are or not."""
    for name in IDS:
        for safe in ("", "/") if "/" in name else ("",):
            path = f"/api/inference/models/{quote(name, safe=safe)}"
            assert sent(odd, "/api/inference/load", {"model_id": name, "use_case": "qa"})[0] == 200, name
            swapped = sent(odd, f"{path}/swap-adapter", {"adapter_path": "pirate"})
            assert (swapped[0], swapped[1].get("model_id")) == (200, name)
            assert sent(odd, "/api/inference/generate", {"model_id": name, "prompt": "Hi"})[1]["model_id"] == name
            assert adapters(fake)[-1] == "pirate"
            status, reply = sent(odd, f"{path}/unload")
            assert (status, reply.get("model_id")) == (200, name)
            assert sent(odd, f"{path}/unload")[1]["error"]["code"] == "model_not_loaded"
            assert fake.in_memory == []


def test_a_folder_can_be_loaded_and_unloaded_by_its_path(address, fake, tmp_path):
    """A1: where paths are free, also one that begins with a slash, as it must in a URL."""
    folder = str(tmp_path / "Ünï 100% models" / "unload")
    shutil.copytree(ROOT / "assets" / "models" / "starter", folder)
    status, reply = sent(address, "/api/inference/load", {"model_id": folder, "use_case": "qa"})
    assert (status, reply["model_id"]) == (200, folder)
    for target in (quote(folder, safe=""), quote(folder)):
        sent(address, "/api/inference/load", {"model_id": folder, "use_case": "qa"})
        status, reply = sent(address, f"/api/inference/models/{target}/unload")
        assert (status, reply.get("model_id")) == (200, folder), reply


def test_only_who_runs_the_server_changes_what_is_in_memory(app, fake):
    """A6: load, swap and unload; asking is for everybody."""
    with TestClient(app, base_url="http://localhost", client=("10.0.0.9", 50000)) as stranger:
        bodies: dict[str, Any] = {"load": {}, "models/starter/unload": None, "models/starter/swap-adapter": {}}
        for path, body in bodies.items():
            refused(stranger.post(f"/api/inference/{path}", json=body), 403, "not_permitted")
        load = {"model_id": "starter", "use_case": "qa"}
        refused(stranger.post("/api/inference/load", json=load), 403, "not_permitted")
        assert stranger.get("/api/inference/models/loaded").status_code == 200
        assert stranger.post("/api/inference/generate", json=HI).status_code == 409
    assert fake.loads == []


def test_each_request_for_text_is_counted_once(config, fake):
    """A6: a comparison of several too; one that is too many reaches nobody."""
    limited = replace(config, rate_limit="2 per minute")
    app = Gate(create_app(limited, Services.over(fake, limited)), config=limited)
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        client.post("/api/inference/load", json={"model_id": "starter", "use_case": "qa"})
        two = {"prompt": "Hi", "fine_tuned_model_id": "starter:sql", "base_model_id": "starter"}
        assert client.post("/api/inference/compare", json=two).status_code == 200
        assert client.post("/api/inference/generate", json=HI).status_code == 200
        for path, body in (("generate", HI), ("compare", two)):
            response = client.post(f"/api/inference/{path}", json=body)
            refused(response, 429, "rate_limited")
            assert int(response.headers["retry-after"]) > 0
    assert len(fake.requests) == 3


def test_the_routes_are_linked_for_whoever_walks_them(client):
    """A1: operation ids that stay, and from load to what may be done then; every link leads somewhere."""
    paths = client.get("/openapi.json").json()["paths"]
    operations = {one["operationId"]: one for path in paths.values() for one in path.values()}
    assert {f"inference_{name}" for name in ("load", "generate", "compare", "loaded", "unload", "swap_adapter")} <= set(
        operations
    )
    links = operations["inference_load"]["responses"]["200"]["links"]
    assert {link["operationId"] for link in links.values()} == {
        "inference_generate",
        "inference_unload",
        "inference_swap_adapter",
    }
    for name in links.values():
        assert name["operationId"] in operations
    for name, operation in operations.items():
        if name.startswith("inference_"):
            assert operation["summary"]
            assert operation["description"]
            assert {"4XX", "5XX"} < set(operation["responses"])
    body = operations["inference_swap_adapter"]["requestBody"]
    assert not body.get("required", False)


@pytest.fixture(scope="module")
def real(engine: LocalInference, config: AppConfig) -> Iterator[str]:
    """The address of a server over the real engine, with the starter loaded as the pirate."""
    app = Gate(create_app(config, Services.over(engine, config)), config=config)
    with listening(app) as url:
        body = {"model_id": "starter", "adapter_path": "pirate", "use_case": "chatbot"}
        assert httpx.post(f"{url}/api/inference/load", json=body, timeout=120).status_code == 200
        yield url


LOGIN = {"prompt": "I cannot log in to my account since yesterday.", "temperature": 0, "max_tokens": 24}


def asked(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = httpx.post(f"{address}/api/inference/{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_the_compared_base_says_what_the_base_says_alone(real):
    """A1, C3: in one batch with adapters, and each adapter what it says alone."""
    alone = {
        adapter: asked(real, "generate", LOGIN | {"model_id": "starter", "adapter_path": adapter})["response"]
        for adapter in (None, "pirate", "json")
    }
    assert len(set(alone.values())) == 3
    compared = asked(real, "compare", LOGIN | {"fine_tuned_model_id": "starter", "base_model_id": "starter"})
    assert compared["base_model_output"] == alone[None]
    assert compared["fine_tuned_output"] == alone["pirate"]
    sources = [{"model_id": "starter", "adapter_path": adapter} for adapter in ("json", None, "pirate")]
    outputs = asked(real, "compare", LOGIN | {"sources": sources})["outputs"]
    assert [one["response"] for one in outputs] == [alone["json"], alone[None], alone["pirate"]]
    assert [one["provenance"]["adapters"] == [] for one in outputs] == [False, True, False]


def test_two_adapters_never_mix(real):
    """A1: asked for at the same time, by requests of their own, each says what it says alone."""
    bodies = [LOGIN | {"model_id": f"starter:{name}"} for name in ("pirate", "triage", "pirate@0.25")]
    alone = [asked(real, "generate", body)["response"] for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda body: asked(real, "generate", body)["response"], bodies * 2))
    assert together == alone * 2


def test_a_swap_leaves_running_answers_as_they_are(real):
    """A1: the default is read once, when a request is admitted; the next request gets the new one."""
    body = {"model_id": "starter", "prompt": "Once upon a time", "template": "raw", "temperature": 0, "max_tokens": 300,
            "repetition_penalty": 1}  # fmt: skip
    asked(real, "models/starter/swap-adapter", {"adapter_path": "pirate"})
    before = asked(real, "generate", body)
    streamed: list[dict[str, Any]] = []
    with httpx.stream("POST", f"{real}/api/inference/generate", json=body | {"stream": True}, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                streamed.append(json.loads(line[6:]))
                if len(streamed) == 2:  # it is being written
                    asked(real, "models/starter/swap-adapter", {"adapter_path": "triage"})
    assert "".join(frame["token"] for frame in streamed[1:-1]) == before["response"]
    assert streamed[-1]["provenance"]["adapters"] == before["provenance"]["adapters"]
    after = asked(real, "generate", body)
    assert after["provenance"]["adapters"][0][0] == "triage"
    assert after["response"] != before["response"]
    asked(real, "models/starter/swap-adapter", {"adapter_path": "pirate"})
