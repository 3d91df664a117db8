"""What stands in a dataset's row, as text: plain values, lists of answers, messages in their two usual shapes."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Role = Literal["system", "user", "assistant", "other"]
_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip
# Where an object that stands for a text keeps it: a message, SQuAD's answers.
_TEXT_KEYS = ("content", "value", "text", "answer")
_MOST_NESTED = 8
_SPEAKER = re.compile(r"(?:\A|\n\n|###[ ]?)(Human|Assistant):")


@dataclass(frozen=True)
class Said:
    """One message of a conversation, as its dataset has it."""

    role: Role
    text: str


def text_of(value: Any, nested: int = 0) -> str:
    """``value`` as text, "" for what is none or holds none (nothing, NaN, bytes, a picture).

    Of a list of answers it is the first; an object without a text of its own is written as JSON.
    """
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, (bytes, bytearray)) or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (Mapping, list, tuple)):
        if nested > _MOST_NESTED:
            return _json(value)
        return _of_object(value, nested) if isinstance(value, Mapping) else _of_list(value, nested)
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value)


def clean(text: str) -> str:
    """``text`` without halves of characters, as JSON's escapes can hold and nothing else can write."""
    return text.encode("utf-8", "replace").decode() if any("\ud800" <= char <= "\udfff" for char in text) else text


def conversation_of(value: Any) -> tuple[Said, ...]:
    """The messages in ``value``: a list of {role, content} or {from, value}, the same as JSON in a text, or a transcript
    ("Human: … Assistant: …"); () for anything else."""
    messages = _listed(value) or _transcript(value)
    if not messages or not all(isinstance(one, Mapping) and _role(one) for one in messages):
        return ()
    return tuple(Said(_ROLES.get(_role(one).lower(), "other"), _content(one)) for one in messages)


def is_conversation(value: Any) -> bool:
    """Whether ``value`` holds messages."""
    return bool(conversation_of(value))


def _listed(value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            found = orjson.loads(clean(value))
        except ValueError:
            return ()
        return found if isinstance(found, list) else ()
    return ()


def _transcript(value: Any) -> Sequence[Any]:
    """A conversation in one text, as Anthropic's HH-RLHF and Guanaco have it; () for a text that is none."""
    start, *said = _SPEAKER.split(value) if isinstance(value, str) else ("",)
    if start.strip() or said[:1] != ["Human"] or "Assistant" not in said[::2]:
        return ()
    return [{"role": who, "content": text.strip()} for who, text in zip(said[::2], said[1::2], strict=True)]


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role") or message.get("from")
    return role if isinstance(role, str) and ("content" in message or "value" in message) else ""


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") if message.get("content") is not None else message.get("value")
    if isinstance(content, (list, tuple)):  # parts of text and pictures
        if any(isinstance(part, Mapping) and part.get("type") not in ("text", None) for part in content):
            return ""
        return "\n".join(filter(None, map(text_of, content)))
    return text_of(content)


def _of_object(value: Mapping[str, Any], nested: int) -> str:
    for key in _TEXT_KEYS:
        if value.get(key):
            return text_of(value[key], nested + 1)
    filled = {name: inner for name, inner in value.items() if inner is not None}
    return _json(filled) if filled and not any(key in value for key in _TEXT_KEYS) and "bytes" not in value else ""


def _of_list(value: Sequence[Any], nested: int) -> str:
    if all(isinstance(one, (str, Mapping)) for one in value):
        return next((text for one in value if (text := text_of(one, nested + 1))), "")
    return _json(value)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # nested too deeply to be an answer, or a number that JSON has no room for
        return ""
