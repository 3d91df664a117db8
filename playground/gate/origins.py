"""Under which names the server is asked, and from whose pages: the Host and Origin rules."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from playground.config import AppConfig, is_loopback

_DEFAULT_PORTS = {"http": 80, "https": 443}
_EVERY_ADDRESS = ("0.0.0.0", "::")
_OTHER_SITES = ("cross-site", "same-site")  # the latter: another port or subdomain, which is not this app either
Site = tuple[str, str, int]


class Origins:
    """Who may ask by which name.

    Bound to loopback the server answers only to loopback names, so that a foreign name which resolves to this machine
    (DNS rebinding) reaches nothing; bound to the network any name comes in, unless the operator names the right ones.
    Pages of other sites reach nothing, except the API where the operator allows their origin.
    """

    def __init__(self, config: AppConfig) -> None:
        on_space = os.environ.get("SPACE_HOST", "").split(",") if os.environ.get("SPACE_ID") else []
        named = {name.strip() for name in (*config.allow_hosts, *on_space) if name.strip()}
        self._any_address = bool(on_space)  # the Hub asks for a sign of life by the container's own address
        self._only_here = is_loopback(config.host)
        self._any_host = not self._only_here and not config.allow_hosts
        self._hosts = {hostname(name) or name.lower() for name in named}
        if config.host.strip("[]") not in _EVERY_ADDRESS:
            self._hosts.add(config.host.strip("[]").lower())
        self._allowed = {site for origin in config.allow_origins if (site := site_of(origin))}

    def refusal(self, scope: Scope, headers: Headers, *, api: bool) -> tuple[str, str]:
        """Why this request may not come in, and what to do about it; empty when it may."""
        host = headers.get("host", "")
        if self._only_here and _is_outside(scope):
            return (
                "This server is configured for this machine alone, but listens to others.",
                "Set PLAYGROUND_HOST to the address that it is started with, so that what is for others is kept to.",
            )
        if len(headers.getlist("host")) > 1 or not self._is_answered(host):
            return (
                f"This server answers only to localhost{self._and_named()}, not to {host[:120]!r}.",
                "Start it with --host (or PLAYGROUND_HOST) to let other machines in; PLAYGROUND_ALLOW_HOST names hosts.",
            )
        if is_cross_site(scope, headers) and not (api and self.is_allowed(headers)):
            return (
                "This request comes from another site's page, and those are not let in.",
                "Open the app's own address.",
            )
        return "", ""

    def is_allowed(self, headers: Headers) -> bool:
        """True when the Origin is one whose pages may call the API."""
        site = site_of(headers.get("origin", ""))
        return site is not None and site in self._allowed

    def _is_answered(self, host: str) -> bool:
        name = hostname(host)
        known = is_loopback(name) or (name != "" and name in self._hosts)
        return known or self._any_host or (self._any_address and _is_address(name))

    def _and_named(self) -> str:
        others = sorted(name for name in self._hosts if not is_loopback(name))
        return "".join(f", {name}" for name in others)


def is_cross_site(scope: Scope, headers: Headers) -> bool:
    """True when a browser says that another site's page sent this; following a link to the app is allowed.

    A page's own requests carry an Origin equal to the Host. Programs that are not browsers send neither header.
    """
    origins = headers.getlist("origin")
    if origins:
        return len(origins) > 1 or not is_own(origins[0], headers.get("host", ""), is_https(scope))
    followed = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") in ("GET", "HEAD")
    return headers.get("sec-fetch-site") in _OTHER_SITES and not followed


def is_own(origin: str, host: str, https: bool) -> bool:
    """True when ``origin`` is the site that ``host`` names.

    A page that came by http is not the same site as a server that is reached by https. The other way round is a proxy in
    front that speaks https and does not say so.
    """
    theirs = site_of(origin)
    if theirs is None or (https and theirs[0] == "http"):
        return False
    return theirs == site_of(f"{theirs[0]}://{host}")


def is_https(scope: Scope) -> bool:
    """True when the browser reached the server by https, as the server or a proxy that it trusts says."""
    return scope.get("scheme") in ("https", "wss") or bool(os.environ.get("SPACE_ID"))


def site_of(origin: str) -> Site | None:
    """(scheme, name, port) of an Origin; None for what is none, "null" included."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    if parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def _is_outside(scope: Scope) -> bool:
    """True when the request came to another address of this machine than loopback's, as the socket says."""
    server = scope.get("server")
    try:
        address = ipaddress.ip_address(str(server[0]) if server else "")
    except ValueError:  # a name, or a socket that is a file
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def hostname(host: str) -> str:
    """The name in a Host header, without its port; empty when it cannot be read."""
    site = site_of(f"http://{host}")
    return site[1] if site else ""
