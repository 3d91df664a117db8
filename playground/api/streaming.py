"""Between the engine's events and one HTTP client: what is sent as it comes, and what is stopped when nobody listens."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from playground.services.answers import Answers
from playground.types import GenerationEvent

CLIENT_GONE = 499
HOLD_BACK_S = 0.2
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

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
    life.
    """
    first: list[GenerationEvent] = []
    started = time.monotonic()
    try:
        async for event in events:
            first.append(event)
            if event.status.phase not in ("queued", "loading") or time.monotonic() - started > HOLD_BACK_S:
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
