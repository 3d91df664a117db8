"""`GET /metrics` in Prometheus' text format, and the counting of HTTP requests for it."""

from __future__ import annotations

import time

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.api.failures import RESPONSES
from playground.services.assembly import Services
from playground.services.meters import OTHER, Meters
from playground.services.threads import in_own_thread

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OPENED = 101
_NOTHING_SENT = 499
_EXAMPLE = 'playground_answers_total{model="starter",finish_reason="stop"} 3.0\n'


class Counted:
    """ASGI middleware: every request is counted under its route's template, never under the path as it was sent.

    An answer's duration ends with its last byte. WebSockets are counted when they are opened, and have no duration.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if not status:
                status = _status(message)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = status or 500
            raise
        finally:
            socket = scope["type"] == "websocket"
            method = "WEBSOCKET" if socket else scope["method"] if scope["method"] in _METHODS else OTHER
            seconds = None if socket else time.perf_counter() - started
            self._meters.answered(_template(scope), method, status or _NOTHING_SENT, seconds)


def _status(message: Message) -> int:
    """The status that ``message`` begins an answer with, 0 for what begins none."""
    kind = message["type"]
    if kind == "websocket.accept":
        return _OPENED
    if kind == "websocket.close":
        return 403
    return int(message.get("status", 0))


def _template(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", OTHER))


class Metrics:
    """What has been measured, as text."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    async def text(self) -> Response:
        """Answers, tokens, times, queue, memory and requests, in Prometheus' text format."""
        found = await in_own_thread(self._meters.text, "metrics")
        return Response(found, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def router(services: Services) -> APIRouter:
    """The metrics route."""
    routes = APIRouter(tags=["Server"], responses=RESPONSES)
    routes.add_api_route(
        "/metrics",
        Metrics(services.meters).text,
        summary="Metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus' text format.",
                "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}},
            }
        },
    )
    return routes
