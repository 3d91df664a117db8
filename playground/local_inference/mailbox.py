"""Between the engine's thread and one reader: news that the reader was too slow for is merged, never piled up.

A slow reader costs the engine nothing and misses nothing: text and tokens are joined, totals and status are the latest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from playground.types import GenerationEvent


class Mailbox:
    """Holds what is unread of one request. ``put`` is the sink; ``on_news`` is called once for each unread batch.

    ``on_end`` is called when nothing more will come: every answer has ended, or the request has failed.
    """

    def __init__(self, answers: int, on_news: Callable[[], None], on_end: Callable[[], None] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._unread: dict[int, GenerationEvent] = {}
        self._error: Exception | None = None
        self._open = self._writing = answers
        self._on_news = on_news
        self._on_end = on_end
        self._announced = False

    def put(self, news: GenerationEvent | Exception) -> None:
        """Take one event, or the exception that ends the request."""
        with self._lock:
            if isinstance(news, Exception):
                self._error, self._writing = news, 0
            else:
                self._writing -= news.finish_reason is not None
                earlier = self._unread.pop(news.index, None)
                self._unread[news.index] = _merged(earlier, news) if earlier else news
            announce, self._announced = not self._announced, True
            ended = self._writing <= 0
        if announce:
            self._on_news()
        if ended:
            self._on_end()

    def take(self) -> list[GenerationEvent]:
        """All unread events, the oldest answer first. Raises the request's exception once they are read."""
        with self._lock:
            self._announced = False
            events = list(self._unread.values())
            self._unread.clear()
            error = None if events else self._error
            again = bool(events) and self._error is not None
        if error:
            raise error
        self._open -= sum(event.finish_reason is not None for event in events)
        if again:
            self._on_news()
        return events

    @property
    def finished(self) -> bool:
        """True when every answer's last event was read."""
        return self._open <= 0


def _merged(earlier: GenerationEvent, later: GenerationEvent) -> GenerationEvent:
    return replace(
        later,
        text=earlier.text + later.text,
        tokens=earlier.tokens + later.tokens,
        notice=" ".join(part for part in (earlier.notice, later.notice) if part),
        provenance=later.provenance or earlier.provenance,
        prompt_hash=later.prompt_hash or earlier.prompt_hash,
        opened=later.opened or earlier.opened,
    )
