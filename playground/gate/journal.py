"""Request ids, and the access log: a line of JSON for each request, without anything that somebody wrote.

No query, body, key or cookie is in it. What a client can choose, the path and the request id, is percent-encoded or checked,
so that nobody can write a line of their own.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Scope, Send

from playground.types import Caller

LOG = logging.getLogger("playground.access")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_PATH = 200
_LOST = 499  # the client was gone before there was an answer
_METHOD = re.compile(r"[A-Z]{1,16}")


def switch(on: bool) -> None:
    """Write the access log to stderr, or not at all."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_refusal)
    LOG.handlers.clear()
    LOG.propagate = False
    LOG.disabled = not on
    if on:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """False for what uvicorn says of each WebSocket that was refused with a status: it takes that for a mistake of ours."""
    return record.msg != "ASGI callable returned without completing handshake."


def request_id(headers: Headers) -> str:
    """The client's own id for this request if it is a plain one, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex


class Entry:
    """What is written down about one request or WebSocket; it sees every message on its way out."""

    def __init__(self, scope: Scope, request: str, send: Send) -> None:
        self._scope, self._id, self._send = scope, request, send
        self._began = time.monotonic()
        self._status: int | None = None
        self._bytes = 0
        self.caller: Caller | None = None

    @property
    def has_begun(self) -> bool:
        """True once an answer is under way."""
        return self._status is not None

    async def send(self, message: Message) -> None:
        """Pass ``message`` on, with the request's id on what carries headers."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
            message.setdefault("headers", [])
            MutableHeaders(scope=message)["X-Request-ID"] = self._id
            self._status = message.get("status", 101)
            if kind == "websocket.accept":
                self._write("opened")
        elif kind == "websocket.close" and not self.has_begun:
            self._status = 403  # what the server makes of it
        if self._scope.get("method") != "HEAD":  # whose answer has no body, whatever the application says
            self._bytes += sum(len(message.get(part) or "") for part in ("body", "bytes", "text"))
        await self._send(message)

    def close(self, failed: bool) -> None:
        """Write the line of a request, or the last one of a WebSocket."""
        if self._status is None:
            self._status = 500 if failed else _LOST
        self._write("closed" if self._status == 101 else "")

    def _write(self, event: str) -> None:
        if LOG.disabled or not LOG.isEnabledFor(logging.INFO):
            return
        method = self._scope.get("method", "WS")
        caller = self.caller
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self._id,
            "method": method if _METHOD.fullmatch(method) or method == "WS" else "?",
            "path": quote(self._scope["path"], errors="replace")[:_LONGEST_PATH],
            "status": self._status,
            "ms": round((time.monotonic() - self._began) * 1000, 1),
            "bytes": self._bytes,
            "caller": caller.id if caller else "",
            "address": caller.address if caller else "",
        }
        LOG.info("%s", json.dumps(line | ({"event": event} if event else {})))
