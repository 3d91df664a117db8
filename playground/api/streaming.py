"""Between the engine's events and one HTTP client: what is sent as it comes, and what is stopped when nobody listens."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from playground.api import failures, wire
from playground.services.answers import Answers
from playground.services.threads import in_own_thread
from playground.types import GenerationEvent, Status

CLIENT_GONE = 499
HOLD_BACK_S = 0.2
HOLD_BACK_UNREAD_S = 5.0
HEARTBEAT_S = 0.2
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

T = TypeVar("T")
Events = AsyncGenerator[GenerationEvent, None]


class EventStream(StreamingResponse):
    """Server-sent events; closes their source when the client has left, so that nothing goes on for nobody."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncGenerator[str, None]) -> None:
        super().__init__(content, headers=_STREAM_HEADERS)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._content):
            await super().__call__(scope, receive, send)


async def settled(events: Events) -> Events:
    """``events``, once it is known that they begin well, or after a moment; what fails until then is raised here.

    So an over-long prompt or a full queue is an HTTP status even for a stream, and a slow load still shows signs of
    life. What comes with provenance has its prompt rendered and measured; a prompt that is long takes longer for that
    than a moment on a busy machine.
    """
    first: list[GenerationEvent] = []
    started = time.monotonic()
    try:
        async for event in events:
            first.append(event)
            patience = HOLD_BACK_UNREAD_S if event.status.phase == "queued" else HOLD_BACK_S
            begun = event.provenance is not None or event.status.phase not in ("queued", "loading")
            if begun or time.monotonic() - started > patience:
                break
    except BaseException:
        await events.aclose()
        raise
    return _chained(first, events)


async def _chained(first: list[GenerationEvent], rest: Events) -> Events:
    async with aclosing(rest):
        for event in first:
            yield event
        async for event in rest:
            yield event


def streamed(what: str, example: str) -> dict[int | str, dict[str, Any]]:
    """The documented responses of a route under `/v1` that answers whole or as a stream."""
    return {
        200: {
            "description": f"{what}: one object, or with `stream` server-sent events that end with `data: [DONE]`.",
            "content": {"text/event-stream": {"example": example}},
        },
        **failures.OPENAI_RESPONSES,
    }


async def replied(reply: wire.Reply, answers: Answers, events: Events, http: Request, stream: bool) -> Response:
    """``events`` as one JSON object, or as the server-sent events of a ``stream``, in the words of ``reply``."""
    if stream:
        return EventStream(_lines(reply, answers, await settled(events)))
    return JSONResponse(reply.whole(answers)) if await finish(answers, events, http) else left()


async def _lines(reply: wire.Reply, answers: Answers, events: Events) -> AsyncGenerator[str, None]:
    """The whole reply as server-sent events; a failure is the last of them."""
    async with aclosing(events):
        try:
            for line in reply.opening(answers.n):
                yield line
            async for event in events:
                answers.add(event)
                for line in reply.progress(event, answers.notices):
                    yield line
            for line in reply.closing(answers):
                yield line
        except Exception as error:  # the wire's edge: the status is sent already, so the error travels as an event
            yield wire.sse(failures.body_of(error, "/v1"))


async def together(sources: Sequence[Callable[[], Events]], each: int, at_once: int) -> Events:
    """The events of several requests as of one; source number i has the answers from ``i * each`` on.

    At most ``at_once`` of them run at the same time. Raises what the first to fail raises, and stops the others.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]()) as only:
            async for event in only:
                yield event
        return
    ready: asyncio.Queue[GenerationEvent | Exception | None] = asyncio.Queue(1)  # who is not read waits, as if alone
    room = asyncio.Semaphore(at_once)
    tasks = [asyncio.create_task(_pass_on(source, i * each, ready, room)) for i, source in enumerate(sources)]
    try:
        open_ones = len(tasks)
        while open_ones:
            news = await ready.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                open_ones -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(
    source: Callable[[], Events],
    first: int,
    ready: asyncio.Queue[GenerationEvent | Exception | None],
    room: asyncio.Semaphore,
) -> None:
    try:
        async with room, aclosing(source()) as events:
            async for event in events:
                await ready.put(dataclasses.replace(event, index=first + event.index))
        await ready.put(None)
    except Exception as error:  # it belongs to whoever reads
        await ready.put(error)


async def awaited(work: Callable[[], T], status: Status, result: list[T]) -> Events:
    """Signs of life with ``status`` while ``work`` blocks in a thread of its own; what it gives joins ``result``."""
    task = asyncio.create_task(in_own_thread(work, status.detail))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # never "exception not retrieved"
    try:
        while not task.done():
            yield GenerationEvent(status)
            await asyncio.wait({task}, timeout=HEARTBEAT_S)
        result.append(task.result())
    finally:
        task.cancel()


async def finish(answers: Answers, events: Events, http: Request) -> bool:
    """Fold all ``events`` into ``answers``; False, and the answer stopped, as soon as the client has left."""
    async with aclosing(events):
        async for event in events:
            answers.add(event)
            if await http.is_disconnected():
                return False
    return True


def left() -> Response:
    """The response to a client that has left, for the log."""
    return Response(status_code=CLIENT_GONE)
