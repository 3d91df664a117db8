"""The thread that computes: it drives a `StepLoop` for as long as there is work."""

from __future__ import annotations

import threading

from playground.local_inference.engine import StepLoop
from playground.local_inference.explain import explain


class ComputeThread:
    """Drives a `StepLoop` for as long as there is work, and sleeps otherwise."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once it was told to end."""
        return not self._closing

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that computes."""
        return threading.current_thread() is self._thread

    def wake(self) -> None:
        """Something was added, or cancelled."""
        self._wake.set()

    def close(self) -> None:
        """Finish the step at hand and end the thread."""
        self._closing = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._closing:
            try:
                more = self._loop.step()
            except Exception as error:  # a bug between rows: their readers must hear of it, and the next ones be served
                self._loop.abandon(explain(error))
                more = False
            if not more:
                self._wake.wait()
            self._wake.clear()
