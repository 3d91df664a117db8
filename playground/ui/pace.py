"""How often pages are updated while answers are being written: what a browser can draw, and what the server can spare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

UPDATE_SECONDS = 0.05  # a browser draws no more than this; the engine is never waited for
LONGEST_PAUSE = 0.4  # that somebody closed the page is noticed at an update
CHARACTERS_PER_SECOND = 40_000  # what a browser can draw afresh with room to spare: longer texts, fewer updates
UPDATES_PER_SECOND = 80  # to all pages together: each costs the server a few ms that the engine needs as well


class Pace:
    """Counts the answers that all pages and tabs show at this moment, and says how long each pauses between updates."""

    def __init__(self) -> None:
        self.streams = 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        """One more answer is shown, for as long as this is entered."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    def pause(self, characters: int) -> float:
        """Seconds between two updates of a text of ``characters``."""
        wanted = max(UPDATE_SECONDS, characters / CHARACTERS_PER_SECOND, self.streams / UPDATES_PER_SECOND)
        return min(wanted, LONGEST_PAUSE)
