"""`/models`, `/strategies` and `/generate`: plain text in, plain text out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from playground.api import create_app
from playground.api.classic import used
from playground.api.schemas.classic import FIELDS, GenerateTextBody
from playground.config import AppConfig
from playground.gate import Gate
from playground.local_inference import LocalInference
from playground.local_inference.strategies import STRATEGY_TABLE
from playground.services.assembly import Services
from playground.types import GenerationSettings, ModelSpec, Provenance, knobs
from tests.api.conftest import listening
from tests.api.fake_engine import end, endless, text
from tests.api.loading_engine import House, LoadingEngine
from tests.api.test_leaving import wait_until

ONCE = {"prompt": "Once upon a time", "model": "starter"}


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
def generate(client) -> Callable[..., Any]:
    """POST /generate with fields laid over a minimal body."""

    def post(**fields: object) -> Any:
        return client.post("/generate", json=ONCE | fields)

    return post


def made(seed: int = 7) -> Provenance:
    return Provenance("starter", "", (), "none", "float32", "cpu", "raw", GenerationSettings(), seed, {})


def test_models_are_listed_as_documented(client, fake, config):
    """A3: name, description and whether it is in memory, for each that /generate takes."""
    engine_has = ModelSpec(config.models["starter"].path)
    listed = client.get("/models").json()
    assert all(set(line) == {"name", "description", "loaded"} and line["description"] for line in listed)
    assert {"starter", "starter:pirate", "gpt2", "qwen"} <= {line["name"] for line in listed}
    assert not any(line["loaded"] for line in listed)
    fake.load(engine_has)
    assert [line["name"] for line in client.get("/models").json() if line["loaded"]] == ["starter"]
    fake.load(replace(engine_has, adapters=((client_path(config, "sql"), 1.0),)))
    loaded = [line["name"] for line in client.get("/models").json() if line["loaded"]]
    assert loaded == ["starter", "starter:sql"]


def client_path(config: AppConfig, name: str) -> str:
    """Where an adapter of the starter lies."""
    return f"{config.models['starter'].adapters[0]}/{name}"


def test_strategies_are_listed_as_documented(client):
    """A3: each of the four, and the fields of /generate that it reads."""
    listed = {line["name"]: line for line in client.get("/strategies").json()["strategies"]}
    assert set(listed) == {"greedy", "beam_search", "sampling", "top_k"}
    for name, line in listed.items():
        info = STRATEGY_TABLE[name]
        assert line["description"] == info.description
        assert (line["deterministic"], line["uses_temperature"]) == (info.deterministic, info.uses_temperature)
    assert set(listed["sampling"]["parameters"]) == {
        "temperature", "top_p", "top_k", "num_return_sequences", "seed", "max_length",
    }  # fmt: skip
    assert set(listed["beam_search"]["parameters"]) == {"num_beams", "num_return_sequences", "max_length"}
    assert set(FIELDS.values()) <= set(GenerateTextBody.model_fields)


def test_generate_answers_as_documented(generate, fake):
    """A3, Appendix 1: the prompt with its continuation, the continuation alone, and what was really used."""
    fake.script = lambda: [replace(text(" there"), provenance=made()), replace(end("stop", " was"), provenance=made())]
    reply = generate().json()
    assert reply.pop("provenance")["seed"] == 7
    assert reply == {
        "generated_text": "Once upon a time there was",
        "completion": " there was",
        "generated_texts": ["Once upon a time there was"],
        "prompt": "Once upon a time",
        "model": "starter",
        "strategy": "sampling",
        "parameters": {
            "type": "nucleus_sampling",
            "temperature": 0.8,
            "top_p": 0.95,
            "top_k": 50,
            "num_return_sequences": 1,
            "seed": 7,
            "max_length": 100,
        },
    }
    (request,) = fake.requests
    assert (request.template, request.prompt, request.spec.adapters) == ("raw", "Once upon a time", ())


def test_several_answers_come_in_order(generate, fake):
    """A3: num_return_sequences, each with the prompt before it."""
    script = [text(" a", index=0), end("stop", " x", index=1), end("length", "b", index=0)]
    fake.script = lambda: script
    reply = generate(num_return_sequences=2, seed=5).json()
    assert reply["generated_texts"] == ["Once upon a time ab", "Once upon a time x"]
    assert (reply["completion"], fake.requests[0].settings.seed) == (" ab", 5)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"strategy": "greedy"}, {"type": "greedy", "max_length": 100}),
        ({"strategy": "sampling", "temperature": 0, "max_length": 7}, {"type": "greedy", "max_length": 7}),
        (
            {"strategy": "top_k", "top_k": 3, "seed": 11},
            {"type": "top_k_sampling", "temperature": 0.8, "top_k": 3, "num_return_sequences": 1, "seed": 11,
             "max_length": 100},
        ),
        (
            {"strategy": "beam_search", "num_beams": 3, "num_return_sequences": 2},
            {"type": "beam_search", "num_beams": 3, "num_return_sequences": 2, "max_length": 100},
        ),
    ],
)  # fmt: skip
def test_parameters_show_what_was_really_used(generate, fake, fields, parameters):
    """A3, A5: what the strategy does not read is left out; temperature 0 is greedy, and told so."""
    fake.script = lambda: [end("stop", " x", index=at) for at in range(fields.get("num_return_sequences", 1))]
    assert generate(**fields).json()["parameters"] == parameters


def test_every_field_reaches_the_engine(generate, fake):
    """A5."""
    sent = {"strategy": "top_k", "temperature": 0.5, "max_length": 9, "top_p": 0.8, "top_k": 7, "num_beams": 4,
            "num_return_sequences": 3, "seed": 2}  # fmt: skip
    generate(**sent)
    assert fake.requests[0].settings == GenerationSettings(
        strategy="top_k", temperature=0.5, max_new_tokens=9, top_p=0.8, top_k=7, num_beams=4, num_return_sequences=3,
        seed=2,
    )  # fmt: skip
    assert used(fake.requests[0].settings, made(2))["seed"] == 2


def test_adapters_are_named_behind_the_base(generate, fake):
    """A3, A4: as under /v1; a default adapter of /api/inference has no say here."""
    generate(model="starter:pirate@0.5")
    ((path, scale),) = fake.requests[0].spec.adapters
    assert (path.rpartition("/")[2], scale) == ("pirate", 0.5)


def test_a_default_adapter_of_the_other_api_has_no_say_here(client, generate, fake):
    """A3: a base's name is the base, whoever loaded it with what."""
    body = {"model_id": "starter", "adapter_path": "pirate", "use_case": "qa"}
    assert client.post("/api/inference/load", json=body).status_code == 200
    generate()
    assert fake.requests[0].spec.adapters == ()


@pytest.mark.parametrize("model", ["parrot", "starter:parrot", "starter ", "org/parrot", "/etc", ""])
def test_an_unknown_model_is_404_and_never_the_base(generate, fake, model):
    """A3: nothing is looked for on disk or on a hub."""
    response = generate(model=model)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert fake.requests == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"prompt": " "}, "empty"),
        ({"strategy": "parrot"}, "strategy"),
        ({"strategy": "greedy", "num_return_sequences": 2}, "greedy"),
        ({"temperature": 0, "num_return_sequences": 2}, "greedy"),
        ({"strategy": "beam_search", "num_beams": 2, "num_return_sequences": 3}, "beams"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": 501}, "max_length"),
        ({"num_return_sequences": 9}, "num_return_sequences"),
        ({"num_beams": 11}, "num_beams"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"model": 7}, "model"),
    ],
)
def test_wrong_bodies_are_422_in_a_sentence(generate, fake, fields, word):
    """A3, A5: more than one greedy answer is refused, and unknown fields are named."""
    response = generate(**fields)
    assert response.status_code == 422
    assert word in response.json()["error"]["message"]
    assert fake.requests == []


def test_bounds_are_those_of_the_settings():
    """G4: but for max_length, which is narrower here."""
    described = GenerateTextBody.model_json_schema()["properties"]
    for setting, field in FIELDS.items():
        knob, shown = knobs()[setting], described[field]
        bounds = next((one for one in shown.get("anyOf", [shown]) if "minimum" in one), {})
        assert (bounds.get("minimum"), bounds.get("maximum")) == (
            knob.low,
            500 if field == "max_length" else knob.high,
        )


def test_what_is_beside_the_answer_is_told(generate, fake):
    """A3, A8: `cached` and `notices`, only when there is cause."""
    fake.script = lambda: [replace(end("stop", " x"), cached=True, notice="Cut at the window.")]
    reply = generate().json()
    assert (reply["cached"], reply["notices"]) == (True, ["Cut at the window."])


def test_a_client_that_leaves_stops_its_generation(address, fake):
    """A7."""
    fake.script = endless
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/generate", json=ONCE, timeout=0.5)
    assert len(fake.requests) == 1
    wait_until(lambda: fake.running == 0)


def test_the_real_thing(engine: LocalInference, config: AppConfig) -> None:
    """A3: it loads on first use; a seed gives the same texts again, one that differs others; beams come best first."""
    app = Gate(create_app(config, Services.over(engine, config)), config=config)
    with listening(app) as url:

        def texts(**fields: object) -> list[str]:
            response = httpx.post(f"{url}/generate", json=ONCE | {"max_length": 12} | fields, timeout=120)
            assert response.status_code == 200, response.text
            reply = response.json()
            assert reply["generated_text"] == reply["generated_texts"][0] == reply["prompt"] + reply["completion"]
            return list(reply["generated_texts"])

        drawn = texts(num_return_sequences=3, seed=3, temperature=1.5)
        assert len(set(drawn)) == 3
        assert texts(num_return_sequences=3, seed=3, temperature=1.5) == drawn
        assert texts(num_return_sequences=3, seed=4, temperature=1.5) != drawn
        assert texts(strategy="greedy") == texts(strategy="top_k", top_k=1)
        beams = texts(strategy="beam_search", num_beams=3, num_return_sequences=3)
        assert len(set(beams)) == 3
        assert texts(strategy="beam_search", num_beams=3) == beams[:1]
