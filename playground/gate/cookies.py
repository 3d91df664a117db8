"""The gate's two cookies: who has logged in, and which browser this is."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from playground.gate.origins import is_https

SESSION, GUEST = "playground_session", "playground_guest"
GUEST_SECONDS = 365 * 24 * 3600
_GUEST = re.compile(r"[A-Za-z0-9_-]{32}")
_GUEST_BYTES = 24


def name_for(kind: str, scope: Scope) -> str:
    """The cookie's name. Browsers share cookies between the ports of a machine, so that the port is part of it."""
    server = scope.get("server")
    return f"{kind}_{server[1]}" if server and server[1] else kind


def value_of(kind: str, scope: Scope, headers: Headers) -> str:
    """What the browser sent for this cookie; empty when nothing."""
    for header in headers.getlist("cookie"):
        found = cookie_parser(header).get(name_for(kind, scope))
        if found:
            return found
    return ""


def made(kind: str, value: str, seconds: int, scope: Scope) -> str:
    """A Set-Cookie header; ``seconds`` 0 takes the cookie away.

    Scripts cannot read it, and other sites' requests do not carry it. On a Space the page stands in a frame of the Hub's,
    where a browser sends only cookies that are marked for that, and keeps them apart for each outer site.
    """
    parts = [f"{name_for(kind, scope)}={value}", "HttpOnly", "Path=/", f"Max-Age={seconds}"]
    if os.environ.get("SPACE_ID"):
        return "; ".join([*parts, "SameSite=None", "Secure", "Partitioned"])
    return "; ".join([*parts, "SameSite=Lax", *(["Secure"] if is_https(scope) else [])])


def new_guest() -> str:
    """A browser's random number, which nobody can guess."""
    return secrets.token_urlsafe(_GUEST_BYTES)


def guest_id(value: str) -> str:
    """What the number is called outside of the cookie; empty when this is none of ours."""
    return hashlib.sha256(f"guest {value}".encode()).hexdigest()[:16] if _GUEST.fullmatch(value) else ""
