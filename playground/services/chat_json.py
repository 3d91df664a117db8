"""Conversations as JSON: everything that there is to know of them but whose they are.

What the turns of a file have alike (settings, versions, what a model was made of) is written once, in a table ``alike``; a
turn names its row there as ``like`` and holds the rest itself. No field stands in both. The older form, in which every turn
holds everything, is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from playground.conversation import Conversation
from playground.errors import InvalidRequest
from playground.services.chat_limits import shown
from playground.store import records

FORMAT = "adapter-playground conversations 2"
OLDER = "adapter-playground conversations 1"  # without the table
MOST_ALIKE = 150_000_000  # bytes that the table's rows may come to, each counted as often as it is named
REMEDY = "Import json, Markdown or txt as this app writes them, or ChatML or ShareGPT as json or jsonl."
_OURS = "Import a file as this app wrote it."
_OURS_ALONE = ("owner", "revision")  # what is not part of what was said
# What differs from turn to turn, where it says anything; all else is shared.
_OWN: Mapping[str, Any] = {
    **dict.fromkeys(("id", "parent", "content", "at", "expected")),
    "reply": {
        **dict.fromkeys(("stats", "token_ids", "prompt_hash", "thought_s", "prefill")),
        "provenance": {"seed": None, "settings": {"seed": None}},
    },
}


def write(conversations: Sequence[Conversation]) -> str:
    """The text of a file with ``conversations``, a line for each."""
    rows: dict[str, int] = {}  # JSON of what turns have alike → its place in the table
    lines = [_dumped(_document(one, rows)) for one in conversations]
    table, listed = ",\n".join(rows), ",\n".join(lines)
    return f'{{"format":{_dumped(FORMAT)},"alike":[\n{table}\n],"conversations":[\n{listed}\n]}}\n'


def read(whole: Mapping[str, Any]) -> Iterator[Conversation]:
    """The conversations in a parsed file, without an owner. Raises `InvalidRequest` with the place and what is wrong."""
    if whole["format"] not in (FORMAT, OLDER):
        raise InvalidRequest(f"The file's format is {shown(whole['format'])}, not {FORMAT!r}.", REMEDY)
    table = ("alike",) if whole["format"] == FORMAT else ()
    if unknown := sorted(whole.keys() - {"format", "conversations", *table}):
        raise InvalidRequest(f"The file holds an unknown field {shown(unknown[0])}.", REMEDY)
    alike = _Alike(_list(whole, "alike") if table else [])
    for number, values in enumerate(_list(whole, "conversations"), 1):
        yield _conversation(values, alike, f"Conversation {number}")


class _Alike:
    """The table of a file: what turns refer to instead of repeating it."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows
        self._sizes: dict[int, int] = {}
        self._left = MOST_ALIKE

    def whole(self, turn: Any) -> Any:
        """``turn`` with all its fields. Raises `ValueError`."""
        if not isinstance(turn, dict) or "like" not in turn:
            return turn
        place = turn["like"]
        if type(place) is not int or not 0 <= place < len(self._rows):
            raise ValueError(f"a message is like {shown(place)}, which is not in the table")
        if not isinstance(row := self._rows[place], dict):
            raise ValueError(f"row {place} of the table is {shown(row)}, not an object")
        self._count(place)
        return _joined({name: value for name, value in turn.items() if name != "like"}, row, _OWN)

    def _count(self, place: int) -> None:
        """A small file must not become a large history."""
        if place not in self._sizes:
            self._sizes[place] = len(json.dumps(self._rows[place]))
        self._left -= self._sizes[place]
        if self._left < 0:
            raise ValueError(f"with what its messages have alike it is larger than {MOST_ALIKE // 10**6} MB")


def _document(conversation: Conversation, rows: dict[str, int]) -> dict[str, Any]:
    found = {name: value for name, value in records.document(conversation).items() if name not in _OURS_ALONE}
    turns = []
    for turn in found["turns"]:
        own, alike = _parted(turn, _OWN)
        turns.append({"like": rows.setdefault(_dumped(alike), len(rows)), **own})
    return {**found, "turns": turns}


def _parted(values: Mapping[str, Any], names: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what ``names`` name and says something, the rest) of ``values``; nested objects are parted in their turn."""
    own, alike = {}, {}
    for name, value in values.items():
        if name in names and names[name] and isinstance(value, dict):
            inner, alike[name] = _parted(value, names[name])
            own.update({name: inner} if inner else {})
        elif name in names and not names[name] and value:
            own[name] = value
        else:
            alike[name] = value
    return own, alike


def _joined(own: Mapping[str, Any], alike: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(alike)
    for name, value in own.items():
        if name not in found:
            found[name] = value
        elif names.get(name) and isinstance(value, dict) and isinstance(found[name], dict):
            found[name] = _joined(value, found[name], names[name])
        else:
            raise ValueError(f"{shown(name)} stands in a message and in the row that it is like")
    return found


def _conversation(values: Any, alike: _Alike, where: str) -> Conversation:
    if not isinstance(values, dict):
        raise InvalidRequest(f"{where} is {shown(values)}, not an object.", _OURS)
    if ours := sorted(values.keys() & set(_OURS_ALONE)):
        raise InvalidRequest(f"{where} holds an unknown field {ours[0]!r}.", _OURS)
    try:
        turns = [alike.whole(turn) for turn in records.listed(values, "turns")]
        found = records.conversation({**values, "owner": "", "turns": turns})
        _check_storable(found)
    except (ValueError, InvalidRequest) as error:
        reason = error.message.rstrip(".") if isinstance(error, InvalidRequest) else str(error)
        raise InvalidRequest(f"{where} cannot be read: {reason[:300]}.", _OURS) from error
    return found


def _check_storable(found: Conversation) -> None:
    """Refuse what can be read and not be stored; looking closely takes ten times as long."""
    try:
        orjson.dumps(found)
    except TypeError:
        records.document(found)


def _list(whole: Mapping[str, Any], name: str) -> list[Any]:
    found = whole.get(name)
    if not isinstance(found, list):
        raise InvalidRequest(f"The file's {name} are {shown(found)}, not a list.", REMEDY)
    return found


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
