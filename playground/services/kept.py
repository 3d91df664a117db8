"""Looking once for many: what costs a moment to find out, and may be a moment old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """What was found for each key, for ``seconds``; safe from any thread. ``clock`` counts seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[Hashable, tuple[float, T]] = {}

    def get(self, key: Hashable, look: Callable[[], T]) -> T:
        """What is kept under ``key``, or what ``look`` finds now. Raises what ``look`` raises, and keeps nothing then."""
        now = self._clock()
        with self._lock:
            self._found = {known: kept for known, kept in self._found.items() if now - kept[0] < self._seconds}
            if key in self._found:
                return self._found[key][1]
        found = look()
        with self._lock:
            self._found[key] = (now, found)
        return found
