"""One answer on its way: what was asked, who listens, and how far it is. No torch here; the decode state is opaque."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from playground.types import (
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    Provenance,
    RenderedPrompt,
    Status,
    Token,
)

_log = logging.getLogger(__name__)

_GENERATING = Status("generating")
Sink = Callable[[GenerationEvent | Exception], None]


@dataclass(eq=False)
class Row:
    """One answer of a request. Every event goes through `tell`, every end through `finish` or `fail`, exactly once.

    ``place`` is what was last said of its place in line, ``short_of`` what it must wait for there, "" where nothing is.
    """

    request: GenerationRequest
    sink: Sink
    index: int
    seed: int
    submitted: float = field(default_factory=time.perf_counter)
    resident: Any = None
    applied: Any = None
    prompt: RenderedPrompt | None = None
    state: Any = None
    provenance: Provenance | None = None
    on_settled: Callable[[], None] | None = None
    place: str = ""
    short_of: str = ""
    paused: bool = False
    reused: int = 0  # tokens of the prompt that were known
    behind: Row | None = None  # who reads the first `in_common` tokens of the prompt for it
    in_common: int = 0
    # Where users do not share what was read: how many tokens come before what the user says first, and a digest of that.
    opening: tuple[int, str] = (0, "")

    def __post_init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._settled = False
        self._first_token_s: float | None = None
        self.completion_tokens = 0

    @property
    def user(self) -> str:
        """Whose row it is."""
        return self.request.user

    @property
    def lane(self) -> Hashable:
        """Rows of one base whose adapters need it to themselves share a lane only with rows of the same adapter."""
        if self.applied is None or not self.applied.exclusive:
            return None
        attached, scale = self.applied.adapters[0]
        return attached.info.sha256, scale

    @property
    def alone(self) -> bool:
        """True when its passes hold nothing but this row, so that no rounding depends on who else is there.

        It needs no lane of its own for that: passes of other rows come in between and leave nothing behind.
        """
        return self.request.settings.reproducible

    @property
    def settled(self) -> bool:
        """True once the last event or the exception was sent."""
        return self._settled

    def stats(self) -> GenerationStats:
        """Running totals, now."""
        prompt = len(self.prompt.token_ids) if self.prompt else 0
        elapsed = time.perf_counter() - self.submitted
        return GenerationStats(prompt, self.completion_tokens, elapsed, self._first_token_s, self.reused)

    def hold(self, release: Callable[[], None]) -> bool:
        """Call ``release`` when the row ends; False when it has ended already, and then it is not called."""
        with self._lock:
            if not self._settled:
                self.on_settled = release
            return not self._settled

    def report(self, status: Status) -> None:
        """Say where the row stands."""
        self.tell(GenerationEvent(status, stats=self.stats(), index=self.index))

    def add(self, text: str, token: Token) -> None:
        """Send one generated token and the text that became certain with it."""
        self.completion_tokens += 1
        stats = self.stats()
        if self._first_token_s is None:
            self._first_token_s = stats.elapsed_s
            stats = replace(stats, first_token_s=stats.elapsed_s)
        self.tell(GenerationEvent(_GENERATING, text, (token,), stats, index=self.index))

    def say(self, text: str) -> None:
        """Send text that was held back, when no token comes with it."""
        if text:
            self.tell(GenerationEvent(_GENERATING, text, stats=self.stats(), index=self.index))

    def tell(self, event: GenerationEvent) -> None:
        """Send ``event`` unless the row has ended."""
        with self._lock:
            if not self._settled:
                self._send(event)

    def _send(self, news: GenerationEvent | Exception) -> None:
        """A listener that raises harms nobody else; its row is cancelled, for it hears no more."""
        try:
            self.sink(news)
        except Exception:
            _log.exception("whoever listens to an answer failed on an event; the answer is stopped")
            self.cancelled.set()

    def finish(
        self,
        reason: FinishReason,
        text: str = "",
        index: int | None = None,
        *,
        last: bool = True,
        end: Token | None = None,
    ) -> None:
        """Send the last event of this answer. ``last`` False: a further answer of the same row follows (beams).

        ``end`` is the token that ended it. A beam search that ends before it has answers ends all of them.
        """
        own = self.index if index is None else index
        if index is None:
            for other in range(own + 1, own + self._answers):
                self.tell(self._last_event(reason, "", other))
        if last:
            self._settle(replace(self._last_event(reason, text, own), end=end))
        else:
            self.tell(self._last_event(reason, text, own))

    @property
    def _answers(self) -> int:
        """How many answers this row stands for: a beam search's come from one row, all others have a row each."""
        settings = self.request.settings
        return settings.num_return_sequences if settings.strategy == "beam_search" else 1

    def _last_event(self, reason: FinishReason, text: str, index: int) -> GenerationEvent:
        return GenerationEvent(
            Status("done"),
            text,
            stats=self.stats(),
            index=index,
            finish_reason=reason,
            provenance=self.provenance,
        )

    def fail(self, error: Exception) -> None:
        """End the row with ``error`` in place of the last event."""
        self._settle(error)

    def _settle(self, news: GenerationEvent | Exception) -> None:
        with self._lock:
            if self._settled:
                return
            self._settled = True
            self.state = None
            if self.on_settled:
                self.on_settled()
            self._send(news)
