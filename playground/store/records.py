"""Conversations and settings as plain JSON documents, and back.

Writing keeps every field, also those at their defaults: a default may change, and what was said then must not. Reading is
strict: a document with a field that is unknown, lacking or of another kind is no conversation. A field that has a default
may lack, so that a later version can add one. The readers are made from the dataclasses' own annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import orjson

from playground.conversation import Conversation
from playground.errors import InvalidRequest, PlaygroundError
from playground.types import GenerationSettings

Document = Mapping[str, Any]
DEEPEST = 50  # of what a request hands to a model's own template
_WHOLE = range(-(2**63), 2**63)
_Reader = Callable[[Any], Any]


def document(conversation: Conversation) -> dict[str, Any]:
    """``conversation`` as plain JSON; each reply also tells its ``model_id``, for other programs.

    Raises `InvalidRequest` for what no JSON holds: half of a character, a number without an end, a turn after none.
    """
    try:
        check_tree([(turn.id, turn.parent) for turn in conversation.turns], conversation.leaf)
        found = _plain(conversation)
    except ValueError as error:
        raise InvalidRequest(f"This conversation cannot be kept: {error}.", "Send whole texts and numbers.") from error
    for turn, values in zip(conversation.turns, found["turns"], strict=True):
        if turn.reply:
            values["reply"]["model_id"] = turn.reply.model_id
    return dict(found)


def conversation(document: Document) -> Conversation:
    """The conversation in ``document``. Raises `ValueError` naming what is no good in it."""
    values = {**document, "turns": [_without_derived(turn) for turn in listed(document, "turns")]}
    found: Conversation = _reader(Conversation)(values)
    check_tree([(turn.id, turn.parent) for turn in found.turns], found.leaf)
    return found


def size(document: Document | Conversation) -> int:
    """Bytes of ``document``, or of a conversation that can be stored, as JSON."""
    try:
        return len(orjson.dumps(document))
    except TypeError:  # half of a character, a number of more than 64 bits: another program may have written it
        return len(json.dumps(document))


def settings_document(settings: GenerationSettings) -> dict[str, Any]:
    """``settings`` as plain JSON. Raises `InvalidRequest` for a text that holds half of a character."""
    try:
        return dict(_plain(settings))
    except ValueError as error:
        raise InvalidRequest(f"These settings cannot be kept: {error}.", "Send whole texts.") from error


def settings(document: Any) -> GenerationSettings:
    """The settings in ``document``. Raises `ValueError` naming what is no good in it."""
    found: GenerationSettings = _reader(GenerationSettings)(document)
    return found


def check_tree(turns: Iterable[tuple[str, str]], leaf: str) -> None:
    """Whether each of the (id, parent) follows one before it and ``leaf`` is one of them. Raises `ValueError`."""
    known = {""}
    for turn_id, parent in turns:
        if parent not in known:
            raise ValueError(f"message {_short(turn_id)} follows {_short(parent)}, which is not before it")
        if turn_id in known:
            raise ValueError(f"the message id {_short(turn_id)} is there twice, or is empty")
        known.add(turn_id)
    if leaf not in known:
        raise ValueError(f"the open message {_short(leaf)} is not there")


def listed(values: Any, name: str) -> list[Any]:
    """The list of that name in ``values``. Raises `ValueError`."""
    found = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(found, list):
        raise ValueError(f"{name}: {_short(found)} is no list")
    return found


def _without_derived(turn: Any) -> Any:
    if not isinstance(turn, dict) or not isinstance(turn.get("reply"), dict):
        return turn
    return {**turn, "reply": {name: value for name, value in turn["reply"].items() if name != "model_id"}}


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` as what JSON has, in new lists and dicts. Raises `ValueError` for what it has not."""
    if isinstance(value, str):
        return value if value.isascii() else _whole_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    if depth > DEEPEST:
        raise ValueError(f"it is more than {DEEPEST} levels deep")
    if isinstance(value, (list, tuple)):
        return list(value) if _all_whole(value) else [_plain(one, depth + 1) for one in value]
    if isinstance(value, Mapping):
        return {_key(name): _plain(one, depth + 1) for name, one in value.items()}
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name), depth + 1) for name in _names(value.__class__)}
    raise ValueError(f"{_short(value)} is neither text nor number")


def _all_whole(values: Any) -> bool:
    """Whether all are whole numbers of 64 bits, as tokens are: there are so many that each look counts."""
    return set(map(type, values)) == {int} and min(values) in _WHOLE and max(values) in _WHOLE


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(one.name for one in dataclasses.fields(kind))


def _whole_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text holds half of a character at position {error.start}") from error
    return value


def _number(value: float) -> float:
    if isinstance(value, int):
        if value not in _WHOLE:
            raise ValueError("a number has more than 64 bits")
    elif not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    return value


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the name {_short(name)} is no text")
    return _whole_text(name)


@functools.cache
def _reader(hint: Any) -> _Reader:
    """What reads a value of the annotated kind, or raises `ValueError`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: value
    if hint in _KINDS:
        return _KINDS[hint]
    if dataclasses.is_dataclass(hint):
        return _fields_reader(hint)
    if origin is Literal:
        return _one_of(parts)
    if origin is tuple:
        return _all_of(_reader(parts[0])) if parts[1:] == (...,) else _each_of([_reader(part) for part in parts])
    if origin in (types.UnionType, typing.Union) and type(None) in parts:
        return _or_none(_reader(next(part for part in parts if part is not type(None))))
    if origin is not None and issubclass(origin, Mapping):
        return _named(_reader(parts[1]))
    raise TypeError(f"no document holds a {hint}")


def _fields_reader(kind: Any) -> _Reader:
    hints = typing.get_type_hints(kind)
    required = {one.name for one in dataclasses.fields(kind) if _has_no_default(one)}
    readers = {name: _reader(hints[name]) for name in _names(kind)}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"{_short(value)} is no object")
        if wrong := sorted(value.keys() - readers.keys()) or sorted(required - value.keys()):
            raise ValueError(f"the field {_short(wrong[0])} is {'unknown' if wrong[0] in value else 'lacking'}")
        given = {}
        for name, part in value.items():
            try:
                given[name] = readers[name](part)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        try:
            return kind(**given)
        except PlaygroundError as error:
            raise ValueError(error.message) from error

    return read


def _has_no_default(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _of_type(*kinds: type) -> _Reader:
    def read(value: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError(f"{_short(value)} is not {' or '.join(kind.__name__ for kind in kinds)}")
        return value

    return read


def _one_of(values: tuple[Any, ...]) -> _Reader:
    def read(value: Any) -> Any:
        if not any(value == one and type(value) is type(one) for one in values):
            raise ValueError(f"{_short(value)} is none of {', '.join(map(repr, values))}")
        return value

    return read


def _or_none(reader: _Reader) -> _Reader:
    return lambda value: None if value is None else reader(value)


def _all_of(reader: _Reader) -> _Reader:
    if reader is _KINDS[int]:
        return lambda value: tuple(value if set(map(type, _list(value))) <= {int} else [reader(one) for one in value])
    return lambda value: tuple([reader(one) for one in _list(value)])


def _each_of(readers: list[_Reader]) -> _Reader:
    def read(value: Any) -> Any:
        if len(_list(value)) != len(readers):
            raise ValueError(f"{_short(value)} has not {len(readers)} parts")
        return tuple([reader(one) for reader, one in zip(readers, value, strict=True)])

    return read


def _named(reader: _Reader) -> _Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"{_short(value)} is no object")
        return {name: reader(one) for name, one in value.items()}

    return read


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{_short(value)} is no list")
    return value


def _short(value: Any) -> str:
    return repr(value)[:80]


_KINDS: dict[Any, _Reader] = {str: _of_type(str), bool: _of_type(bool), int: _of_type(int), float: _of_type(float, int)}
