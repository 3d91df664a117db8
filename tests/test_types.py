"""G4: the bounds hold wherever settings are made, and each knob explains itself."""

from __future__ import annotations

from typing import Any

import pytest

from playground import errors
from playground.errors import InvalidRequest, PlaygroundError
from playground.types import GenerationRequest, GenerationSettings, Message, ModelSpec, knobs
from tests.process_border import crossed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", float("nan")), ("temperature", "hot"),
        ("top_p", 1.01), ("top_k", 1001), ("top_k", 0.5), ("min_p", -1), ("max_new_tokens", 0), ("max_new_tokens", True),
        ("repetition_penalty", 0.9), ("presence_penalty", 3), ("frequency_penalty", -3), ("num_beams", 11),
        ("num_return_sequences", 9), ("seed", -1), ("seed", 2**63), ("strategy", "magic"), ("system_prompt", None),
        ("top_logprobs", 21), ("stop", (1,)),
    ],
)  # fmt: skip
def test_out_of_bounds_is_refused_by_name(name: str, value: Any) -> None:
    """G4: a clear error, never a silent clamp."""
    with pytest.raises(InvalidRequest, match=name if name not in ("strategy", "stop") else "strategy|stop"):
        GenerationSettings(**{name: value})


def test_the_bounds_themselves_are_allowed() -> None:
    """G4: 0 and 1 mean off, not an error."""
    for name, knob in knobs().items():
        for bound in (knob.low, knob.high):
            if bound is not None and name not in ("num_return_sequences", "seed"):
                kind = type(getattr(GenerationSettings(), name))
                GenerationSettings(**{name: kind(bound)})
    GenerationSettings(seed=0)
    GenerationSettings(num_return_sequences=8)


def test_several_answers_need_something_to_differ() -> None:
    """G3: refused before work starts."""
    with pytest.raises(InvalidRequest, match="greedy"):
        GenerationSettings(strategy="greedy", num_return_sequences=2)
    with pytest.raises(InvalidRequest, match="greedy"):
        GenerationSettings(temperature=0.0, num_return_sequences=2)
    with pytest.raises(InvalidRequest, match="beams"):
        GenerationSettings(strategy="beam_search", num_beams=2, num_return_sequences=3)


def test_every_knob_has_a_label_and_a_tooltip() -> None:
    """P4."""
    for name, knob in knobs().items():
        assert knob.label, name
        assert len(knob.help) > 15, name


def test_one_stop_sequence_may_come_as_a_text() -> None:
    """A4: OpenAI's shape."""
    assert GenerationSettings(stop="END").stop == ("END",)  # type: ignore[arg-type]
    assert GenerationSettings(stop=["a", ""]).stop == ("a",)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    """P1, G6."""
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        GenerationRequest(ModelSpec("m"), prompt)
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        GenerationRequest(ModelSpec("m"), messages=(Message("system", "Be."), Message("user", prompt)))


def test_prompt_and_messages_exclude_each_other() -> None:
    """A5."""
    with pytest.raises(InvalidRequest, match="one of them"):
        GenerationRequest(ModelSpec("m"), "a", messages=(Message("user", "b"),))


def test_a_spec_is_a_key() -> None:
    """G1: hashable, and equal where it means the same."""
    assert {ModelSpec("m", (("a", 0.5),)): 1}[ModelSpec("m", (("a", 0.5),))] == 1
    assert ModelSpec("m", (("a", 0.5),)).without_adapters() == ModelSpec("m")
    with pytest.raises(InvalidRequest, match="No model"):
        ModelSpec(" ")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e30])
def test_a_strength_without_sense_is_refused(scale: float) -> None:
    """C4: before it makes nonsense of an answer."""
    with pytest.raises(InvalidRequest, match="strength"):
        ModelSpec("m", (("a", scale),))


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "add_generation_prompt"])
def test_a_request_speaks_to_the_template_not_to_transformers(name: str) -> None:
    """G7, S1: a request can neither replace the template nor break its rendering."""
    with pytest.raises(InvalidRequest, match=name):
        GenerationRequest(ModelSpec("m"), "Hi", chat_template_kwargs={name: True})


def test_half_a_character_is_refused() -> None:
    """A5: no 500 from the tokenizer."""
    with pytest.raises(InvalidRequest, match="half of a character at position 3"):
        GenerationRequest(ModelSpec("m"), "Hi \ud83d")


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        ([(5, 100.5)], "logit_bias for token 5 is 100.5"), ([(5, float("nan"))], "is nan"), ([(5, -(10**400))], "token 5"),
        ([(5, True)], "is True"), ([(5, "1")], "is '1'"), ([(-1, 1.0)], "holds -1"), ([(True, 1.0)], "holds True"),
        ([("5", 1.0)], "holds '5'"), ([(2**40, 1.0)], "no token id"), ([(5, 1.0), (5, 2.0)], "token 5 twice"),
        ([(5,)], "pairs"), ([5], "pairs"), ("5=1", "pairs"), (None, "pairs"), ({5: None}, "token 5 is None"),
        ([(at, 1.0) for at in range(1025)], "names 1,025 tokens"),
    ],
)  # fmt: skip
def test_a_bias_that_is_none_is_refused_by_name(bias: Any, words: str) -> None:
    """G4, A4: a sentence, never a clamp."""
    with pytest.raises(InvalidRequest, match=words):
        GenerationSettings(logit_bias=bias)


def test_biases_may_come_as_a_mapping() -> None:
    """A4: and are numbers of one kind, so that equal settings are equal and hashable."""
    pairs = ((5, -100.0), (7, 100.0))
    assert GenerationSettings(logit_bias={5: -100, 7: 100}).logit_bias == pairs  # type: ignore[arg-type]
    assert len({GenerationSettings(logit_bias=pairs), GenerationSettings(logit_bias=[[5, -100], (7, 100.0)])}) == 1  # type: ignore[arg-type, list-item]
    assert len(GenerationSettings(logit_bias=tuple((at, 0.0) for at in range(1024))).logit_bias) == 1024


def test_token_ids_are_a_prompt_of_their_own() -> None:
    """A4: under the raw template, beside nothing else that would have to become ids."""
    request = GenerationRequest(ModelSpec("m"), prompt_ids=[5, 0, 5], template="raw")  # type: ignore[arg-type]
    assert request.prompt_ids == (5, 0, 5)
    spoken = GenerationSettings(system_prompt="Be brief.")
    for others, words in (
        ({"template": "chat"}, "chat template"),
        ({"prompt": "a"}, "Both a prompt and prompt_ids"),
        ({"prompt": ""}, "Both a prompt and prompt_ids"),
        ({"messages": (Message("user", "b"),)}, "Both messages and prompt_ids"),
        ({"prefill": "Well"}, "with a prefill"),
        ({"settings": spoken}, "with a system prompt"),
    ):
        values: dict[str, Any] = {"template": "raw", **others}
        with pytest.raises(InvalidRequest, match=words):
            GenerationRequest(ModelSpec("m"), prompt_ids=(5,), **values)


@pytest.mark.parametrize("ids", [(True,), (-1,), (1.0,), ("5",), (None,), (2**31,), "55", 5, {"a": 1}, None])
def test_what_is_no_token_id_is_refused(ids: Any) -> None:
    """A4: whatever a client sends."""
    with pytest.raises(InvalidRequest, match="prompt_ids"):
        GenerationRequest(ModelSpec("m"), prompt_ids=ids, template="raw")


def test_no_token_ids_are_an_empty_prompt() -> None:
    """A4."""
    with pytest.raises(InvalidRequest, match="prompt is empty"):
        GenerationRequest(ModelSpec("m"), prompt_ids=(), template="raw")


def test_every_kind_of_request_crosses_a_process_border_whole() -> None:
    """G1, G9: so that the engine can move to a process of its own."""
    spec = ModelSpec("starter", (("pirate", 0.5),))
    settings = GenerationSettings(stop=("a",), logit_bias=((5, 1.5),), seed=2**63 - 1, reproducible=True)
    for request in (
        GenerationRequest(
            spec, "Hi", settings=settings, prefill="Well", chat_template_kwargs={"enable_thinking": False}
        ),
        GenerationRequest(spec, messages=(Message("system", "Be."), Message("user", "Hi")), user="anna"),
        GenerationRequest(spec, prompt_ids=(5, 0, 5), template="raw"),
    ):
        assert crossed(request) == request


def test_every_error_crosses_a_process_border_whole() -> None:
    """G6: with its kind, its sentence and its remedy."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PlaygroundError)]
    assert len(kinds) > 10
    for kind in kinds:
        error = crossed(kind("It failed.", "Try again."))
        assert (type(error), error.message, error.remedy, str(error)) == (
            kind, "It failed.", "Try again.", "It failed. Try again.",
        )  # fmt: skip
