"""One batch test as its page shows it: what has been answered, what is being written, and how long the rest will take."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from playground.services.trial_scores import Tally
from playground.services.trials import Place, TrialPlan, TrialRow
from playground.types import GenerationEvent, Status
from playground.ui.views import batch as view


class Board:
    """A fold over a plan's events and rows. ``clock`` is the time in seconds.

    ``rows`` are those that are finished, ``ended`` is "" until the test is done or stopped.
    """

    def __init__(self, plan: TrialPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan = plan
        self.rows: list[TrialRow] = []
        self.ended = ""
        self._clock, self._started = clock, clock()
        self._writing: set[Place] = set()
        self._first: float | None = None  # when the first answer began: what loading took says nothing about the others
        self._status: Status | None = None
        self._tally = Tally(plan)
        self._lines = [view.table_line(secrets.token_hex(4), plan)]

    @property
    def table(self) -> str:
        """The table's lines so far; they only grow."""
        return "".join(self._lines)

    @property
    def summary(self) -> str:
        """The columns compared."""
        return view.summary(self.plan, self._tally.scores()) if self.rows else ""

    def told(self, place: Place, event: GenerationEvent) -> None:
        """Take in an event of an answer that is being made."""
        self._status = event.status
        if event.status.phase == "generating" and place not in self._writing:
            self._first = self._clock() if self._first is None else self._first
            self._writing.add(place)
            self._lines.append(view.begun_line(place))

    def add(self, row: TrialRow) -> None:
        """Take in a finished row."""
        self.rows.append(row)
        self._writing.discard(Place(row.prompt, row.spec, row.setting))
        self._lines.append(view.cell_line(row, self._tally.add(row)))

    def end(self, state: str) -> None:
        """No more rows come; ``state`` is done or stopped. The first word counts."""
        if not self.ended:
            self.ended, self._finished = state, self._clock()
            self._lines.append(view.end_line(state))

    @property
    def progress(self) -> str:
        """How far it is, or what came of it."""
        done, total = len(self.rows), self.plan.size
        if not self.ended:
            return view.progress(done, total, len(self._writing), self._left(), self._status)
        errors = sum(bool(row.error) for row in self.rows)
        return view.ended(done, total, errors, self._finished - self._started, stopped=self.ended == "stopped")

    def _left(self) -> float | None:
        """Seconds that the other answers will take, by what these took."""
        done = len(self.rows)
        if not done or self._first is None:
            return None
        return (self._clock() - self._first) / done * (self.plan.size - done)
