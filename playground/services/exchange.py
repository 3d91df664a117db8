"""One exchange in a conversation: what a person sends, the answer as it is written, and both kept when it has ended.

A failed exchange leaves the conversation as it was. One that is stopped, whose reader leaves, for which the memory runs
out, or that takes longer than the server allows keeps what was written, marked as stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, MutableSet
from concurrent.futures import Future
from contextlib import aclosing

from playground.conversation import Conversation
from playground.errors import DeadlineExceeded, HistoryUnavailable, OutOfMemory
from playground.services.generation import Generation
from playground.services.written import Place, Written
from playground.types import GenerationEvent, GenerationRequest, ModelSpec

_log = logging.getLogger(__name__)

Keep = Callable[..., Future[Conversation]]


class Exchange:
    """One ask on its way. ``request`` is what the engine is sent; ``place`` where the answers will stand.

    With several answers to one prompt, each becomes a version of its own. ``keep`` stores turns in another thread;
    ``going`` holds what has begun until it is known what is stored of it.
    """

    def __init__(
        self,
        generation: Generation,
        request: GenerationRequest,
        place: Place,
        named: ModelSpec,
        keep: Keep,
        going: MutableSet[Future[Conversation | None]],
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.place = place
        self._generation, self._keep, self._going, self._clock = generation, keep, going, clock
        self._written = Written(request, place, named)
        self._outcome: Future[Conversation | None] = Future()
        self._outcome.set_running_or_notify_cancel()  # who waits for it may leave; it comes all the same
        self._keeping = self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: asyncio.Timeout | None = None

    @property
    def conversation_id(self) -> str:
        """The conversation's id; that of a new one is known before there is one."""
        return self.place.conversation_id

    @property
    def prefill(self) -> str:
        """What stands before the generated text in the turn: the prefill, and what the model's own template began with.

        The latter is known once the first event with provenance has come.
        """
        return self._written.opened + self.place.prefill

    @property
    def nothing_to_add(self) -> bool:
        """Whether an answer was to be continued and the model found it complete; then nothing is stored."""
        return self._written.nothing_to_add

    async def events(self) -> AsyncGenerator[GenerationEvent, None]:
        """The events of the answer, once; what was said is stored before the last of them is passed on.

        Closing it stops the answer and keeps what was written; so does `stop`, after which every answer that had not ended
        ends with "cancelled"; at the server's deadline, and where the memory runs out, they do with that sentence as a
        notice, where there is any text.
        Raises what generating raises, and then nothing is stored. After the last event, where the answer is there and could
        not be stored: `HistoryUnavailable`, or `NotFound` when the conversation was deleted.
        """
        self._begin()
        last: tuple[GenerationEvent, ...] = ()
        failure: BaseException | None = None
        late = ""
        try:
            try:
                async with aclosing(self._generation.astream(self.request)) as news:
                    while (event := await self._next(news)) is not None:
                        self._written.add(event)
                        if self._written.ended:
                            last = (self._written.last_word(event),)
                            failure = await self._stored()  # still counted as running: a server that stops waits for it
                            break
                        yield event
            except (DeadlineExceeded, OutOfMemory) as error:  # what was shown so far is worth keeping
                if not self._written.begun:
                    raise
                late = str(error)
            if not last:
                last = self._written.cut_off(late)
                failure = await self._stored()
            for event in last:
                yield event
        except (GeneratorExit, asyncio.CancelledError):
            self._store()
            raise
        finally:
            self._drop()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Stop the answer; safe from any thread, and before `events` was begun."""
        self._stopped = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, and whoever read with it
                self._loop.call_soon_threadsafe(self._cut_short)

    async def saved(self) -> Conversation | None:
        """Wait until what there is to store is stored: the conversation as it is then, None where nothing was written.

        At any time, as often as wanted, and from any task; before `events` was begun there is nothing to wait for. Raises
        what `events` raises where the answer could not be stored.
        """
        if self._loop is None:
            return None
        return await asyncio.wrap_future(self._outcome)

    def _begin(self) -> None:
        if self._loop is not None:
            raise RuntimeError("The events of an exchange are read once.")
        self._loop = asyncio.get_running_loop()
        self._going.add(self._outcome)
        self._outcome.add_done_callback(self._going.discard)

    async def _next(self, news: AsyncGenerator[GenerationEvent, None]) -> GenerationEvent | None:
        """The next event, None once the answer was stopped."""
        if self._stopped:
            return None
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await anext(news)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            if not self._stopped:
                raise
            return None
        finally:
            self._waiting = None

    def _cut_short(self) -> None:
        """Break off waiting for the next event; on the loop. Where the reader has yet to ask for it, no more will come."""
        if self._waiting is None:
            self._store()
        elif not self._waiting.expired():
            self._waiting.reschedule(0.0)

    async def _stored(self) -> BaseException | None:
        """Wait until what was written is stored; what went wrong with that, if anything."""
        self._store()
        waiting = asyncio.wrap_future(self._outcome)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # also when nobody waits any more
        await asyncio.wait([waiting])
        return waiting.exception()

    def _store(self) -> None:
        """Have what was written stored, in another thread; once."""
        if self._keeping or self._outcome.done():
            return
        turns = self._written.turns(self._clock())
        if not turns:
            self._drop()
            return
        self._keeping = True
        leaf = next(turn.id for turn in turns if turn.role == "assistant")
        try:
            self._keep(turns, leaf=leaf).add_done_callback(self._handed_over)
        except RuntimeError as error:  # the thread is closed
            failure = HistoryUnavailable("The answer was not stored: the server is stopping.", "Copy it from the page.")
            failure.__cause__ = error
            self._outcome.set_exception(failure)

    def _handed_over(self, done: Future[Conversation]) -> None:
        """Pass on what became of storing it."""
        if (failure := done.exception()) is None:
            self._outcome.set_result(done.result())
            return
        _log.warning("an answer was not stored: %s", failure)
        self._outcome.set_exception(failure)

    def _drop(self) -> None:
        """Nothing will be stored, unless something is, or is on its way."""
        if not self._keeping and not self._outcome.done():
            self._outcome.set_result(None)
