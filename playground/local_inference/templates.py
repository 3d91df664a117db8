"""From messages to the prompt that the model reads: chat, instruction and raw; fitted to the context window.

No torch: works on whatever tokenizer object it is given (transformers' interface), and on text alone otherwise.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError

from playground.errors import ContextOverflow, InvalidRequest
from playground.types import GenerationRequest, Message, RenderedPrompt

# The layout of the Alpaca data set, which most instruction tunes without a chat template were trained on.
_INSTRUCTION_PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_PLAIN_STOP = ("\nUser:",)
_NO_TEMPLATE = "This model has no chat template; the conversation is sent as plain 'User:' and 'Assistant:' lines."
# What a template may do for one prompt: lines of Python (longest conversations take some hundred thousands), and characters
# that it adds to the messages'.
_MOST_LINES = 5_000_000
_MOST_ADDED = 2_000_000
_FAILURES = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)
# What the generation prompt of a model that thinks may end with: thoughts that are open, or empty ones.
_THINK = re.compile(r"(<think>\s*)(</think>\s*)?\Z")
# In place of what the user says, to find out where that begins: characters of private use, which nobody writes.
_MARK = "\ue0a1\ue0a2\ue0a3"
# So many tokens at the end of a text may be split otherwise when the text goes on.
_BORDER = 2
_NO_SYSTEM = "This model's template has no system role; the system prompt was put before the first message."


def conversation(request: GenerationRequest) -> list[Message]:
    """The turns of ``request``, the system prompt first where there is one."""
    turns = list(request.messages) or [Message("user", request.prompt or "")]
    if request.settings.system_prompt.strip() and turns[0].role != "system":
        turns.insert(0, Message("system", request.settings.system_prompt))
    return turns


def render_prompt(request: GenerationRequest, tokenizer: Any, window: int, *, answer: bool = True) -> RenderedPrompt:
    """The prompt of ``request`` as text and token ids, its oldest turns dropped when it is longer than ``window``.

    ``max_new_tokens`` of the result is what still fits behind it; with ``answer`` False nothing needs to, and the prompt may
    fill the window. Raises `ContextOverflow` when the last turn alone is
    too long, and `InvalidRequest` when it is empty or the model's own template refuses the conversation.
    """
    turns = conversation(request)
    dropped = 0
    text, ids, notices = _render(request, turns, tokenizer)
    if not ids:
        raise InvalidRequest("The prompt has no tokens, so there is nothing to continue.", "Write something.")
    most = window - 1 if answer else window
    if len(ids) > most and request.template == "chat":
        room = window - min(request.settings.max_new_tokens, window // 4)
        dropped, (text, ids, notices) = _drop_oldest(request, turns, tokenizer, room, (text, ids, notices))
    if len(ids) > most:
        raise ContextOverflow(
            f"The prompt has {len(ids)} tokens, and the model reads at most {window}{' with its answer' if answer else ''}.",
            f"Shorten it by at least {len(ids) - most} tokens.",
        )
    asked = request.settings.max_new_tokens
    fits = min(asked, window - len(ids))
    if dropped:
        notices.append(f"The {dropped} oldest messages were left out so that the conversation fits {window} tokens.")
    if fits < asked and answer:
        notices.append(
            f"The prompt takes {len(ids)} of the model's {window} tokens, so the answer ends after at most {fits} "
            f"({asked} were asked for)."
        )
    opened = _opened(text, request.prefill) if request.template == "chat" and tokenizer.chat_template else ""
    return RenderedPrompt(text, tuple(ids), window, dropped, fits, " ".join(notices), opened)


def opening(request: GenerationRequest, prompt: RenderedPrompt, tokenizer: Any) -> tuple[str, int]:
    """What of ``prompt``, rendered of ``request``, comes before what the user says first, and how many tokens of it count.

    The last ones do not: the text behind them might change how they are split. ("", 0) where there is no system prompt, or
    something of the user's before it.
    """
    turns = conversation(request)
    said = next((at for at, turn in enumerate(turns) if turn.role == "user"), 0)
    if request.prompt_ids or request.template == "raw" or turns[0].role != "system" or not said:
        return "", 0
    try:
        text, _, _ = _render(request, [*turns[:said], Message("user", _MARK)], tokenizer)
    except InvalidRequest:
        return "", 0
    before, found, _ = text.partition(_MARK)
    if not found or not prompt.text.startswith(before):
        return "", 0
    split = request.template == "chat" and tokenizer.chat_template
    ids = list(tokenizer(before, add_special_tokens=False)["input_ids"]) if split else _encode(tokenizer, before)
    count = max(0, len(ids) - _BORDER)
    return (before, count) if tuple(ids[:count]) == prompt.token_ids[:count] else ("", 0)


def template_text(request: GenerationRequest, tokenizer: Any) -> str:
    """The chat template's text as it was applied to ``request``; "" where none was."""
    if request.template != "chat" or not tokenizer.chat_template:
        return ""
    text: str = tokenizer.get_chat_template()
    return text


def extra_stops(request: GenerationRequest, tokenizer: Any) -> tuple[str, ...]:
    """Stop sequences that the prompt's layout itself calls for."""
    return _PLAIN_STOP if request.template == "chat" and not tokenizer.chat_template else ()


def end_of_turn_ids(tokenizer: Any) -> set[int]:
    """Ids of the special tokens with which the chat template closes an assistant's turn.

    A base whose declared end token is not the one that its template uses would otherwise never stop.
    """
    if not tokenizer.chat_template:
        return set()
    mark = "REPLY"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": mark}]
    try:
        with at_most(_MOST_LINES, lambda: _broken("takes too long"), "<template>"):
            text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, *_FAILURES):
        return set()
    after = tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    return {after[0]} if after and after[0] in special else set()


def _drop_oldest(
    request: GenerationRequest, turns: list[Message], tokenizer: Any, room: int, whole: tuple[str, list[int], list[str]]
) -> tuple[int, tuple[str, list[int], list[str]]]:
    """Leave out as few of the oldest messages as bring the prompt to ``room`` tokens; a user turn comes first.

    The system message and the last user turn always stay. Returns (number left out, rendered).
    """
    system = turns[:1] if turns[0].role == "system" else []
    rest = turns[len(system) :]
    starts = [at for at, turn in enumerate(rest) if turn.role == "user" and at > 0]
    best = (0, whole)
    low, high = 0, len(starts) - 1
    while low <= high:
        middle = (low + high) // 2
        rendered = _render(request, system + rest[starts[middle] :], tokenizer)
        best = (starts[middle], rendered) if len(rendered[1]) <= room or middle == len(starts) - 1 else best
        if len(rendered[1]) <= room:
            high = middle - 1
        else:
            low = middle + 1
    return best


def _render(request: GenerationRequest, turns: Sequence[Message], tokenizer: Any) -> tuple[str, list[int], list[str]]:
    """(text, token ids, notices) of these turns under the request's template; token ids that were given are not touched."""
    if request.prompt_ids:
        ids = list(request.prompt_ids)  # as an array: of a list the tokenizer looks at each number's type
        return tokenizer.decode(np.array(ids), clean_up_tokenization_spaces=False), ids, []
    if request.template == "raw":
        text = _last_user(turns) + request.prefill
        return text, _encode(tokenizer, text), []
    if request.template == "instruction":
        text = _instruction(turns) + request.prefill
        return text, _encode(tokenizer, text), []
    if not tokenizer.chat_template:
        text = _plain(turns) + request.prefill
        return text, _encode(tokenizer, text), [_NO_TEMPLATE]
    written, notices = _apply_template(request, turns, tokenizer)
    text = _header(written, request.prefill) + request.prefill
    # The template already wrote the special tokens, so adding them here would double the BOS.
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"]), notices


def _header(written: str, prefill: str) -> str:
    """What the template has ``written`` up to the answer, as it must be for the answer to begin with ``prefill``.

    A prefill brings its own ``<think>``, or goes on inside the template's when it ends that, or is no thought at all.
    """
    thinks = _THINK.search(written) if prefill else None
    if thinks is None:
        return written
    before, opens, closes = written[: thinks.start()], thinks[1], thinks[2]
    if prefill.lstrip().startswith("<think>"):
        return before
    if "</think>" in prefill:
        return before + opens
    return written if closes else before


def _opened(text: str, prefill: str) -> str:
    """The ``<think>`` that the template has written before the answer, "" where it is closed or there is none."""
    thinks = _THINK.search(text.removesuffix(prefill))
    return thinks[1] if thinks and not thinks[2] else ""


def _apply_template(request: GenerationRequest, turns: Sequence[Message], tokenizer: Any) -> tuple[str, list[str]]:
    try:
        return _templated(request, turns, tokenizer), []
    except TemplateError as error:
        if turns[0].role != "system":
            raise InvalidRequest(
                f"The model's chat template refused this conversation: {error}.",
                "Begin with a user message and let user and assistant alternate, or use the raw template.",
            ) from error
    first, *rest = turns[1:]
    merged = [Message(first.role, f"{turns[0].content}\n\n{first.content}"), *rest]
    return _apply_template(request, merged, tokenizer)[0], [_NO_SYSTEM]


def _templated(request: GenerationRequest, turns: Sequence[Message], tokenizer: Any) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    if _takes_powers(str(tokenizer.chat_template)):
        raise _broken("takes powers of numbers, which can keep the whole program busy for ever")
    try:
        with at_most(_MOST_LINES, lambda: _broken("takes too long"), "<template>"):
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **dict(request.chat_template_kwargs)
            )
    except _FAILURES as error:
        raise _broken(f"fails on this conversation ({type(error).__name__}: {error})") from error
    # Before it is split into tokens, which takes memory and time for every character.
    if len(text) > _MOST_ADDED + 2 * sum(len(turn.content) for turn in turns):
        raise _broken(f"makes {len(text):,} characters of it")
    return text


@functools.lru_cache(maxsize=64)
def _takes_powers(template: str) -> bool:
    """Whether ``template`` has an operator that one step of Python may never be done with; no template needs it."""
    marks = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # transformers' own, they only mark what is trained on
    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        return environment.parse(marks.sub("", template)).find(nodes.Pow) is not None
    except TemplateError:
        return False  # whoever renders it says what is wrong


def _broken(what: str) -> InvalidRequest:
    return InvalidRequest(f"The model's chat template {what}.", "Use the raw template, or another adapter or model.")


@contextmanager
def at_most(lines: int, exceeded: Callable[[], Exception], file: str = "") -> Iterator[None]:
    """Within the block, what ``exceeded`` gives is raised once so many lines of Python have run: loops may be endless.

    With ``file``, lines of code compiled under that name alone are counted; Jinja's name for a template is ``<template>``.
    """
    left = lines

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if file and frame.f_code.co_filename != file:
            return None
        left -= 1
        if left < 0:
            raise exceeded()
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids with the special tokens that the tokenizer adds itself, but never a second BOS."""
    written = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=not written)["input_ids"])


def _last_user(turns: Sequence[Message]) -> str:
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), "")


def _system(turns: Sequence[Message]) -> str:
    return next((turn.content for turn in turns if turn.role == "system"), "")


def _instruction(turns: Sequence[Message]) -> str:
    preamble = _system(turns) or _INSTRUCTION_PREAMBLE
    return f"{preamble}\n\n### Instruction:\n{_last_user(turns)}\n\n### Response:\n"


def _plain(turns: Sequence[Message]) -> str:
    lines = [_system(turns)] if _system(turns) else []
    names = {"user": "User", "assistant": "Assistant"}
    lines += [f"{names[turn.role]}: {turn.content}" for turn in turns if turn.role != "system"]
    return "\n".join([*lines, "Assistant:"])
