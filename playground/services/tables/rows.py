"""Rows of a dataset as plain mappings, and sentences about those that were left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
NOT_NUMBERED = -1
READ_AS_LATIN_1 = "The file is not UTF-8; it was read as Latin-1, so check the accents."
_MOST_NAMED = 3
_MOST_COLUMNS = 500


@dataclass(frozen=True)
class Rows:
    """Some rows of a dataset, each with its place in it (from 0), its columns, and sentences about what was left out.

    The place is `NOT_NUMBERED` where a row was taken from the middle of a file that is too large to be counted; in a file
    of lines it is the line. ``total`` is how many rows there are, None where nobody has counted them.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[int, Row], ...] = ()
    total: int | None = None
    notices: tuple[str, ...] = field(default=())


class Remarks:
    """What has to be said of a dataset that was read: each sentence once, and of many bad rows the first few by place."""

    def __init__(self, *sentences: str) -> None:
        self._said = dict.fromkeys(sentences)
        self._left_out: dict[str, str] = {}

    def say(self, sentence: str) -> None:
        """Say ``sentence``, once."""
        self._said.setdefault(sentence)

    def leave_out(self, where: str, why: str) -> None:
        """The row at ``where`` ("line 4") was left out, because ``why`` ("it is not valid JSON")."""
        self._left_out.setdefault(where, why)

    def sentences(self) -> tuple[str, ...]:
        """All of it."""
        named = list(self._left_out.items())[:_MOST_NAMED]
        bad = [f"{where[:1].upper()}{where[1:]} was left out: {why}." for where, why in named]
        more = len(self._left_out) - len(named)
        bad += [f"{more} more {'row was' if more == 1 else 'rows were'} left out."] if more else []
        return (*self._said, *bad)


def columns_of(rows: Iterable[tuple[int, Row]]) -> tuple[str, ...]:
    """Every column that one of the rows has, in the order in which they come up."""
    return tuple(dict.fromkeys(name for _, row in rows for name in row))


def gathered(rows: Iterable[tuple[int, Row]], total: int | None, remarks: Remarks, columns: Iterable[str] = ()) -> Rows:
    """`Rows` of what was read; the columns are those of ``rows`` unless the file names them itself, and not too many."""
    kept = tuple(rows)
    names = tuple(columns) or columns_of(kept)
    if len(names) > _MOST_COLUMNS:
        remarks.say(f"It has {len(names):,} columns; the first {_MOST_COLUMNS} are offered.")
    return Rows(names[:_MOST_COLUMNS], kept, total, remarks.sentences())
