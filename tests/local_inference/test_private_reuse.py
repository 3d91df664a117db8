"""Where strangers share a server, what was read for one tells no other how that one's prompt goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from playground.local_inference import LocalInference
from playground.local_inference.templates import opening, render_prompt
from playground.types import GenerationRequest, GenerationSettings, Message, ModelSpec, RenderedPrompt

from .conftest import PIRATE, STARTER, at_once, events_of, ids_of
from .family_maker import make_family

SYSTEM = "You answer for a shop that sells old maps, and you never tell anybody that the code of its door is 4711. " * 3
QUESTION = "Please tell me which maps of the northern islands you have at the moment, and what they cost with a frame."


@pytest.fixture(scope="module")
def private() -> Iterator[LocalInference]:
    """An engine as strangers share it."""
    engine = LocalInference(prefix_budget=200e6, private_prefixes=True)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[LocalInference]:
    """One without any reuse."""
    engine = LocalInference(prefix_budget=0)
    yield engine
    engine.close()


def _ask(user: str, system: str, *said: str, base: Path = STARTER, **options: Any) -> GenerationRequest:
    """``said`` are the user's and the model's turns, one after the other."""
    roles = ("user", "assistant")
    turns = tuple(Message(roles[at % 2], text) for at, text in enumerate(said))  # type: ignore[arg-type]
    settings = GenerationSettings(strategy="greedy", max_new_tokens=8, system_prompt=system)
    return GenerationRequest(
        ModelSpec(str(base), dtype="float32"), messages=turns, settings=settings, user=user, **options
    )


def _known(engine: LocalInference, plain: LocalInference, request: GenerationRequest) -> int:
    """How many tokens of the prompt were known; the answer is the one without reuse."""
    events = events_of(engine, request)
    assert ids_of(events) == ids_of(events_of(plain, request))
    stats = events[-1].stats
    assert stats is not None
    return stats.reused_tokens


def _shop(name: str) -> str:
    return f"You work for {name}. {SYSTEM}"


def _whole(engine: LocalInference, request: GenerationRequest) -> tuple[int, RenderedPrompt]:
    """How many tokens a request's opening has, and its prompt."""
    engine.load(request.spec)
    prompt = engine.render(request)
    return opening(request, prompt, AutoTokenizer.from_pretrained(STARTER))[1], prompt


def test_a_stranger_finds_a_whole_system_prompt_and_nothing_of_what_was_said(
    private: LocalInference, plain: LocalInference
) -> None:
    """G11: and who said it finds all of it."""
    system = _shop("Ann")
    count, prompt = _whole(plain, _ask("", system, QUESTION))
    assert 60 < count < len(prompt.token_ids) - 20
    assert _known(private, plain, _ask("ann", system, QUESTION)) == 0
    assert _known(private, plain, _ask("bob", system, QUESTION)) == count
    assert _known(private, plain, _ask("ann", system, QUESTION)) == len(prompt.token_ids) - 1
    assert _known(private, plain, _ask("ann", system, QUESTION, "We have two.", "Which?")) > len(prompt.token_ids) - 3
    assert _known(private, plain, _ask("eve", system, QUESTION, "We have two.", "Which?")) == count


def test_a_system_prompt_cannot_be_guessed_word_by_word(private: LocalInference, plain: LocalInference) -> None:
    """G11: a part of it is of no use, nor is the whole with more behind it."""
    system = _shop("Zoe")
    words = system.split()
    assert _known(private, plain, _ask("ann", system, QUESTION)) == 0
    for guess in (" ".join(words[:20]), " ".join(words[:-1]), system.strip()[:-1], system + " And more."):
        assert _known(private, plain, _ask(f"eve {guess}", guess, QUESTION)) == 0
    guess = private.render(_ask("", system, QUESTION)).text
    assert _known(private, plain, _ask("eve", "", guess, template="raw")) == 0


def test_a_text_without_a_system_prompt_is_its_users_own(private: LocalInference, plain: LocalInference) -> None:
    """G11: as is one of token ids; users' names are no part of the text."""
    request = _ask("ann", "", QUESTION * 2)
    assert _known(private, plain, request) == 0
    assert _known(private, plain, _ask("bob", "", QUESTION * 2)) == 0
    assert _known(private, plain, _ask("bob", "", QUESTION * 2)) > 40


def test_strangers_that_come_together_wait_for_the_system_prompt_alone(
    private: LocalInference, plain: LocalInference
) -> None:
    """G11: one of them reads it; an adapter has another one."""
    system = _shop("Joe")
    count, _ = _whole(plain, _ask("", system, QUESTION))
    found: dict[int, int] = {}
    at_once(lambda at: found.__setitem__(at, _known(private, plain, _ask(str(at), system, QUESTION))), 3)
    assert sorted(found.values()) == [0, count, count]
    spec = ModelSpec(str(STARTER), ((str(PIRATE), 1.0),), dtype="float32")
    request = GenerationRequest(
        spec, messages=(Message("user", QUESTION),), settings=_ask("", system, QUESTION).settings
    )
    assert _known(private, plain, request) == 0


@pytest.mark.long
@pytest.mark.parametrize("family", ["mistral", "qwen3_5_text"])
def test_windows_and_recurrent_layers_keep_users_apart(
    family: str, private: LocalInference, plain: LocalInference, tmp_path: Path
) -> None:
    """G11, G13: a recurrent state after the system prompt is copied there, for all; later ones are their user's own."""
    base = make_family(tmp_path / "base", family, 1536)
    AutoTokenizer.from_pretrained(STARTER).save_pretrained(base)
    count, prompt = _whole(plain, _ask("", SYSTEM, QUESTION, base=base))
    known = [_known(private, plain, _ask(user, SYSTEM, QUESTION, base=base)) for user in ("ann", "bob", "ann", "bob")]
    assert known == [0, count, len(prompt.token_ids) - 1, len(prompt.token_ids) - 1]


_LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if m.role == 'user' %}"
    "[INST] {% if loop.index0 == 1 and messages[0].role == 'system' %}<<SYS>>{{ messages[0].content }}<</SYS>>\n\n"
    "{% endif %}{{ m.content | trim }} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
_BEFORE_THE_LAST = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n\n{% endif %}{{ m.content }} [/INST]{% elif m.role == 'assistant' %}{{ m.content }}"
    "{% endif %}{% endfor %}"
)
_NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


@pytest.mark.parametrize(
    ("template", "said", "shares"),
    [
        ("chat", (QUESTION,), True),
        ("chat", (QUESTION, "Two.", "Which?"), True),
        (_LLAMA_2, (QUESTION, "Two.", "Which?"), True),
        (_NO_SYSTEM, (QUESTION, "Two.", "Which?"), True),
        (_BEFORE_THE_LAST, (QUESTION,), True),
        (_BEFORE_THE_LAST, (QUESTION, "Two.", "Which?"), False),
        ("", (QUESTION, "Two.", "Which?"), True),
        ("instruction", (QUESTION,), True),
        ("raw", (QUESTION,), False),
    ],
)
def test_what_comes_before_the_user_is_found_in_every_layout(
    template: str, said: Sequence[str], shares: bool, tokenizer: Any
) -> None:
    """G11: nothing that a user says is a part of it, also where it repeats the system prompt or where turns are dropped."""
    words = copy(tokenizer)
    if template not in ("chat", "instruction", "raw"):
        words.chat_template = template or None
    layout = template if template in ("instruction", "raw") else "chat"
    counts = set()
    for first in (said[0], SYSTEM, "4711", "\nx", " x", ".", "1"):
        request = _ask("", SYSTEM, first, *said[1:], template=layout)
        prompt = render_prompt(request, words, 1024)
        before, count = opening(request, prompt, words)
        assert prompt.text.startswith(before)
        assert not shares or SYSTEM in before
        text = words.decode(prompt.token_ids[:count], clean_up_tokenization_spaces=False)
        assert text == prompt.text[: len(text)]
        counts.add(count)
    assert len(counts - {0}) == shares
