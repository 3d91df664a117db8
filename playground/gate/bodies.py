"""What a request may carry: so many bytes, within so many seconds, however it is sent."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.gate.refusals import Refusal

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_SECONDS = 30.0
_DRAINED_BYTES = 16 * 1024 * 1024
_DRAINED_SECONDS = 5.0
TOO_LARGE = 1009  # WebSocket close code: message too big


class BodyRefused(HTTPException):
    """Raised where an application reads a body that is too large or too slow; the gate answers, whatever becomes of it."""


def declared_length(headers: Headers, limit: int) -> Refusal | None:
    """What is wrong with the Content-Length, before anything is read."""
    lengths = headers.getlist("content-length")
    if any(not (text.isascii() and text.isdigit()) for text in lengths) or len(set(lengths)) > 1:
        return Refusal(
            400, "invalid_request", "The Content-Length is not a number.", "Send the body's length in bytes."
        )
    return too_large(limit) if lengths and int(lengths[0][:20]) > limit else None


def too_large(limit: int) -> Refusal:
    """413. The connection ends with it, as the rest of the body is not read."""
    return Refusal(
        413, "too_large", f"The request is larger than {limit} bytes.", "Send less text.", {"Connection": "close"}
    )


def too_slow(seconds: float) -> Refusal:
    """408."""
    return Refusal(
        408,
        "request_timeout",
        f"The request's body did not arrive within {seconds:g} seconds.",
        "Send it again in one go.",
        {"Connection": "close"},
    )


class Limited:
    """An ASGI application whose requests and WebSocket messages are bounded in size, and request bodies in time."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await _Socket(self._limit, receive, send).run(self._app, scope)
            return
        headers = Headers(scope=scope)
        if refusal := declared_length(headers, self._limit):
            await _answer_politely(refusal, scope, receive, send, drain="expect" not in headers)
        else:
            await _Body(self._limit, self._seconds, receive, send).run(self._app, scope)


class _Body:
    """One request's body on its way in."""

    def __init__(self, limit: int, seconds: float, receive: Receive, send: Send) -> None:
        self._limit, self._seconds = limit, seconds
        self._receive, self._send = receive, send
        self._until = time.monotonic() + seconds
        self._seen = 0
        self._whole = self._answered = False
        self._refusal: Refusal | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let ``app`` answer; where its reading was cut off, answer in its place."""
        try:
            await app(scope, self.receive, self.send)
        except BodyRefused:
            if self._answered:
                raise
        if self._refusal is not None and not self._answered:
            await _answer_politely(self._refusal, scope, self._receive, self._send, drain=not self._whole)

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(self._until - time.monotonic(), 0.01))
        except TimeoutError:
            raise self._refuse(too_slow(self._seconds)) from None
        self._seen += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._seen > self._limit:
            raise self._refuse(too_large(self._limit))
        return message

    async def send(self, message: Message) -> None:
        if self._refusal is None or self._answered:
            self._answered = True
            await self._send(message)

    def _refuse(self, refusal: Refusal) -> BodyRefused:
        self._refusal = refusal
        return BodyRefused(refusal.status, refusal.message)


class _Socket:
    """One WebSocket whose messages may have so many bytes."""

    def __init__(self, limit: int, receive: Receive, send: Send) -> None:
        self._limit, self._receive, self._send = limit, receive, send
        self._closed = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self.receive, self.send)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "websocket.receive" or not self._is_over(message):
            return message
        self._closed = True
        reason = f"A message may have {self._limit} bytes."
        await self._send({"type": "websocket.close", "code": TOO_LARGE, "reason": reason})
        return {"type": "websocket.disconnect", "code": TOO_LARGE, "reason": reason}

    async def send(self, message: Message) -> None:
        if not self._closed:
            await self._send(message)

    def _is_over(self, message: Message) -> bool:
        text = message.get("text")
        if text is None:
            return len(message.get("bytes") or b"") > self._limit
        return len(text) > self._limit or (4 * len(text) > self._limit and len(text.encode()) > self._limit)


async def _answer_politely(refusal: Refusal, scope: Scope, receive: Receive, send: Send, drain: bool) -> None:
    """Answer, and take in some of what is still coming: a client that is still sending would miss the answer otherwise.

    One that asked first (Expect: 100-continue) is not sending yet, and one that is too slow is not waited for.
    """
    response = refusal.response(scope["path"])
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    if drain and refusal.status == 413:
        await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    taken = 0
    try:
        async with asyncio.timeout(_DRAINED_SECONDS):
            while taken < _DRAINED_BYTES:
                message = await receive()
                taken += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
