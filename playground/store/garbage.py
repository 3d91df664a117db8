"""Python's garbage collector, kept from looking at a large history again and again while it is read or written."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Pause:
    """How many are inside, in whatever thread; the collector runs again when the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was_on = True

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_on = gc.isenabled()
            self._inside += 1
            gc.disable()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_on:
                gc.enable()


_PAUSE = _Pause()


@contextmanager
def uncollected() -> Iterator[None]:
    """No cyclic garbage is looked for until the last that is inside has left; for what takes seconds at the most.

    Making millions of small objects sets it off every few thousand of them, and each time it holds up every thread.
    """
    _PAUSE.enter()
    try:
        yield
    finally:
        _PAUSE.leave()
