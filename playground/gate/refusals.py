"""Saying no: one error object for every path, and a refused handshake for a WebSocket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

_TYPES = {403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Refusal:
    """Why a request goes no further: a status, a stable code, what happened, and what to do about it."""

    status: int
    code: str
    message: str
    remedy: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, path: str) -> JSONResponse:
        """The refusal as the answer to a request for ``path``: under /v1 with OpenAI's four keys, elsewhere with five."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        sentence = f"{self.message} {self.remedy}".strip()
        error: dict[str, Any] = {"message": sentence, "type": kind, "param": None, "code": self.code}
        if not (path == "/v1" or path.startswith("/v1/")):
            error["remedy"] = self.remedy
        return JSONResponse({"error": error}, self.status, headers={**self.headers, "Cache-Control": "no-store"})

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A WebSocket's handshake is answered with the same status, where the server can do that."""
        if scope["type"] == "http":
            await self.response(scope["path"])(scope, receive, send)
        elif "websocket.http.response" in scope.get("extensions", {}):
            response = self.response(scope["path"])
            start = {"status": response.status_code, "headers": response.raw_headers}
            await send({"type": "websocket.http.response.start", **start})
            await send({"type": "websocket.http.response.body", "body": response.body})
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": self.code})
