"""Where a request comes from: whose address it is, and whether that is this machine itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import Scope

from playground.config import is_loopback

_ONE_HOUSEHOLD = 64  # bits: an IPv6 network of this size is one caller's, who may use any address in it
_RELAYED = ("forwarded", "via", "x-real-ip", "x-forwarded-", "x-client-ip", "true-client-ip", "cf-", "cdn-loop")


def household(host: str) -> str:
    """``host`` as one caller: an IPv4 address, the /64 network of an IPv6 one, or the text itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    if address.version == 6 and not address.is_loopback:
        return str(ipaddress.ip_network((address, _ONE_HOUSEHOLD), strict=False))
    return str(address)


def address_of(scope: Scope, headers: Headers, on_space: bool) -> str:
    """The household that sent this.

    Elsewhere the server itself reads X-Forwarded-For, from proxies that it trusts (FORWARDED_ALLOW_IPS); a Space is
    reached through the Hub's proxies only, so that there the last public address of that header is the visitor's.
    """
    client = scope.get("client")
    host = str(client[0]) if client else ""
    if on_space:
        host = _last_public(",".join(headers.getlist("x-forwarded-for")).split(",")) or host
    return household(host)


def is_here(scope: Scope, headers: Headers) -> bool:
    """True when a program or browser of this very machine sent this, and nobody has passed it on.

    HTTP/1.0 is spoken by no browser, but by a proxy that says nothing of whom it speaks for (nginx does, unless told).
    """
    client = scope.get("client")
    if client is None or not is_loopback(str(client[0])) or scope.get("http_version") == "1.0":
        return False
    return not any(name.startswith(_RELAYED) for name in headers)


def _last_public(hosts: Iterable[str]) -> str:
    for host in reversed([host.strip() for host in hosts]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            continue
        if address.is_global:
            return host
    return ""
