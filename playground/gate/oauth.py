"""Signing in with Hugging Face, on a Space: the authorization-code flow of OpenID Connect, with PKCE and state.

A Space names its provider and itself in the environment (OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET, OAUTH_SCOPES,
OPENID_PROVIDER_URL, SPACE_HOST). Only the account's name is taken from it: the access token is used for that one question
and dropped. What must be remembered while the person is at the provider lies in a signed cookie of ten minutes.
"""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from authlib.common.security import generate_token
from authlib.oauth2.client import OAuth2Client
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from playground.config import AppConfig, is_loopback
from playground.errors import PlaygroundError

log = logging.getLogger(__name__)

BEGIN, BACK = "/login/huggingface", "/login/callback"
COOKIE = "playground-sign-in"
PREFIX = "hf:"  # no password user's name holds a colon, so that the two never meet
AWAY_S = 600.0  # how long somebody may take at the provider
PATIENCE_S = 10.0  # for all that the provider is asked on one visit
DISCOVERED_S = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint")

Finish = Callable[[Request, str], Response]
Refused = Callable[[Request, str, int], Response]


class SignInFailed(PlaygroundError):
    """Nobody was signed in; ``status`` is the HTTP status that says so."""

    code = "sign_in_failed"

    def __init__(self, message: str, remedy: str = "Try again.", status: int = 400) -> None:
        super().__init__(message, remedy)
        self.status = status


@dataclass(frozen=True)
class Provider:
    """Who vouches for people, and what this Space is called there. ``hosts`` are the Space's own names, its first first."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: str = "openid profile"
    hosts: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Provider | None:
        """The provider that the environment names whole, else None."""
        url, client_id = environ.get("OPENID_PROVIDER_URL", "").rstrip("/"), environ.get("OAUTH_CLIENT_ID", "")
        secret = environ.get("OAUTH_CLIENT_SECRET", "")
        if not (client_id and secret and _is_safe(url)):
            return None
        hosts = tuple(host.strip() for host in environ.get("SPACE_HOST", "").split(",") if host.strip())
        return cls(url, client_id, secret, environ.get("OAUTH_SCOPES") or cls.scopes, hosts)


def available(config: AppConfig, environ: Mapping[str, str] = os.environ) -> bool:
    """True where signing in with Hugging Face leads anywhere.

    With accounts in ``oauth_users`` it is a way in. Where passwords or API keys close the server and no account is named it
    is none. Where nothing is closed it gives a visitor a name, for whoever wants one.
    """
    closed = bool(config.auth or config.api_keys)
    return Provider.from_environment(environ) is not None and bool(config.oauth_users or not closed)


def lets_in(config: AppConfig, account: str) -> bool:
    """True when the Hugging Face account ``account`` may sign in here. Capitals make no difference there."""
    if not config.oauth_users:
        return not (config.auth or config.api_keys)
    return "*" in config.oauth_users or account.lower() in map(str.lower, config.oauth_users)


def routes(config: AppConfig, finish: Finish, refused: Refused, patience_s: float = PATIENCE_S) -> list[Route]:
    """The way to the provider and the way back; nothing where signing in is not `available`.

    ``finish(request, name)`` answers to somebody who has signed in as ``name``, with a session in a cookie and a redirect;
    a path that was wanted beforehand takes the place of where that leads. ``refused(request, sentence, status)`` shows why
    nobody was signed in.
    """
    provider = Provider.from_environment()
    if provider is None or not available(config):
        return []
    door = HuggingFace(config, provider, finish, refused, patience_s)
    return [Route(BEGIN, door.begin, methods=["GET"]), Route(BACK, door.back, methods=["GET"])]


class HuggingFace:
    """The two routes of the flow. Each state is good for one way back."""

    def __init__(
        self, config: AppConfig, provider: Provider, finish: Finish, refused: Refused, patience_s: float
    ) -> None:
        self._config = config
        self._provider = provider
        self._finish = finish
        self._refused = refused
        self._patience_s = patience_s
        self._signed = URLSafeTimedSerializer(provider.client_secret, salt="adapter-playground sign-in")
        self._discovered: tuple[float, dict[str, str]] = (float("-inf"), {})
        self._used: dict[str, float] = {}

    async def begin(self, request: Request) -> Response:
        """Send the browser to the provider, remembering where it wants to be afterwards."""
        wanted = safe_path(request.query_params.get("next", ""))
        if self._is_other_name(request):  # the provider sends people back to the first name: the cookie must be there
            again = f"https://{self._provider.hosts[0]}{BEGIN}?{urlencode({'next': wanted})}"
            return _unstored(RedirectResponse(again, 303))
        try:
            async with self._asking() as http:
                endpoints = await self._endpoints(http)
        except SignInFailed as error:
            return self._say(request, error)
        return _unstored(self._sent_away(request, wanted, endpoints["authorization_endpoint"]))

    async def back(self, request: Request) -> Response:
        """Take in who comes back from the provider."""
        try:
            kept = self._kept(request)
            code = _code(request)
            account = await self._account(code, kept["verifier"], self._redirect_uri(request))
            if not lets_in(self._config, account):
                raise SignInFailed(
                    f"The Hugging Face account {account} is not among those that this server lets in.",
                    "Ask whoever runs it, or sign in with another account.",
                    403,
                )
        except SignInFailed as error:
            return self._say(request, error)
        response = self._finish(request, PREFIX + account)
        if kept["next"] != "/":
            response.headers["location"] = kept["next"]
        return self._forgets(request, _unstored(response))

    def _sent_away(self, request: Request, wanted: str, endpoint: str) -> Response:
        state, verifier = generate_token(32), generate_token(64)
        redirect_uri = self._redirect_uri(request)
        client = OAuth2Client(
            None, self._provider.client_id, scope=self._provider.scopes, redirect_uri=redirect_uri,
            code_challenge_method="S256",
        )  # fmt: skip
        url, _ = client.create_authorization_url(endpoint, state=state, code_verifier=verifier)
        response = RedirectResponse(url, 303)
        kept = self._signed.dumps({"state": state, "verifier": verifier, "next": wanted})
        response.set_cookie(COOKIE, str(kept), max_age=int(AWAY_S), **self._cookie(request))
        return response

    def _kept(self, request: Request) -> dict[str, str]:
        """What the cookie remembers, if it belongs to this way back and to no earlier one."""
        try:
            kept: dict[str, str] = self._signed.loads(request.cookies.get(COOKIE, ""), max_age=int(AWAY_S))
        except BadData as error:
            raise SignInFailed("This sign-in was begun too long ago, or in another browser.") from error
        state = request.query_params.get("state", "")
        if not hmac.compare_digest(state.encode(), kept["state"].encode()) or not self._is_first_use(state):
            raise SignInFailed("This answer from Hugging Face belongs to another sign-in, or was used already.")
        return kept

    def _is_first_use(self, state: str) -> bool:
        """Remembered until the cookie that could bring it again has run out."""
        now = time.monotonic()
        while self._used and next(iter(self._used.values())) <= now:  # the oldest come first
            del self._used[next(iter(self._used))]
        if state in self._used:
            return False
        self._used[state] = now + AWAY_S
        return True

    async def _account(self, code: str, verifier: str, redirect_uri: str) -> str:
        """The name of the account for which the provider gave ``code``. The token lives no longer than this call."""
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=verifier,
            client_id=self._provider.client_id,
        )  # fmt: skip
        async with self._asking() as http:
            endpoints = await self._endpoints(http)
            answer = await http.post(
                endpoints["token_endpoint"],
                content=body,
                headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
                auth=(self._provider.client_id, self._provider.client_secret),
            )
            if answer.status_code in (400, 401):  # the code was used, has run out, or belongs to somebody else
                log.warning("the sign-in provider refused a code: HTTP %s", answer.status_code)
                raise SignInFailed("Hugging Face did not accept this sign-in; it may have been used already.")
            bearer = {"Authorization": f"Bearer {_text(_object(answer), 'access_token')}"}
            told = _object(await http.get(endpoints["userinfo_endpoint"], headers=bearer))
        account = _text(told, "preferred_username")
        if not _NAME.fullmatch(account):
            raise _unusable("a name that is none")
        return account

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for the provider; all that is asked within takes ``patience_s`` at most, however slowly it trickles."""
        try:
            async with (
                asyncio.timeout(self._patience_s),
                httpx.AsyncClient(timeout=self._patience_s, verify=_trusted()) as http,
            ):
                yield http
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("the sign-in provider cannot be asked: %s", type(error).__name__)
            raise SignInFailed("Hugging Face does not answer.", "Try again in a minute.", 502) from error

    async def _endpoints(self, http: httpx.AsyncClient) -> dict[str, str]:
        """Where the provider wants to be asked what, as it says itself; asked once an hour."""
        until, endpoints = self._discovered
        if time.monotonic() < until:
            return endpoints
        told = _object(await http.get(f"{self._provider.url}/.well-known/openid-configuration"))
        endpoints = {name: _text(told, name) for name in _ENDPOINTS}
        if not all(map(_is_safe, endpoints.values())):
            raise _unusable("addresses without https")
        self._discovered = (time.monotonic() + DISCOVERED_S, endpoints)
        return endpoints

    def _is_other_name(self, request: Request) -> bool:
        """True on another name of the Space than its first, such as a domain of one's own."""
        return request.headers.get("host", "").lower() in map(str.lower, self._provider.hosts[1:])

    def _redirect_uri(self, request: Request) -> str:
        """Where the provider sends people back to: on a Space always its own name, under which it is known there."""
        if self._provider.hosts:
            return f"https://{self._provider.hosts[0]}{BACK}"
        return f"{str(request.base_url).rstrip('/')}{BACK}"

    def _cookie(self, request: Request) -> dict[str, Any]:
        """Sent back from the provider's page, which is another site's: Lax allows that for following a link."""
        secure = self._redirect_uri(request).startswith("https:")
        return {"path": "/login", "httponly": True, "samesite": "lax", "secure": secure}

    def _forgets(self, request: Request, response: Response) -> Response:
        response.delete_cookie(COOKIE, **self._cookie(request))
        return response

    def _say(self, request: Request, error: SignInFailed) -> Response:
        return self._forgets(request, _unstored(self._refused(request, str(error), error.status)))


def safe_path(wanted: str) -> str:
    """``wanted`` where it is a path of this site, else "/".

    Browsers take a backslash for a slash and leave out tabs and line breaks, so that what looks like a path may name
    another host.
    """
    if not wanted.startswith("/") or wanted.startswith("//") or not wanted.isprintable() or "\\" in wanted:
        return "/"
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else wanted


def _code(request: Request) -> str:
    """The code that came back. What the provider, or whoever made this link, says beside it is not repeated."""
    if error := request.query_params.get("error"):
        if error == "access_denied":
            raise SignInFailed("You did not allow it at Hugging Face, so you are not signed in.", status=403)
        raise SignInFailed("Hugging Face could not sign you in.")
    code = request.query_params.get("code", "")
    if not code:
        raise SignInFailed("Hugging Face sent nothing to sign in with.")
    return code


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The machine's certificates, read once: it takes tens of milliseconds, in which nobody else is answered."""
    return httpx.create_ssl_context()


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json() if answer.status_code == 200 else None
    except ValueError as error:
        raise _unusable("no JSON") from error
    if not isinstance(found, dict):
        raise _unusable(f"HTTP {answer.status_code}")
    return found


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not value:
        raise _unusable(f"no {key}")
    return value


def _unusable(what: str) -> SignInFailed:
    """An answer that nobody can be signed in with; ``what`` it was goes to the log, and never holds a value of it."""
    log.warning("the sign-in provider's answer cannot be used: %s", what)
    return SignInFailed("Hugging Face gave an answer that cannot be used.", "Try again in a minute.", 502)


def _is_safe(url: str) -> bool:
    """True for https, and for plain http on this machine."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        )
    except ValueError:
        return False


def _unstored(response: Response) -> Response:
    response.headers["cache-control"] = "no-store"
    return response
