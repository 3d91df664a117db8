"""How a server of its own stops: nothing new is taken, what runs may finish, and the rest is ended with a last event.

Servers wait until every connection has ended before they tell an application that they stop, so one stream would hold
them up until its last token. Therefore the signal is kept from the server while answers finish, and passed on then.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.store import Store

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any]


class Stopping:
    """The end of ``services``, their ``engine`` and their ``store``; answers have ``drain`` seconds to finish."""

    def __init__(self, services: Services, engine: LocalInference, store: Store, drain: float) -> None:
        self._services, self._engine, self._store, self._drain = services, engine, store, drain
        self._theirs: dict[int, Handler] = {}
        self._closing = threading.Lock()
        self._begun = self._closed = False

    def listen(self) -> None:
        """Hear of SIGTERM and Ctrl+C before the server does. Outside the main thread there is nothing to hear."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._theirs[number] = handler
                signal.signal(number, self._asked)

    def close(self) -> None:
        """Let what is being answered finish, then cancel it and close the engine and the store; blocks. Once is enough."""
        with self._closing:
            if self._closed:
                return
            self._services.jobs.close()
            self._services.generation.drain(self._drain)
            self._engine.close()
            self._services.chat.close()
            self._store.close()
            self._closed = True

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """The first signal lets answers finish; every further one is the server's."""
        if self._begun:
            self._theirs[number](number, frame)
            return
        self._begun = True
        threading.Thread(target=self._finish, args=(number,), name="stopping", daemon=True).start()

    def _finish(self, number: int) -> None:
        try:
            self.close()
        finally:
            os.kill(os.getpid(), number)
