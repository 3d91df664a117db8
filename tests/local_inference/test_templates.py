"""G7: what the model reads, with tokenizers made here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoTokenizer

from playground.errors import ContextOverflow, InvalidRequest
from playground.local_inference.templates import end_of_turn_ids, extra_stops, render_prompt
from playground.types import GenerationRequest, GenerationSettings, Message, ModelSpec

from .conftest import STARTER, chat_ids

SPEC = ModelSpec("starter")
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
WITH_BOS = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
THINKING = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}<no-think>{% endif %}"


@pytest.fixture
def own() -> Any:
    """A tokenizer that a test may change."""
    return AutoTokenizer.from_pretrained(STARTER)


def _request(prompt: str = "Hi", **changes: Any) -> GenerationRequest:
    return replace(GenerationRequest(SPEC, prompt), **changes)


def test_chat_is_the_models_own_template(own: Any) -> None:
    """G7: the ids are transformers' own."""
    rendered = render_prompt(_request("Hello!"), own, 1024)
    assert list(rendered.token_ids) == chat_ids(own, "Hello!")


def test_one_bos_never_two(own: Any) -> None:
    """G7: under every template, whether the template, the tokenizer or the person wrote it."""
    own.chat_template = WITH_BOS
    own.bos_token = "<|im_start|>"
    bos = own.bos_token_id
    for template, prompt in (("chat", "Hi"), ("raw", "Hi"), ("raw", "<|im_start|>Hi"), ("instruction", "Hi")):
        ids = render_prompt(_request(prompt, template=template), own, 1024).token_ids
        assert ids.count(bos) <= 1, (template, prompt)
    assert render_prompt(_request("Hi"), own, 1024).token_ids[0] == bos


def test_the_system_prompt_reaches_the_model(own: Any) -> None:
    """G4: and a system message in the conversation wins over it."""
    settings = GenerationSettings(system_prompt="Be brief.")
    assert "Be brief." in render_prompt(_request(settings=settings), own, 1024).text
    turns = (Message("system", "Be long."), Message("user", "Hi"))
    both = GenerationRequest(SPEC, messages=turns, settings=settings)
    text = render_prompt(both, own, 1024).text
    assert "Be long." in text
    assert "Be brief." not in text


def test_a_template_without_a_system_role_keeps_the_system_prompt_and_says_so(own: Any) -> None:
    """G7: never dropped in silence."""
    own.chat_template = NO_SYSTEM
    rendered = render_prompt(_request(settings=GenerationSettings(system_prompt="Be brief.")), own, 1024)
    assert rendered.text.startswith("[user] Be brief.\n\nHi")
    assert "no system role" in rendered.notice


def test_a_template_that_refuses_says_so(own: Any) -> None:
    """G6: the template's own words, and what to do."""
    own.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidRequest, match=r"roles must alternate.*raw template"):
        render_prompt(_request(), own, 1024)


def test_template_switches_reach_the_template(own: Any) -> None:
    """G7: enable_thinking."""
    own.chat_template = THINKING
    assert "<no-think>" in render_prompt(_request(chat_template_kwargs={"enable_thinking": False}), own, 1024).text
    assert "<no-think>" not in render_prompt(_request(), own, 1024).text


def test_instruction_and_raw_are_what_they_say(own: Any) -> None:
    """P2: the template selector has an effect."""
    assert "### Instruction:\nHi\n\n### Response:\n" in render_prompt(_request(template="instruction"), own, 1024).text
    assert render_prompt(_request(template="raw"), own, 1024).text == "Hi"


def test_a_prefill_is_read_as_the_beginning_of_the_answer(own: Any) -> None:
    """F1's engine side."""
    text = render_prompt(_request(prefill="Arr,"), own, 1024).text
    assert text.endswith("assistant\nArr,")


# The ends of what models that think are asked with: DeepSeek-R1 and Qwen3-Thinking open their thoughts in the prompt, Qwen3
# leaves that to the model, or writes empty thoughts where it shall not think.
TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] "
OPENS = TURNS + "<think>\n{% endif %}"
MAY_THINK = (
    TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("prefill", "end", "opened"),
    [
        ("", "[assistant] <think>\n", "<think>\n"),
        ("Arr,", "[assistant] Arr,", ""),
        ("<think>\nHm", "[assistant] <think>\nHm", ""),
        ("<think>Hm</think>Arr,", "[assistant] <think>Hm</think>Arr,", ""),
        ("Hm</think>Arr,", "[assistant] <think>\nHm</think>Arr,", "<think>\n"),
    ],
)
def test_a_prefill_comes_right_after_the_header_of_a_model_that_thinks(
    own: Any, prefill: str, end: str, opened: str
) -> None:
    """F1: thoughts are opened once, and an answer that is none of them is not put among them."""
    own.chat_template = OPENS
    rendered = render_prompt(_request(prefill=prefill), own, 1024)
    assert rendered.text.endswith(end)
    assert rendered.opened == opened


@pytest.mark.parametrize(
    ("prefill", "thinking", "end"),
    [
        ("", False, "[assistant] <think>\n\n</think>\n\n"),
        ("Arr,", False, "[assistant] <think>\n\n</think>\n\nArr,"),
        ("<think>\nHm</think>Arr,", False, "[assistant] <think>\nHm</think>Arr,"),
        ("Hm</think>Arr,", False, "[assistant] <think>\n\nHm</think>Arr,"),
        ("Arr,", True, "[assistant] Arr,"),
        ("<think>\nHm", True, "[assistant] <think>\nHm"),
    ],
)
def test_a_prefill_fits_a_template_whose_thinking_is_switched(own: Any, prefill: str, thinking: bool, end: str) -> None:
    """F1: an answer with thoughts is continued as it was, also where the model shall not think any more."""
    own.chat_template = MAY_THINK
    request = _request(prefill=prefill, chat_template_kwargs={"enable_thinking": thinking})
    assert render_prompt(request, own, 1024).text.endswith(end)


def test_what_a_person_wrote_is_no_thought_of_the_models(own: Any) -> None:
    """F1: ``<think>`` in a message, under templates that open nothing."""
    for template in ("chat", "instruction"):
        rendered = render_prompt(_request("What is <think>", template=template, prefill="So"), own, 1024)
        assert rendered.opened == ""
        assert rendered.text.endswith("So")
        assert "What is <think>" in rendered.text
    raw = render_prompt(_request("<think>", template="raw"), own, 1024)
    assert (raw.text, raw.opened) == ("<think>", "")


def test_a_template_without_an_assistants_role_says_so(own: Any) -> None:
    """F1, G6: its own words, where a conversation has answers."""
    refuses = "{% if m.role == 'assistant' %}{{ raise_exception('one turn only') }}{% endif %}"
    own.chat_template = "{% for m in messages %}" + refuses + "{% endfor %}"
    turns = (Message("user", "Hi"), Message("assistant", "Hey"), Message("user", "And?"))
    with pytest.raises(InvalidRequest, match="one turn only"):
        render_prompt(GenerationRequest(SPEC, messages=turns), own, 1024)


def test_what_does_not_fit_is_dropped_from_the_oldest_on(own: Any) -> None:
    """G7: as few turns as needed, a user turn first."""
    turns = tuple(Message("user" if at % 2 == 0 else "assistant", f"turn {at} " + "word " * 20) for at in range(21))
    request = GenerationRequest(SPEC, messages=turns, settings=GenerationSettings(max_new_tokens=10))
    whole = len(render_prompt(request, own, 100_000).token_ids)
    rendered = render_prompt(request, own, whole // 2)
    assert rendered.dropped_turns % 2 == 0
    assert f"turn {rendered.dropped_turns} " in rendered.text
    assert f"turn {rendered.dropped_turns - 1} " not in rendered.text
    assert whole // 2 - len(rendered.token_ids) < 3 * (whole // 21)
    assert str(rendered.dropped_turns) in rendered.notice


def test_one_turn_that_is_too_long_is_an_error_with_figures(own: Any) -> None:
    """G7: also as the last of many."""
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "word " * 300))
    with pytest.raises(ContextOverflow, match=r"has \d+ tokens.*at most 100"):
        render_prompt(GenerationRequest(SPEC, messages=turns), own, 100)


def test_the_turns_end_token_is_found(own: Any) -> None:
    """FACTS: 'never stops' is a wrong end token."""
    assert end_of_turn_ids(own) == {own.convert_tokens_to_ids("<|im_end|>")}
    own.chat_template = WITH_BOS
    assert end_of_turn_ids(own) == set()
    assert extra_stops(_request(), own) == ()


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "takes too long"),
        ("{{ 'a' * 5000000 }}", "makes 5,000,000 characters"),
        ("{{ 9 ** (9 ** 9) }}", "takes powers"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "takes powers"),
        ("{% for i in range(1000000000) %}{% endfor %}", "fails on this conversation.*Range too big"),
        ("{{ messages[0].content / 0 }}", "fails on this conversation"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "fails on this conversation"),
    ],
)
def test_a_template_cannot_keep_the_engine_busy(
    own: Any, monkeypatch: pytest.MonkeyPatch, template: str, sentence: str
) -> None:
    """G6, G7: whatever an adapter brought as its template, the answer is an error with a remedy, and soon."""
    monkeypatch.setattr("playground.local_inference.templates._MOST_LINES", 20_000)
    own.chat_template = template
    with pytest.raises(InvalidRequest, match=f"chat template {sentence}.*raw template"):
        render_prompt(_request("Hi"), own, 1024)
    monkeypatch.setattr(own, "chat_template", THINKING)
    assert render_prompt(_request("Hi"), own, 1024).text == "Hi"


def test_a_long_conversation_is_no_endless_loop(own: Any) -> None:
    """G7: thousands of turns are rendered, and stars in a template's text are no powers."""
    own.chat_template = "**Chat**{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    turns = tuple(Message("user" if at % 2 == 0 else "assistant", "a") for at in range(3001))
    assert render_prompt(replace(_request(), prompt=None, messages=turns), own, 10_000).text == "**Chat**" + "a" * 1501
