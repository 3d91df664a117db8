"""Which rows are live: admission and fairness, as policy only. No torch: a row is anything with a ``lane``.

Rows of one lane may be live together; a row whose lane differs (an adapter that needs the model to itself) waits until the
live ones have finished, and one for which there is no memory now until there is. Nobody overtakes them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class HasLane(Protocol):
    """What the scheduler needs to know of a row."""

    @property
    def lane(self) -> Hashable:
        """Rows with equal lanes may be live at the same time."""
        ...


RowT = TypeVar("RowT", bound=HasLane)


class Scheduler(Generic[RowT]):
    """First come, first served, up to ``slots`` live rows. Every method may be called from any thread."""

    def __init__(self, slots: int, fits: Callable[[RowT, list[RowT]], bool] = lambda row, live: True) -> None:
        """``fits(row, live)`` says whether there is memory for ``row`` beside the live ones; alone it may always try."""
        self._slots = slots
        self._fits = fits
        self._lock = threading.Lock()
        self._waiting: deque[RowT] = deque()
        self._live: list[RowT] = []

    def add(self, row: RowT) -> None:
        """Put ``row`` at the end of the line."""
        with self._lock:
            self._waiting.append(row)

    def admit(self) -> list[RowT]:
        """Move rows from the line to the live ones, as many as may join now, and return them."""
        with self._lock:
            joined: list[RowT] = []
            while self._waiting and len(self._live) < self._slots and self._may_join(self._waiting[0]):
                row = self._waiting.popleft()
                self._live.append(row)
                joined.append(row)
            return joined

    def leave(self, row: RowT) -> None:
        """Forget ``row``, live or waiting."""
        with self._lock:
            if row in self._live:
                self._live.remove(row)
            elif row in self._waiting:
                self._waiting.remove(row)

    def live(self) -> list[RowT]:
        """The live rows, oldest first."""
        with self._lock:
            return list(self._live)

    def waiting(self) -> list[RowT]:
        """The rows in line, first first."""
        with self._lock:
            return list(self._waiting)

    def _may_join(self, row: RowT) -> bool:
        return not self._live or (self._live[0].lane == row.lane and self._fits(row, self._live))
