"""Who asks: the gate has found out, and says so in the request's scope; without a gate it is the address.

Only what a caller cannot make up counts, so that nobody gains turns by calling under many names: OpenAI's ``user`` is
whatever the caller writes and is left aside.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection

from playground.errors import NotPermitted
from playground.gate.addresses import household
from playground.types import Caller

__all__ = ["admin", "caller_of", "household"]


def caller_of(http: HTTPConnection) -> Caller:
    """Who has sent this request, or opened this WebSocket."""
    found = http.scope.get("state", {}).get("caller")
    if isinstance(found, Caller):
        return found
    address = household(http.client.host if http.client else "")
    return Caller(f"address {address}", "address", address=address)


def admin(http: HTTPConnection) -> Caller:
    """Who has sent this request, if they may load, swap and unload for everybody; a dependency of such routes.

    Raises `NotPermitted` when they may not, with what it takes.
    """
    caller = caller_of(http)
    if caller.admin:
        return caller
    message = "Loading, swapping and unloading models is for the administrator of this server."
    if http.scope.get("state", {}).get("has_admin_key"):
        raise NotPermitted(message, "Send its admin key as 'Authorization: Bearer KEY', or sign in as admin.")
    raise NotPermitted(message, "Whoever runs it can start it with --admin-key KEY, and that key may.")
