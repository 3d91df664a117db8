"""Generating text for every surface: one door to the engine, and all that is looked after at it.

A request passes here once, whoever sends it. It is refused when the server is stopping, when its user has enough running
already, or when the operator's content filter says no; it is cut off at the deadline; what it gave is counted, and where the
operator wants that its answers are kept for being asked again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import aclosing, closing, contextmanager
from dataclasses import replace

from playground.config import AppConfig
from playground.errors import DeadlineExceeded, RateLimited, ShuttingDown
from playground.local_inference import HEARTBEAT_S, LocalInference
from playground.services.answer_cache import AnswerCache, KeptAnswer, Recording, key_of
from playground.services.answers import prompt_of
from playground.services.content_filter import ContentFilter
from playground.services.meters import Meters
from playground.services.threads import in_own_thread
from playground.types import (
    GenerationEvent,
    GenerationRequest,
    GenerationStats,
    ModelSpec,
    RenderedPrompt,
    Status,
    Token,
)

LEAVE_S = 1.0
_CHECKING = GenerationEvent(Status("queued", "the text is being checked"))


class Generation:
    """Streams of events for requests, and the prompt as the model reads it.

    Raises `ConfigError` when the content filter that ``config`` names cannot be had.
    """

    def __init__(self, engine: LocalInference, config: AppConfig | None = None, meters: Meters | None = None) -> None:
        config = config or AppConfig()
        self._engine = engine
        self._at_once, self._deadline = config.at_once, config.deadline
        self._meters = meters or Meters(config.models)
        self._filter = ContentFilter.named(config.content_filter)
        self._cache = AnswerCache(config.answer_cache)
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._draining = False
        self._leavers: set[Callable[[], Future[None]]] = set()

    def stream(self, request: GenerationRequest, *, fresh: bool = False) -> Generator[GenerationEvent, None, None]:
        """`astream` for a plain thread."""
        with self._admitted(request, fresh) as answering:
            if self._filter:
                self._filter.refuse(request)
            with closing(self._engine.stream(request)) as events:
                for event in events:
                    if answering.is_known(event):
                        break
                    answering.see(event)
                    yield event
            for event in answering.kept():
                yield event

    async def astream(
        self, request: GenerationRequest, *, fresh: bool = False, background: bool = False
    ) -> AsyncGenerator[GenerationEvent, None]:
        """The events of one request on the event loop; closing the iterator stops the generation at once.

        ``fresh`` has the answer made, whatever is kept of earlier ones, and keeps nothing of it. ``background`` is for what
        nobody waits for: it has no deadline, and does not count among what its user has running. Raises `ShuttingDown`,
        `RateLimited` when its user has too many running, `ContentRefused`, `DeadlineExceeded`, and what the engine raises.
        """
        with self._admitted(request, fresh, background) as answering:
            if self._filter:
                async with aclosing(self._checked(self._filter, request)) as waiting:
                    async for event in waiting:
                        answering.see(event)
                        yield event
            async with aclosing(self._engine.astream(request)) as events:
                async for event in events:
                    if answering.is_known(event):
                        break
                    answering.see(event)
                    yield event
            for event in answering.kept():
                yield event

    def render(self, request: GenerationRequest) -> RenderedPrompt:
        """The rendered prompt and its token ids. Raises `ModelNotLoaded` when the base is not in memory."""
        return self._engine.render(request)

    def count_tokens(self, spec: ModelSpec, text: str) -> int:
        """How many tokens ``text`` is to the loaded model's own tokenizer. Raises `ModelNotLoaded`."""
        return self._engine.count_tokens(spec, text)

    def prompt_tokens(
        self, request: GenerationRequest, top: int, wanted: Callable[[], bool] = lambda: True
    ) -> tuple[Token, ...]:
        """The prompt's own tokens and how likely each was, with ``top`` alternatives; blocks, and loads what is missing.

        It ends when ``wanted`` says no, a few times a second, with `CancelledError`. Raises what `astream` raises.
        """
        with self._admitted(request, fresh=True) as reading:
            if self._filter:
                self._filter.refuse(request)
            try:
                tokens = self._engine.prompt_tokens(request, top, lambda: wanted() and not reading.is_late)
            except CancelledError:
                reading.refuse_late()
                raise
            reading.has_read(len(tokens))
            return tokens

    def activity(self) -> tuple[int, int]:
        """(rows being answered, requests waiting), now."""
        return self._engine.activity()

    @property
    def draining(self) -> bool:
        """True once the server finishes what it has begun and takes nothing more."""
        return self._draining

    def drain(self, seconds: float) -> int:
        """Take nothing new, and wait until what runs has ended, ``seconds`` at most; returns how many requests still run."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not self._running, seconds)
            left, leavers = self._running.total(), tuple(self._leavers)
        wait([leave() for leave in leavers], LEAVE_S)
        return left

    def when_drained(self, leave: Callable[[], Future[None]]) -> Callable[[], None]:
        """Have ``leave`` called when the server has drained, which waits a moment for it; returns what takes that back."""

        def stay() -> None:
            with self._changed:
                self._leavers.discard(leave)

        with self._changed:
            self._leavers.add(leave)
        return stay

    async def _checked(
        self, content: ContentFilter, request: GenerationRequest
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Signs of life while the content filter thinks, in a thread of its own. Raises `ContentRefused`."""
        started = time.perf_counter()
        checking = asyncio.create_task(in_own_thread(lambda: content.refuse(request), "content filter"))
        checking.add_done_callback(lambda done: done.cancelled() or done.exception())  # also when nobody waits any more
        try:
            while not (await asyncio.wait({checking}, timeout=HEARTBEAT_S))[0]:
                stats = GenerationStats(elapsed_s=time.perf_counter() - started)
                yield GenerationEvent(_CHECKING.status, stats=stats)
            await checking
        finally:
            checking.cancel()

    @contextmanager
    def _admitted(self, request: GenerationRequest, fresh: bool, background: bool = False) -> Iterator[_Answering]:
        """Count ``request`` as running while it is answered, and what became of it."""
        cache = None if fresh or not self._cache.takes(request) else self._cache
        user, deadline = ("", 0.0) if background else (request.user, self._deadline)
        answering = _Answering(request, deadline, self._meters, cache)
        try:
            self._enter(user)
            try:
                yield answering
            finally:
                self._leave(user)
        except CancelledError:  # a prompt that nobody waits for any more: left, not failed
            raise
        except Exception as error:
            self._meters.failed(error)
            answering.failed = True
            raise
        finally:  # a reader who leaves comes by here too
            answering.count()

    def _enter(self, user: str) -> None:
        with self._changed:
            if self._draining:
                raise ShuttingDown("The server is stopping and takes nothing new.", "Send it again in a moment.")
            running = self._running[user]
            if user and self._at_once and running >= self._at_once:
                raise RateLimited(
                    f"{running} of your requests are being answered, and this server answers no more than that for one "
                    "caller at once.",
                    "Wait until one has ended, or stop one.",
                )
            self._running[user] += 1

    def _leave(self, user: str) -> None:
        with self._changed:
            self._running[user] -= 1
            if self._running[user] <= 0:
                del self._running[user]
            if not self._running:
                self._changed.notify_all()


class _Answering:
    """What is known of one request while it is answered. `see` is called for every event, so it does next to nothing."""

    def __init__(self, request: GenerationRequest, deadline: float, meters: Meters, cache: AnswerCache | None) -> None:
        self._request, self._meters, self._cache = request, meters, cache
        self._started = time.monotonic()
        self._deadline = deadline
        self._last: dict[int, GenerationEvent] = {}
        self._open = set(range(request.settings.num_return_sequences))
        self._key = ""
        self._recording = None if cache is None else Recording.of(request)
        self._found: tuple[KeptAnswer, ...] = ()
        self._told = _CHECKING
        self.failed = False

    def is_known(self, event: GenerationEvent) -> bool:
        """Whether ``event`` tells what is about to answer, and that has answered the same before: see `kept`."""
        if self._cache is None or self._key or event.provenance is None:
            return False
        self._key, self._told = key_of(self._request, event.provenance, event.prompt_hash), event
        self._found = self._cache.get(self._key) or ()
        self._meters.looked_up(bool(self._found))
        return bool(self._found)

    def kept(self) -> Iterator[GenerationEvent]:
        """The events of the answers that were found."""
        for index, answer in enumerate(self._found):
            for known in answer.events(index, time.monotonic() - self._started):
                event = known
                if known.provenance:  # what the model would have read comes with it here as well
                    event = replace(known, prompt_hash=self._told.prompt_hash, opened=self._told.opened)
                self.see(event)
                yield event

    def see(self, event: GenerationEvent) -> None:
        """Take note of one event that is passed on. Raises `DeadlineExceeded`."""
        self.refuse_late()
        self._last[event.index] = event
        if self._recording is not None:
            self._recording.add(event)
        if event.finish_reason:
            self._open.discard(event.index)
            self._meters.ended(self._request.spec.base, event.finish_reason, event.stats, cached=event.cached)
            if not self._open:
                self._keep()

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return bool(self._deadline) and time.monotonic() - self._started > self._deadline

    def refuse_late(self) -> None:
        """Raise `DeadlineExceeded` where it has passed."""
        if self.is_late:
            raise DeadlineExceeded(
                f"The answer was not finished within {self._deadline:g} seconds, which is what this server gives to one.",
                "Ask for fewer tokens or for less at once.",
            )

    def _keep(self) -> None:
        """All answers have ended: keep them for the next one who asks, unless that is where they came from."""
        if self._cache is None or self._recording is None or not self._key or self._found:
            return
        if answers := self._recording.answers():
            self._cache.put(self._key, answers)

    def has_read(self, tokens: int) -> None:
        """Count a prompt that was read, and that no answer was asked for."""
        self._open.clear()
        self._meters.spent(self._request.spec.base, tokens, 0)

    def count(self) -> None:
        """Count what the request has cost: also of answers that nobody waited for, or that were cut off."""
        base = self._request.spec.base
        stats = [event.stats for event in self._last.values()]
        if stats and not self._found:
            prompt, reused = prompt_of(stats)
            self._meters.spent(base, prompt, sum(one.completion_tokens for one in stats), reused)
        if not self.failed:
            for index in self._open:
                event = self._last.get(index, _CHECKING)
                self._meters.ended(base, "cancelled", event.stats)
