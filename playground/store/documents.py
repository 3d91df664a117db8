"""A TinyDB table that can change many documents in one write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinydb.table import Table


class Documents(Table):
    """A table of documents that are replaced as a whole, never changed in place."""

    def put(self, documents: Iterable[tuple[int | None, Mapping[str, Any]]]) -> list[int]:
        """Put each document in the place of that number, or in a new one for None; returns the places. One write."""
        places: list[int] = []

        def update(table: dict[int, Mapping[str, Any]]) -> None:
            for place, document in documents:
                places.append(int(self._get_next_id()) if place is None else place)  # type: ignore[no-untyped-call]
                table[places[-1]] = document

        self._update_table(update)  # what every change of a table goes through
        return places
