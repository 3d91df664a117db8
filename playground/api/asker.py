"""Whose turn it is: what tells the API's callers apart where their requests wait in line.

Only what a caller cannot make up counts, so that nobody gains turns by calling under many names: the address that the
request came from. A key proves nothing as long as this server hands out none, and OpenAI's ``user`` is whatever the
caller writes, so both are left aside. Neither is kept or logged.
"""

from __future__ import annotations

import ipaddress

from fastapi import Request

_ONE_HOUSEHOLD = 64  # bits: an IPv6 network of this size is one caller's, who may use any address in it


def asker(http: Request) -> str:
    """Who asks, as `GenerationRequest.user`."""
    host = http.client.host if http.client else ""
    return f"api {household(host)}"


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
