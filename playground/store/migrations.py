"""The history file's schema: its version, and the steps from each version to the next.

The version stands in the table ``meta``. Whoever changes what documents look like raises `SCHEMA` and adds a step; a new
field that has a default needs none. What was there before a step stays in a copy beside the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinydb.storages import Storage

from playground.errors import HistoryUnavailable
from playground.store.journal import Journal, Tables

SCHEMA = 1
META = "meta"
Step = Callable[[Tables], Tables]
STEPS: Mapping[int, Step] = {}  # from a version → what makes the next one's tables of its tables


def check(tables: Tables | None, schema: int = SCHEMA) -> None:
    """Raises `HistoryUnavailable` when a newer version than this one wrote ``tables``, or none."""
    found = version(tables)
    if found < 1:
        raise HistoryUnavailable(
            f"The history says that its schema is {found}, which no version of this app wrote.",
            "Put a copy of it in its place, or name another folder with --data-dir. Nothing was changed.",
        )
    if found > schema:
        raise HistoryUnavailable(
            f"The history was written by a newer version of this app (its schema is {found}, this one knows {schema}).",
            "Start that version, or name another folder with --data-dir. Nothing was changed.",
        )


def version(tables: Tables | None) -> int:
    """The schema's version of ``tables``; of those that do not tell, this app's."""
    for values in (tables or {}).get(META, {}).values():
        if type(values.get("schema")) is int:
            return int(values["schema"])
    return SCHEMA


def migrate(storage: Storage, steps: Mapping[int, Step] = STEPS, schema: int = SCHEMA) -> None:
    """Bring what ``storage`` holds to this version, all of it in one transaction, and write the version down.

    Raises `HistoryUnavailable` when it is a newer version's, or cannot be written.
    """
    tables = storage.read() or {}
    check(tables, schema)
    found = version(tables)
    if META in tables and found == schema:
        return
    if found < schema and isinstance(storage, Journal):
        storage.keep_copy(f"schema-{schema}")
    for number in range(found, schema):
        tables = steps[number](tables)
    storage.write({**tables, META: {"1": {"schema": schema}}})
    if isinstance(storage, Journal):
        storage.fold()
