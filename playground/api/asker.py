"""Who asks: the gate has found out, and says so in the request's scope; without a gate it is the address.

Only what a caller cannot make up counts, so that nobody gains turns by calling under many names: OpenAI's ``user`` is
whatever the caller writes and is left aside.
"""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

from playground.types import Caller

_ONE_HOUSEHOLD = 64  # bits: an IPv6 network of this size is one caller's, who may use any address in it


def caller_of(http: HTTPConnection) -> Caller:
    """Who has sent this request, or opened this WebSocket."""
    found = http.scope.get("state", {}).get("caller")
    if isinstance(found, Caller):
        return found
    address = household(http.client.host if http.client else "")
    return Caller(f"address {address}", "address", address=address)


def household(host: str) -> str:
    """``host`` as one caller: an IPv4 address, the /64 network of an IPv6 one, or the text itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    if address.version == 6:
        return str(ipaddress.ip_network((address, _ONE_HOUSEHOLD), strict=False))
    return str(address)
