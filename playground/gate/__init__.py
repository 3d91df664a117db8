"""The one door of the server: who may come in, which half of the house a request goes to, and what a page may do.

The gate knows nothing of models, FastAPI or Gradio. It reads the scope and the headers, sends the API's paths to one
ASGI application and everything else to another, and lets nothing pass that another site's page could have sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.config import is_loopback

API_PATHS = ("/health", "/v1", "/docs", "/openapi.json")
MAX_BODY_BYTES = 4 * 1024 * 1024

_PAGE_POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio does not start without either
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "frame-src": "'self'",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
_API_POLICY = {
    "default-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}


class Gate:
    """ASGI middleware: checks Host, Origin and body size, then passes to ``api`` or to ``app``.

    Without ``api`` everything goes to ``app``, under the API's rules. ``bound_to`` is the address that the server
    listens on: bound to loopback, it answers only to loopback names, so that a foreign name which resolves to this
    machine (DNS rebinding) reaches nothing. ``frame_ancestors`` are the sites that may show the page in a frame.
    """

    def __init__(
        self,
        app: ASGIApp,
        api: ASGIApp | None = None,
        bound_to: str = "127.0.0.1",
        frame_ancestors: str = "'self'",
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._api = api
        self._loopback_only = is_loopback(bound_to)
        self._page_policy = _policy({**_PAGE_POLICY, "frame-ancestors": frame_ancestors})
        self._api_policy = _policy({**_API_POLICY, "frame-ancestors": "'none'"})
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(refusal, scope, receive, send)
        elif self._api is None or is_api_path(scope["path"]):
            await self._serve_api(scope, receive, send)
        else:
            await self._app(scope, receive, _with_policy(self._page_policy, send))

    def _refusal(self, scope: Scope) -> str:
        """Why this request may not come in, or nothing."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._loopback_only and not is_loopback(hostname(host)):
            return (
                f"This server answers only to localhost, not to {host!r}. "
                "Start it with --host (or PLAYGROUND_HOST) to let other machines in."
            )
        if is_cross_site(headers):
            return "This request comes from another site's page, and those are not let in. Open the app's own address."
        return ""

    async def _serve_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = _with_policy(self._api_policy, send)
        if scope["type"] == "http":
            receive = _limited(receive, self._max_body_bytes)
        await (self._api or self._app)(scope, receive, send)


def is_api_path(path: str) -> bool:
    """True for the paths that the HTTP API owns."""
    return any(path == prefix or path.startswith(prefix + "/") for prefix in API_PATHS)


def is_cross_site(headers: Headers) -> bool:
    """True when a browser says that another site's page sent this; following a link to the app is allowed.

    A page's own requests carry an Origin equal to the Host. Programs that are not browsers send neither header.
    """
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"


def hostname(host: str) -> str:
    """The name in a Host header, without its port; empty when it cannot be read."""
    if "@" in host:
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _policy(directives: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _with_policy(policy: str, send: Send) -> Send:
    """``send``, with the content security policy and its companions on every response."""

    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = policy
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
        await send(message)

    return send_with_policy


def _limited(receive: Receive, limit: int) -> Receive:
    """``receive``, raising a 413 once the body is longer than ``limit`` bytes, however it is sent."""
    seen = 0

    async def receive_limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, f"The request is larger than {limit} bytes. Send less text.")
        return message

    return receive_limited


async def _refuse(reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        return
    error = {"message": reason, "type": "permission_error", "param": None, "code": "refused"}
    await JSONResponse({"error": error}, status_code=403)(scope, receive, send)
