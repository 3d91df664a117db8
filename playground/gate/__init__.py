"""The one door of the server: who may come in, which half of the house a request goes to, and what a page may do.

The gate knows nothing of models, FastAPI or Gradio. It reads the scope and the headers, sends the API's paths to one
ASGI application and everything else to another, and lets nothing pass that another site's page could have sent. Behind it
every scope has ``state["caller"]``, who asks, and ``state["request_id"]``.
"""

from __future__ import annotations

import functools

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.config import AppConfig
from playground.gate import cookies, journal, oauth, policy
from playground.gate.bodies import BODY_SECONDS, MAX_BODY_BYTES, Limited
from playground.gate.identity import Identity, Visit
from playground.gate.lockout import in_words
from playground.gate.login import MAX_FORM_BYTES, Login, redirect, wants_page
from playground.gate.origins import Origins, is_cross_site
from playground.gate.paths import (
    OPEN,
    UPLOADS,
    is_api_path,
    is_closed_path,
    is_import_path,
    is_login_path,
    is_upload_path,
)
from playground.gate.refusals import Refusal
from playground.types import Caller

__all__ = ["MAX_BODY_BYTES", "Gate", "Identity", "is_api_path", "journal", "oauth"]

MAX_IMPORT_BYTES = (
    48 * 1024 * 1024
)  # a file of conversations as JSON, in which quotes and line ends take twice the room
MAX_PAGE_BODY_BYTES = (
    MAX_IMPORT_BYTES  # what a page itself sends: such files too, and others only through Gradio's upload
)
_EXPOSED = ("X-Request-ID", "Retry-After")
_METHODS = ("GET", "POST", "PUT", "DELETE")
_BUG = Refusal(500, "internal_error", "Something went wrong in the server; its log says what.", "Try again.")
_NOTHING_HERE = Refusal(404, "not_found", "There is nothing at this address.", "Open the app's own page.")


class Gate:
    """ASGI middleware: finds out who asks, checks Host, Origin, rights and size, then passes to ``api`` or to ``app``.

    Without ``api`` everything goes to ``app``, under the API's rules. ``frame_ancestors`` are the sites that may show the
    page in a frame; ``max_body_bytes`` is for the API. Making one without an ``identity`` raises `ConfigError` when the
    configuration's logins cannot be signed.
    """

    def __init__(
        self,
        app: ASGIApp,
        api: ASGIApp | None = None,
        config: AppConfig | None = None,
        identity: Identity | None = None,
        frame_ancestors: str = "'self'",
        max_body_bytes: int = MAX_BODY_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        config = config or AppConfig()
        self._config = config
        self._app = app
        self._alone = api is None
        self._origins = Origins(config)
        self._identity = identity or Identity(config)
        login = Login(config, self._identity, home="/docs" if self._alone else "/")
        self._login = Limited(login.routes, MAX_FORM_BYTES, body_seconds)
        self._api = Limited(api or app, max_body_bytes, body_seconds)
        self._imports = Limited(api or app, MAX_IMPORT_BYTES, body_seconds)
        self._pages = Limited(app, MAX_PAGE_BODY_BYTES, body_seconds)
        self._policies = policy.for_pages(frame_ancestors), policy.for_login(frame_ancestors), policy.for_api()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request = journal.request_id(headers)
        entry = journal.Entry(scope, request, send)
        failed = True
        try:
            await self._enter(scope, receive, entry, headers, request)
            failed = False
        except HTTPException as error:
            if entry.has_begun:
                raise
            failed = False
            await self._tell(Refusal(error.status_code, "invalid_request", error.detail), scope, receive, entry)
        except Exception:
            if scope["type"] == "http" and not entry.has_begun:
                await self._tell(_BUG, scope, receive, entry)
            raise
        finally:
            entry.close(failed)

    async def _enter(
        self, scope: Scope, receive: Receive, entry: journal.Entry, headers: Headers, request: str
    ) -> None:
        """Find out who asks; then refuse, or pass on to the half of the house that the path belongs to."""
        path = scope["path"]
        login = is_login_path(path)
        api = not login and (self._alone or is_api_path(path))
        page = not (api or login) and wants_page(scope, headers)
        own = not is_cross_site(scope, headers)
        visit = self._identity.of(scope, headers, cookies_count=own, page=page)
        entry.caller = visit.caller
        scope["state"] = {
            **scope.get("state", {}),
            "caller": visit.caller,
            "request_id": request,
            "has_admin_key": bool(self._config.admin_key),
        }
        pages, logins, answers = self._policies
        send = _with_headers(answers if api else logins if login else pages, path, entry.send, scope, visit.new_guest)
        message, remedy = self._origins.refusal(scope, headers, api=api)
        if message:
            await Refusal(403, "refused", message, remedy).answer(scope, receive, send)
        elif login:
            await self._login(scope, receive, send)
        elif api:
            await self._with_cors(functools.partial(self._serve_api, visit))(scope, receive, send)
        else:
            await self._serve_pages(visit, scope, receive, send)

    async def _serve_api(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        closed = self._config.needs_key and scope["path"] not in OPEN
        if not closed or (_is_known(visit.caller) and not visit.wrong_key):
            takes_files = is_import_path(scope["path"])
            await (self._imports if takes_files else self._api)(scope, receive, send)
        elif self._config.needs_login and not visit.wrong_key and wants_page(scope, Headers(scope=scope)):
            await redirect(scope)(scope, receive, send)
        else:
            await self._wants_key(visit).answer(scope, receive, send)

    async def _serve_pages(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        closed = self._config.needs_login and scope["path"] not in OPEN
        if closed and not _is_known(visit.caller):
            if wants_page(scope, Headers(scope=scope)):
                await redirect(scope)(scope, receive, send)
            else:
                await self._wants_key(visit).answer(scope, receive, send)
        elif is_closed_path(scope["path"]) or (is_upload_path(scope["path"]) and self._config.is_shared):
            await _NOTHING_HERE.answer(scope, receive, send)
        elif scope["path"] == UPLOADS:
            await self._app(scope, receive, send)
        else:
            await self._pages(scope, receive, send)

    async def _tell(self, refusal: Refusal, scope: Scope, receive: Receive, entry: journal.Entry) -> None:
        """Answer in place of an application that did not."""
        await refusal.answer(scope, receive, _with_headers(self._policies[2], scope["path"], entry.send, scope))

    def _wants_key(self, visit: Visit) -> Refusal:
        if visit.wait:
            remedy = f"Try again in {in_words(visit.wait)}."
            headers = {"Retry-After": str(visit.wait)}
            return Refusal(429, "rate_limited", "Too many wrong keys came from this address.", remedy, headers)
        ways = ["send a key of this server as 'Authorization: Bearer KEY'"] if self._config.api_keys else []
        ways += ["sign in at /login"] if self._config.needs_login else []
        remedy = " or ".join(ways)
        message = (
            "This key is none of this server's." if visit.wrong_key else "This server answers only to people it knows."
        )
        challenge = {"WWW-Authenticate": "Bearer"}
        return Refusal(401, "invalid_api_key", message, f"{remedy[0].upper()}{remedy[1:]}.", challenge)

    def _with_cors(self, app: ASGIApp) -> ASGIApp:
        """``app``, which pages of the allowed origins may call: with a key of theirs, never with this browser's cookies."""
        if not self._config.allow_origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._config.allow_origins,
            allow_methods=_METHODS,
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=_EXPOSED,
        )


def _is_known(caller: Caller) -> bool:
    return caller.kind in ("key", "user")


def _with_headers(rules: policy.Policy, path: str, send: Send, scope: Scope, new_guest: str = "") -> Send:
    """``send``, with the policy's headers on every response, and a new guest's cookie."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            rules.put_on(headers, path)
            if new_guest and message["status"] < 300:
                cookie = cookies.made(cookies.GUEST, new_guest, cookies.GUEST_SECONDS, scope)
                headers.append("Set-Cookie", cookie)
                headers["Cache-Control"] = "no-store"
        await send(message)

    return send_with_headers
