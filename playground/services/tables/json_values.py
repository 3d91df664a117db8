"""JSON as people save it: one value after another, and the shapes in which a file holds many rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from playground.services.tables.rows import READ_AS_LATIN_1, Remarks, Row

# Under which keys rows are wrapped, the held-out ones first: those are what one tries a model with.
WRAPPERS = (
    "test",
    "validation",
    "valid",
    "dev",
    "eval",
    "rows",
    "data",
    "examples",
    "items",
    "records",
    "samples",
    "train",
)
_ROLES = ("role", "from")


def loads(content: bytes, remarks: Remarks) -> Any:
    """The value that ``content`` holds. NaN and Infinity are let in, as pandas and Python write them, and Latin-1, which is
    remarked upon. Raises `ValueError` for anything else."""
    try:
        return orjson.loads(content)
    except ValueError:
        pass  # the slower and more tolerant way
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        value = _tolerantly(content.decode("latin-1"))
        remarks.say(READ_AS_LATIN_1)
        return value
    return _tolerantly(text)


def _tolerantly(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def row_of(value: Any) -> Row | None:
    """``value`` as a row: an object; a text alone; the messages of a conversation alone; None for what is neither."""
    if isinstance(value, Mapping):
        inner = value.get("row")
        return (
            inner if isinstance(inner, Mapping) and "row_idx" in value else value
        )  # as the hub's viewer hands them out
    if isinstance(value, str):
        return {"text": value}
    return {"messages": value} if _is_conversation(value) else None


def rows_of(value: Any) -> Sequence[Any]:
    """The rows that a whole file holds: a list of them, a list under a key, or a list for each column; else one row."""
    if isinstance(value, list):
        return [value] if _is_conversation(value) else value
    if not isinstance(value, Mapping):
        return [value]
    wrapped = _wrapped(value)
    return wrapped if wrapped is not None else _by_column(value) or [value]


def _wrapped(value: Mapping[str, Any]) -> Sequence[Any] | None:
    """The rows under a key that says so, or under the only key there is."""
    names, cells = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(cells, list) and all(isinstance(one, list) for one in cells):
        return [dict(zip(map(str, names), row, strict=False)) for row in cells]  # as pandas "splits" a table
    for key in WRAPPERS:
        inner = value.get(key)
        if (
            isinstance(inner, list)
            and any(isinstance(one, (Mapping, list)) for one in inner)
            and not _is_conversation(inner)
        ):
            return inner
        if isinstance(inner, Mapping) and (rows := _by_column(inner)):
            return rows
    only = next(iter(value.values())) if len(value) == 1 else None
    is_list = isinstance(only, list) and bool(only) and isinstance(only[0], Mapping) and not _is_conversation(only)
    return only if is_list else None


def _by_column(value: Mapping[str, Any]) -> Sequence[Any]:
    """The rows of a value that holds a list for each column, or an object as pandas writes it: {"0": …, "1": …}."""
    columns = list(value.values())
    if columns and all(isinstance(column, list) for column in columns) and not any(map(_is_conversation, columns)):
        longest = max(map(len, columns))
        same = all(len(column) == longest for column in columns)
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)] if same else []
    if columns and all(isinstance(column, Mapping) and column for column in columns):
        places = list(columns[0])
        same = all(list(column) == places for column in columns) and all(place.isdigit() for place in places)
        return [{name: column[place] for name, column in value.items()} for place in places] if same else []
    return []


def _is_conversation(value: Any) -> bool:
    """Whether ``value`` is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) and _has_role(one) for one in value)


def _has_role(message: Mapping[str, Any]) -> bool:
    return any(isinstance(message.get(key), str) for key in _ROLES) and len(message) > 1
