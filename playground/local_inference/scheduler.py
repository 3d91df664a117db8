"""Which rows are live, and whose turn it is: policy only. No torch.

Line: users take turns, however many rows one of them has, and nobody overtakes who is next; a row for which there is no
memory now waits until there is. Turns: rows of one base whose lanes differ (an adapter that PEFT serves needs the base to
itself) are live together, and are stepped in turns of two seconds.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

TURN_S = 2.0


class HasUser(Protocol):
    """What the scheduler needs to know of a row."""

    @property
    def user(self) -> str:
        """Whose row it is."""
        ...


RowT = TypeVar("RowT", bound=HasUser)


class Scheduler(Generic[RowT]):
    """Up to ``slots`` live rows, and a line. Every method may be called from any thread."""

    def __init__(self, slots: int, fits: Callable[[RowT, list[RowT]], bool] = lambda row, live: True) -> None:
        """``fits(row, live)`` says whether there is memory for ``row`` beside the live ones; alone it may always try."""
        self._slots = slots
        self._fits = fits
        self._lock = threading.RLock()  # ``fits`` may ask who is live
        self._waiting: list[RowT] = []
        self._live: list[RowT] = []

    def add(self, row: RowT) -> None:
        """Put ``row`` in line."""
        with self._lock:
            self._waiting.append(row)

    def admit(self) -> list[RowT]:
        """Move rows from the line to the live ones, as many as may join now, and return them."""
        with self._lock:
            joined: list[RowT] = []
            while self._waiting and len(self._live) < self._slots and self._may_join(row := self._in_line()[0]):
                self._waiting.remove(row)
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
            return self._in_line()

    def _in_line(self) -> list[RowT]:
        """A user's first row comes before anybody's second, what of theirs is live counted; then who came first."""
        ranks = Counter(row.user for row in self._live) if self._waiting else Counter()
        ranked = []
        for row in self._waiting:
            ranked.append((ranks[row.user], row))
            ranks[row.user] += 1
        return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]

    def _may_join(self, row: RowT) -> bool:
        return not self._live or self._fits(row, self._live)


class Turns:
    """Whose turn it is on one base."""

    def __init__(self) -> None:
        self._lane: Hashable = None
        self._since = float("-inf")
        self._served: dict[Hashable, float] = {}

    def choose(self, lanes: Sequence[Hashable], now: float) -> Hashable:
        """The lane to step at ``now`` (seconds), of those with rows: the same for two seconds, then who waits longest."""
        if self._lane in lanes and (len(set(lanes)) == 1 or now - self._since < TURN_S):
            return self._lane
        self._served = {lane: at for lane, at in self._served.items() if lane in lanes}
        self._served[self._lane] = now
        others = [lane for lane in dict.fromkeys(lanes) if lane != self._lane]
        self._lane = min(others or lanes, key=lambda lane: self._served.get(lane, float("-inf")))
        self._since = now
        return self._lane


def shares(wanted: Sequence[int], room: int, fewest: int) -> list[int]:
    """How much of ``room`` each gets who wants that much: equal parts of it, what a small one leaves going to the others.

    Nobody gets less than ``fewest`` (or than they want) while there is room; who comes later may get nothing.
    """
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    for place, at in enumerate(order):
        equal = max(room // (len(order) - place), fewest)
        given[at] = min(wanted[at], equal, room)
        room -= given[at]
    return given
